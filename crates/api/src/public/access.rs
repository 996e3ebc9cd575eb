//! Organizations and tokens.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/orgs` | [`OrganizationList`] |
//! | `POST /v1/orgs` [`CreateOrganization`] | 201 [`Organization`]; the administrator's token only |
//! | `POST /v1/orgs/{slug}/tokens` [`CreateToken`] | 201 [`TokenReply`] |
//! | `POST /v1/apps/{app}/deploy_token` [`CreateToken`] | 201 [`TokenReply`], good for that app alone |

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::machines::Organization;

/// Organizations that the caller may act for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OrganizationList {
    /// The organizations, by short name.
    pub organizations: Vec<Organization>,
}

/// Asks for a new organization.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CreateOrganization {
    /// Its short name.
    pub slug: String,
    /// Its name, for people; the short name if empty.
    pub name: String,
}

/// Asks for a new token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CreateToken {
    /// What it is for; told as the owner of leases and the user of releases.
    pub name: String,
    /// How long it is good (`720h`); for good if absent or empty.
    pub expiry: Option<String>,
}

/// A new token. It is shown this once.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenReply {
    /// What to send as `Authorization: Bearer …`.
    pub token: String,
}

impl std::fmt::Debug for TokenReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenReply { .. }")
    }
}
