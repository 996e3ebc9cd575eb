//! What an ACME server's refusal means (RFC 8555, 6.7). Pure.

use api::internal::IssueError;
use instant_acme::{Error, Problem};
use jiff::{Timestamp as Moment, fmt::strtime};
use model::Timestamp;

/// Longest text of an issuer that is kept.
const MAX_TEXT: usize = 500;
/// The name space of ACME's error types.
const NAME_SPACE: &str = "urn:ietf:params:acme:error:";

/// What an error of the protocol means; `retry_after` is what the server last said in that header field.
pub fn meaning(error: Error, method: Option<&'static str>, retry_after: Option<Timestamp>) -> IssueError {
    match error {
        Error::Api(problem) => of_problem(&problem, method, retry_after),
        Error::Timeout(_) => IssueError::Unavailable("it did not come to an end in time".into()),
        error => IssueError::Unavailable(short(&kit::report::Report(&error).to_string())),
    }
}

/// What a problem document means.
pub fn of_problem(problem: &Problem, method: Option<&'static str>, retry_after: Option<Timestamp>) -> IssueError {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.strip_prefix(NAME_SPACE).unwrap_or(kind);
    let reason = words(problem);
    match (kind, method) {
        ("rateLimited", _) => {
            let until = retry_after_in(&reason).or(retry_after);
            IssueError::RateLimited { reason, until }
        }
        ("serverInternal" | "badNonce", _) => IssueError::Unavailable(reason),
        ("connection" | "dns" | "incorrectResponse" | "tls" | "unauthorized" | "caa" | "malformed", Some(method)) => {
            IssueError::Validation { method, reason }
        }
        _ if problem.status == Some(503) => IssueError::Unavailable(reason),
        _ => IssueError::Refused(reason),
    }
}

/// A problem in its own words, its parts included.
fn words(problem: &Problem) -> String {
    let mut text =
        problem.detail.clone().or_else(|| problem.r#type.clone()).unwrap_or_else(|| "no reason given".into());
    for part in &problem.subproblems {
        text.push_str("; ");
        text.push_str(&part.to_string());
    }
    short(&text)
}

/// A foreign text as it may be shown: bounded, without what moves a cursor.
pub fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}

/// The moment in `…, retry after 2026-11-24 03:04:05 UTC: see …`, as Boulder words its limits.
pub fn retry_after_in(text: &str) -> Option<Timestamp> {
    const MARK: &str = "retry after ";
    let start = text.find(MARK)? + MARK.len();
    let rest = text.get(start..)?;
    // Older servers write `2026-11-24T03:04:05Z`.
    let moment: Moment = match rest.get(..20).and_then(|text| text.parse().ok()) {
        Some(moment) => moment,
        None => {
            let civil = strtime::parse("%Y-%m-%d %H:%M:%S", rest.get(..19)?).ok()?.to_datetime().ok()?;
            civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()
        }
    };
    u64::try_from(moment.as_millisecond()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        let json = serde_json::json!({ "type": format!("{NAME_SPACE}{kind}"), "detail": detail, "status": 400 });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_limit_tells_until_when() {
        let detail = "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, \
                      retry after 2026-11-24 03:04:05 UTC: see https://letsencrypt.org/docs/rate-limits/";
        let error = of_problem(&problem("rateLimited", detail), None, Some(Timestamp(1)));
        let IssueError::RateLimited { until: Some(until), .. } = error else { panic!("{error}") };
        assert_eq!(kit::clock::rfc3339(until.0), "2026-11-24T03:04:05.000Z");
        assert_eq!(retry_after_in("retry after 2026-11-24T03:04:05Z"), Some(until));
        let silent = of_problem(&problem("rateLimited", "slow down"), None, Some(Timestamp(7)));
        assert!(matches!(silent, IssueError::RateLimited { until: Some(Timestamp(7)), .. }), "{silent}");
    }

    #[test]
    fn a_failed_proof_is_not_a_refusal() {
        let of = |kind, method| of_problem(&problem(kind, "no"), method, None).code();
        assert_eq!(of("connection", Some("http-01")), "validation_failed");
        assert_eq!(of("unauthorized", Some("tls-alpn-01")), "validation_failed");
        assert_eq!(of("unauthorized", None), "refused");
        assert_eq!(of("rejectedIdentifier", None), "refused");
        assert_eq!(of("serverInternal", None), "unavailable");
    }

    proptest! {
        #[test]
        fn no_text_harms(text: String, tail: String) {
            let _ = retry_after_in(&text);
            let _ = retry_after_in(&format!("{text}retry after {tail}"));
            prop_assert!(short(&text).chars().count() <= MAX_TEXT);
        }
    }
}
