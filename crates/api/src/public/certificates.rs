//! Custom host names of an app and their certificates.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/apps/{app}/certificates?filter=&cursor=&limit=` | [`CertificateList`] |
//! | `POST /v1/apps/{app}/certificates/acme` [`AddCertificate`] | 201 [`Certificate`] |
//! | `POST /v1/apps/{app}/certificates/custom` [`ImportCertificate`] | 201 [`Certificate`] |
//! | `GET /v1/apps/{app}/certificates/{hostname}` | [`Certificate`] |
//! | `POST /v1/apps/{app}/certificates/{hostname}/check` | [`Certificate`] with the DNS records that were seen |
//! | `DELETE /v1/apps/{app}/certificates/{hostname}` | 204; the name, with all its certificates |
//! | `DELETE /v1/apps/{app}/certificates/{hostname}/acme` | [`Certificate`]; the ordered one goes, and no other is ordered |
//! | `DELETE /v1/apps/{app}/certificates/{hostname}/custom` | [`Certificate`]; the imported one goes |
//!
//! A wildcard's star is written `%2A` in a path. Times are written by RFC 3339.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for a certificate by ACME.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AddCertificate {
    /// The host name: `shop.example.com` or `*.example.com`.
    pub hostname: String,
}

/// Brings a certificate along.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportCertificate {
    /// The host name.
    pub hostname: String,
    /// The certificate and those that signed it, in PEM, the host's own first.
    pub fullchain: String,
    /// Its private key, in PEM.
    pub private_key: String,
}

impl std::fmt::Debug for ImportCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportCertificate").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

/// An app's host names, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CertificateList {
    /// The host names.
    pub certificates: Vec<CertificateSummary>,
    /// Where the next page begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// How many there are on all pages.
    pub total_count: u32,
}

/// A host name in a list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CertificateSummary {
    /// The host name.
    pub hostname: String,
    /// `active`, `pending_ownership`, `pending_validation` or `expired`.
    pub status: String,
    /// It is served with a good certificate.
    pub configured: bool,
    /// The platform orders certificates for it.
    pub acme_requested: bool,
    /// An imported certificate is there.
    pub has_custom_certificate: bool,
    /// One that the platform ordered is there.
    pub has_acme_certificate: bool,
    /// When it was added.
    pub created_at: String,
}

/// A host name with everything that is known about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// The host name.
    pub hostname: String,
    /// `active`, `pending_ownership`, `pending_validation` or `expired`.
    pub status: String,
    /// It is served with a good certificate.
    pub configured: bool,
    /// The platform orders certificates for it.
    pub acme_requested: bool,
    /// When the issuer may be asked again, if it limits that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limited_until: Option<String>,
    /// Its certificates, the preferred one first.
    pub certificates: Vec<CertificateDetail>,
    /// What has been proven and can be proven.
    pub validation: CertificateValidation,
    /// What went wrong since the last success, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation_errors: Vec<ValidationError>,
    /// Records to set at the name's DNS.
    pub dns_requirements: DnsRequirements,
    /// Records that were seen there when it was last looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_records: Option<DnsRecords>,
    /// When it is renewed, if the platform ordered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews_at: Option<String>,
    /// When it was added.
    pub created_at: String,
}

/// One certificate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CertificateDetail {
    /// `custom` (imported) or `acme` (ordered).
    pub source: String,
    /// `active`, `pending_ownership` or `expired`.
    pub status: String,
    /// When it ends.
    pub expires_at: String,
    /// Who signed it.
    pub issuer: String,
    /// When it came here.
    pub created_at: String,
    /// The certificates by kind of key.
    pub issued: Vec<IssuedCertificate>,
}

/// A certificate by its kind of key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IssuedCertificate {
    /// `ecdsa`, `rsa` or `ed25519`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it ends.
    pub expires_at: String,
    /// Who signed it.
    pub certificate_authority: String,
}

/// What has been proven and can be proven, by what was last seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CertificateValidation {
    /// The name's addresses, or the alias for DNS challenges, lead here.
    pub dns_configured: bool,
    /// It can be proven by TLS-ALPN-01.
    pub alpn_configured: bool,
    /// It can be proven by HTTP-01.
    pub http_configured: bool,
    /// The ownership text is there.
    pub ownership_txt_configured: bool,
}

/// Something that went wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ValidationError {
    /// A word for programs.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub remediation: String,
    /// When.
    pub timestamp: String,
}

/// Records to set. Addresses make the name lead here; any one of them, the alias or the text proves that it is the
/// app's. A wildcard is proven by the alias or the text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DnsRequirements {
    /// For `A` records.
    pub a: Vec<String>,
    /// For `AAAA` records.
    pub aaaa: Vec<String>,
    /// For a `CNAME` record in place of addresses.
    pub cname: String,
    /// For a `CNAME` record.
    pub acme_challenge: AcmeChallengeRequirement,
    /// For a `TXT` record.
    pub ownership: OwnershipRequirement,
}

/// The alias that proves a name, and leads DNS challenges to the platform.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AcmeChallengeRequirement {
    /// The record's name.
    pub name: String,
    /// Its value.
    pub target: String,
}

/// The text that proves a name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OwnershipRequirement {
    /// The record's name.
    pub name: String,
    /// Its value for this app. Several values are joined by `;`, or stand in records of their own.
    pub app_value: String,
    /// Its value for every app of the organization.
    pub org_value: String,
}

/// Records that were seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DnsRecords {
    /// `A` records, aliases followed.
    pub a: Vec<String>,
    /// `AAAA` records, aliases followed.
    pub aaaa: Vec<String>,
    /// The names that it is an alias of.
    pub cname: Vec<String>,
    /// All addresses.
    pub resolved_addresses: Vec<String>,
    /// What the name for DNS challenges is an alias of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme_challenge_cname: Option<String>,
    /// The ownership text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ownership_txt: Option<String>,
    /// What could not be found out, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// When it was looked.
    pub checked_at: String,
}
