//! Organizations and tokens.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/orgs` | [`OrganizationList`] |
//! | `POST /v1/orgs` [`CreateOrganization`] | 201 [`Organization`]; the administrator's token only |
//! | `POST /v1/orgs/{slug}/tokens` [`CreateToken`] | 201 [`TokenReply`] |
//! | `POST /v1/apps/{app}/deploy_token` [`CreateToken`] | 201 [`TokenReply`], good for that app alone |
//! | `GET /v1/tokens`, `app=`, `org_slug=` | [`TokenList`]; those that reach what the caller may decide about |
//! | `DELETE /v1/tokens/{id}` | 204; the token is good no more |

use model::{AppName, OrgSlug, Timestamp};
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

/// A token that is good, without the secret part that only its owner knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its name for the API: the part between the first two underscores of its text.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// The organization that it is limited to; none for the administrator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub org: Option<OrgSlug>,
    /// The app that it is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// When it was made, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub created_at: Timestamp,
    /// When it ends, in milliseconds since 1970; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub expires_at: Option<Timestamp>,
}

/// Tokens, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// The tokens; at most 1000.
    pub tokens: Vec<Token>,
}
