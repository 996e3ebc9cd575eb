//! Host names as clients see them.

use api::{
    internal::{AcmeService, DnsSeen, IssueError},
    public::certificates::{
        Certificate, CertificateDetail, CertificateSummary, CertificateValidation, DnsRecords, IssuedCertificate,
        ValidationError,
    },
};
use kit::clock::{rfc3339, unix_ms};

use crate::{
    Control,
    error::Error,
    store::hostnames::{self, CertificateRow, Failure, NameRow, Source},
};

impl Control {
    /// A host name with all that is known of it.
    pub(super) async fn show_certificate(&self, name: &NameRow) -> Result<Certificate, Error> {
        let certificates = hostnames::certificates(self.store.reader(), name.id).await?;
        let ordered = certificates.iter().find(|it| it.source == Source::Acme.as_str() && name.acme);
        let renews_at = ordered.and_then(|certificate| certificate.renew_at).map(|at| rfc3339(at.unsigned_abs()));
        let (claim, seen) = (self.claim(name), name.seen());
        let says = |of: &dyn Fn(&DnsSeen) -> bool| seen.as_ref().is_some_and(of);
        let (leads_here, is_wildcard) = (says(&|seen| claim.leads_here(seen)), name.hostname.is_wildcard());
        let is_off = name.acme && ordered.is_none() && self.ports.certifier.service() == AcmeService::Off;
        let failure = name.failure().or_else(|| is_off.then(|| Failure::of(&IssueError::Off, unix_ms())));
        let rate_limited_until = failure.as_ref().and_then(|failure| failure.rate_limited_until);
        let failure = failure.map(|failure| ValidationError {
            code: failure.code,
            message: failure.message,
            remediation: failure.remedy,
            timestamp: rfc3339(failure.at),
        });
        Ok(Certificate {
            hostname: name.hostname.to_string(),
            status: status(name, &certificates).into(),
            configured: status(name, &certificates) == ACTIVE,
            acme_requested: name.acme,
            rate_limited_until: rate_limited_until.map(rfc3339),
            certificates: certificates.iter().map(|certificate| detail(name, certificate)).collect(),
            validation: CertificateValidation {
                dns_configured: leads_here || says(&|seen| claim.has_acme_alias(seen)),
                alpn_configured: leads_here && !is_wildcard,
                http_configured: leads_here && !is_wildcard,
                ownership_txt_configured: says(&|seen| claim.has_text(seen)),
            },
            validation_errors: failure.into_iter().collect(),
            dns_requirements: claim.requirements(),
            dns_records: seen.zip(name.checked_at).map(|(seen, at)| records(seen, at.unsigned_abs())),
            renews_at,
            created_at: rfc3339(name.created_at),
        })
    }
}

/// A host name in a list.
pub(super) fn summary(name: &NameRow, certificates: &[CertificateRow]) -> CertificateSummary {
    let has = |source: Source| certificates.iter().any(|certificate| certificate.source == source.as_str());
    let status = status(name, certificates);
    CertificateSummary {
        hostname: name.hostname.to_string(),
        status: status.into(),
        configured: status == ACTIVE,
        acme_requested: name.acme,
        has_custom_certificate: has(Source::Custom),
        has_acme_certificate: has(Source::Acme),
        created_at: rfc3339(name.created_at),
    }
}

const ACTIVE: &str = "active";
const PENDING_OWNERSHIP: &str = "pending_ownership";
const EXPIRED: &str = "expired";

fn status(name: &NameRow, certificates: &[CertificateRow]) -> &'static str {
    let now = unix_ms();
    if name.proven_at.is_none() {
        PENDING_OWNERSHIP
    } else if certificates.iter().any(|certificate| certificate.not_after > now) {
        ACTIVE
    } else if certificates.is_empty() {
        "pending_validation"
    } else {
        EXPIRED
    }
}

fn detail(name: &NameRow, certificate: &CertificateRow) -> CertificateDetail {
    let status = match () {
        () if certificate.not_after <= unix_ms() => EXPIRED,
        () if name.proven_at.is_none() => PENDING_OWNERSHIP,
        () => ACTIVE,
    };
    let expires_at = rfc3339(certificate.not_after);
    CertificateDetail {
        source: certificate.source.clone(),
        status: status.into(),
        expires_at: expires_at.clone(),
        issuer: certificate.issuer.clone(),
        created_at: rfc3339(certificate.created_at),
        issued: vec![IssuedCertificate {
            kind: certificate.key_kind.clone(),
            expires_at,
            certificate_authority: certificate.issuer.clone(),
        }],
    }
}

fn records(seen: DnsSeen, at: u64) -> DnsRecords {
    let (a, aaaa) = (texts(&seen.a), texts(&seen.aaaa));
    DnsRecords {
        resolved_addresses: a.iter().chain(&aaaa).cloned().collect(),
        a,
        aaaa,
        cname: seen.cname,
        acme_challenge_cname: seen.acme_cname,
        ownership_txt: (!seen.ownership_txt.is_empty()).then(|| seen.ownership_txt.join(";")),
        errors: seen.errors,
        checked_at: rfc3339(at),
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
