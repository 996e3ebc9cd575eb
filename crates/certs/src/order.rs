//! An order, from its beginning to the certificate (RFC 8555, 7.1.6).
//!
//! ```text
//!  new order ─▶ each authorization: choose a method ─▶ present ─▶ ready ─▶ [the server looks] ─▶ finalize ─▶ chain
//!                       ▲                                            │
//!                       └── the next method, in a new order ◀── invalid, withdrawn
//! ```
//!
//! A server looks at most once for each authorization, so a method that fails ends its order; the next method begins
//! another one. TLS-ALPN-01 comes first, HTTP-01 second, DNS-01 where the edge cannot be reached or the name is a
//! wildcard.

use std::{sync::Arc, time::Duration};

use api::internal::{CertificateOrder, ChallengeAnswer, ChallengeDoor, IssueError, IssuedCertificate};
use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, KeyAuthorization, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use model::{Hostname, Timestamp};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{sync::Mutex, time::timeout};

use crate::{AcmeOptions, TransportError, account::Account, hook::DnsHook, problem, transport::Transport};

/// How long the server may take to look, and to sign.
const SERVER: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(200)).backoff(1.5).timeout(Duration::from_secs(120));
/// How long an order may take with everything, a slow hook included.
const DEADLINE: Duration = Duration::from_secs(900);

/// Orders certificates from one issuer.
pub struct Orders {
    account: Account,
    /// Opened once; the lock is also what keeps two first orders from registering twice.
    opened: Mutex<Option<instant_acme::Account>>,
    transport: Transport,
    hook: Option<DnsHook>,
    door: Arc<dyn ChallengeDoor>,
}

/// How a name is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    TlsAlpn,
    Http,
    Dns,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn => "tls-alpn-01",
            Self::Http => "http-01",
            Self::Dns => "dns-01",
        }
    }

    fn challenge(self) -> ChallengeType {
        match self {
            Self::TlsAlpn => ChallengeType::TlsAlpn01,
            Self::Http => ChallengeType::Http01,
            Self::Dns => ChallengeType::Dns01,
        }
    }
}

/// The methods that can prove a name, the preferred one first; or why there is none.
fn methods(hostname: &Hostname, reaches_edge: bool, has_hook: bool) -> Result<Vec<Method>, &'static str> {
    match (hostname.is_wildcard(), reaches_edge, has_hook) {
        (true, _, true) => Ok(vec![Method::Dns]),
        (true, _, false) => Err("a wildcard is proven by DNS alone, and there is no DNS hook"),
        (false, true, true) => Ok(vec![Method::TlsAlpn, Method::Http, Method::Dns]),
        (false, true, false) => Ok(vec![Method::TlsAlpn, Method::Http]),
        (false, false, true) => Ok(vec![Method::Dns]),
        (false, false, false) => Err("its addresses do not lead to this platform, and there is no DNS hook"),
    }
}

impl Orders {
    /// Prepares for orders; no server is asked yet.
    pub fn open(options: AcmeOptions, door: Arc<dyn ChallengeDoor>) -> Result<Self, TransportError> {
        let transport = Transport::new(options.ca.as_deref())?;
        let hook = options.dns_hook.as_deref().map(DnsHook::new);
        let account = Account::new(&options.accounts, options.directory, &options.email, options.sealing_key);
        Ok(Self { account, opened: Mutex::default(), transport, hook, door })
    }

    /// Whether names can be proven by DNS.
    pub fn by_dns(&self) -> bool {
        self.hook.is_some()
    }

    /// Orders a certificate and waits for it.
    pub async fn issue(&self, wanted: &CertificateOrder) -> Result<IssuedCertificate, IssueError> {
        let issued = timeout(DEADLINE, self.issue_by_any_method(wanted)).await;
        issued.unwrap_or_else(|_| Err(IssueError::Unavailable("the order took too long".into())))
    }

    async fn issue_by_any_method(&self, wanted: &CertificateOrder) -> Result<IssuedCertificate, IssueError> {
        let methods = methods(&wanted.hostname, wanted.reaches_edge, self.by_dns());
        let methods =
            methods.map_err(|reason| IssueError::NoMethod { hostname: wanted.hostname.to_string(), reason })?;
        let mut first_failure = None;
        for method in methods {
            match self.issue_by(wanted, method).await {
                // The server looked and found nothing: perhaps it finds the next proof.
                Err(failure @ IssueError::Validation { .. }) => drop(first_failure.get_or_insert(failure)),
                done => return done,
            }
        }
        Err(first_failure.unwrap_or(IssueError::Off))
    }

    async fn account(&self) -> Result<instant_acme::Account, IssueError> {
        let mut opened = self.opened.lock().await;
        if opened.is_none() {
            *opened = Some(self.account.open(&self.transport).await?);
        }
        opened.clone().ok_or(IssueError::Off)
    }

    /// The account to go on with where the server does not know `unknown` any more: a new one, unless another order
    /// has made that already.
    async fn account_after(&self, unknown: &instant_acme::Account) -> Result<instant_acme::Account, IssueError> {
        let mut opened = self.opened.lock().await;
        if opened.as_ref().is_some_and(|opened| opened.id() == unknown.id()) {
            self.account.forget();
            *opened = None;
        }
        drop(opened);
        self.account().await
    }

    async fn issue_by(&self, wanted: &CertificateOrder, method: Method) -> Result<IssuedCertificate, IssueError> {
        let account = self.account().await?;
        let mut order = match self.begin(&account, wanted).await {
            Err(instant_acme::Error::Api(problem)) if is_account_unknown(&problem) => {
                self.begin(&self.account_after(&account).await?, wanted).await
            }
            begun => begun,
        }
        .map_err(|error| self.meaning(error, None))?;
        let answers = self.answer_challenges(&mut order, wanted, method).await;
        let issued = match &answers.outcome {
            Ok(()) => self.finish(&mut order, method).await,
            Err(error) => Err(error.clone()),
        };
        answers.withdraw().await;
        issued
    }

    /// Begins an order, as the successor of the certificate that it is to replace where the server wants to know.
    async fn begin(
        &self,
        account: &instant_acme::Account,
        wanted: &CertificateOrder,
    ) -> Result<Order, instant_acme::Error> {
        let identifiers = [Identifier::Dns(wanted.hostname.to_string())];
        if let Some(id) = wanted.replaces.as_deref().and_then(identifier)
            && let Ok(order) = account.new_order(&NewOrder::new(&identifiers).replaces(id)).await
        {
            return Ok(order);
        }
        account.new_order(&NewOrder::new(&identifiers)).await
    }

    /// Proves every name of the order that is not proven yet. What was presented is told also if it then fails.
    async fn answer_challenges<'a>(
        &'a self,
        order: &mut Order,
        wanted: &'a CertificateOrder,
        method: Method,
    ) -> Presented<'a> {
        let mut presented =
            Presented { orders: self, wanted, answers: Vec::new(), records: Vec::new(), outcome: Ok(()) };
        presented.outcome = self.answer_all(order, method, &mut presented).await;
        presented
    }

    async fn answer_all(
        &self,
        order: &mut Order,
        method: Method,
        presented: &mut Presented<'_>,
    ) -> Result<(), IssueError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.meaning(error, None))?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => return Err(IssueError::Refused(format!("an authorization is {status:?} already"))),
            }
            let Some(mut challenge) = authorization.challenge(method.challenge()) else {
                let reason = "the issuer does not offer this kind of proof".into();
                return Err(IssueError::Validation { method: method.name(), reason });
            };
            presented.present(method, &challenge.token, &challenge.key_authorization()).await?;
            challenge.set_ready().await.map_err(|error| self.meaning(error, Some(method)))?;
        }
        Ok(())
    }

    /// Waits until the server has looked, and takes the certificate.
    async fn finish(&self, order: &mut Order, method: Method) -> Result<IssuedCertificate, IssueError> {
        let status = order.poll_ready(&SERVER).await.map_err(|error| self.meaning(error, Some(method)))?;
        if status == OrderStatus::Invalid {
            return Err(self.why_invalid(order, method).await);
        }
        // Makes a key (ECDSA P-256) and the request for it.
        let key_pem = order.finalize().await.map_err(|error| self.meaning(error, None))?;
        let chain_pem = order.poll_certificate(&SERVER).await.map_err(|error| self.meaning(error, None))?;
        Ok(IssuedCertificate { chain_pem, key_pem })
    }

    /// What the server found wrong.
    async fn why_invalid(&self, order: &mut Order, method: Method) -> IssueError {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else { continue };
            let failed = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
            if let Some(failed) = failed {
                return problem::of_problem(failed, Some(method.name()), self.transport.retry_after());
            }
        }
        IssueError::Validation { method: method.name(), reason: "the issuer does not say why".into() }
    }

    /// When the issuer would like to see a certificate renewed.
    pub async fn renewal_window(&self, chain_pem: &str) -> Option<(Timestamp, Timestamp)> {
        let id = identifier(chain_pem)?;
        let account = self.account().await.ok()?;
        let (info, _) = timeout(DEADLINE, account.renewal_info(&id)).await.ok()?.ok()?;
        let moment = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
        let window = info.suggested_window;
        Some((moment(window.start.unix_timestamp()), moment(window.end.unix_timestamp())))
    }

    fn meaning(&self, error: instant_acme::Error, method: Option<Method>) -> IssueError {
        problem::meaning(error, method.map(Method::name), self.transport.retry_after())
    }
}

fn is_account_unknown(problem: &instant_acme::Problem) -> bool {
    problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":accountDoesNotExist"))
}

/// What a renewal names its predecessor by (RFC 9773, 4.1).
fn identifier(chain_pem: &str) -> Option<CertificateIdentifier<'static>> {
    let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes()).ok()?;
    CertificateIdentifier::try_from(&leaf).ok().map(CertificateIdentifier::into_owned)
}

/// Answers that stand until they are withdrawn. Dropped half-way, those at the edge go too.
struct Presented<'a> {
    orders: &'a Orders,
    wanted: &'a CertificateOrder,
    answers: Vec<ChallengeAnswer>,
    /// Texts of DNS records.
    records: Vec<String>,
    outcome: Result<(), IssueError>,
}

impl Presented<'_> {
    async fn present(&mut self, method: Method, token: &str, key: &KeyAuthorization) -> Result<(), IssueError> {
        let hostname = self.wanted.hostname.clone();
        let answer = match method {
            Method::Dns => return self.present_record(key.dns_value()).await,
            Method::Http => {
                ChallengeAnswer::Http { hostname, token: token.to_owned(), key_authorization: key.as_str().to_owned() }
            }
            Method::TlsAlpn => {
                let digest = key.digest().as_ref().try_into();
                let digest = digest.map_err(|_| IssueError::Unavailable("a digest has another length".into()))?;
                ChallengeAnswer::TlsAlpn { hostname, digest }
            }
        };
        self.orders.door.present(&answer).map_err(IssueError::Unavailable)?;
        self.answers.push(answer);
        self.orders.door.settled().await;
        Ok(())
    }

    async fn present_record(&mut self, text: String) -> Result<(), IssueError> {
        let Some(hook) = &self.orders.hook else { return Err(IssueError::Off) };
        self.records.push(text.clone());
        let set = hook.present(&self.wanted.acme_record, &text, &self.wanted.hostname).await;
        set.map_err(|error| IssueError::Unavailable(error.to_string()))
    }

    async fn withdraw(mut self) {
        for text in std::mem::take(&mut self.records) {
            let Some(hook) = &self.orders.hook else { return };
            if let Err(error) = hook.clean_up(&self.wanted.acme_record, &text, &self.wanted.hostname).await {
                tracing::warn!(hostname = %self.wanted.hostname, "a DNS record stays behind: {error}");
            }
        }
    }
}

impl Drop for Presented<'_> {
    fn drop(&mut self) {
        for answer in &self.answers {
            self.orders.door.withdraw(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_proves_what_leads_to_it_and_dns_the_rest() {
        let name = |text: &str| text.parse::<Hostname>().unwrap();
        let (single, wildcard) = (name("shop.example.com"), name("*.example.com"));
        assert_eq!(methods(&single, true, false).unwrap(), [Method::TlsAlpn, Method::Http]);
        assert_eq!(methods(&single, false, true).unwrap(), [Method::Dns]);
        assert_eq!(methods(&wildcard, true, true).unwrap(), [Method::Dns]);
        assert!(methods(&single, false, false).unwrap_err().contains("do not lead"));
        assert!(methods(&wildcard, true, false).unwrap_err().contains("wildcard"));
    }
}
