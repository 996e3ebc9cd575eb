//! Typed identifiers. Each is proven valid when it is made; none can be mistaken for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a valid name or identifier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a valid {kind}: {rule}")]
pub struct InvalidName {
    /// What the text was meant to be, in a user's words.
    pub kind: &'static str,
    /// The text as given.
    pub text: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

/// Declares a string newtype that is checked by `$valid` at every door: parsing and deserializing.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName { kind: $kind, text, rule: $rule })
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

/// Whether `text` can stand as one label of a host name (RFC 1123): lower-case letters, digits and
/// inner dashes, at most 63 of them.
fn is_dns_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

name!(
    /// The name of an app: one host-name label, unique on the platform, since it is also the first
    /// label of the app's public address.
    AppName, "app name", "use 1 to 63 lower-case letters, digits and inner dashes", is_dns_label
);
name!(
    /// The short name of an organization: the tenant to which apps, networks and tokens belong.
    OrgSlug, "organization", "use 1 to 63 lower-case letters, digits and inner dashes", is_dns_label
);
name!(
    /// The code of a region, such as `ams` or `local`: lower-case letters and digits, 2 to 16 of them.
    Region, "region", "use 2 to 16 lower-case letters and digits",
    |text| (2..=16).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
);
name!(
    /// A machine's identifier: 14 lower-case hexadecimal digits (56 bits), stable for its whole life.
    MachineId, "machine id", "a machine id is 14 hexadecimal digits",
    |text| text.len() == 14 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);
name!(
    /// The version of a machine's configuration, a ULID: each change of the configuration makes a new one.
    InstanceId, "instance id", "an instance id is a ULID: 26 characters of Crockford's base 32",
    |text| text.len() == 26 && text.bytes().all(|b| CROCKFORD.contains(&b))
);

impl MachineId {
    /// The identifier that holds these 56 random bits.
    pub fn from_random(random: [u8; 7]) -> Self {
        Self(hex::encode(random))
    }

    /// The 56 bits of the identifier, in the low end of the number.
    pub fn bits(&self) -> u64 {
        u64::from_str_radix(&self.0, 16).unwrap_or_default()
    }
}

/// Crockford's base 32: no I, L, O or U.
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The ULID of this moment (milliseconds since 1970) and these random bits: 26 characters that sort by time.
pub fn ulid(unix_ms: u64, random: [u8; 10]) -> String {
    let mut bits = u128::from(unix_ms) << 80;
    for (index, byte) in random.iter().enumerate() {
        bits |= u128::from(*byte) << (72 - 8 * index);
    }
    (0..26).rev().map(|digit| char::from(CROCKFORD[(bits >> (5 * digit)) as usize & 31])).collect()
}

impl InstanceId {
    /// A new version made at this moment (milliseconds since 1970).
    pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
        Self(ulid(unix_ms, random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_name_is_one_host_label() {
        for good in ["a", "my-app", "app2", &"a".repeat(63)] {
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ulid_sorts_by_time_and_keeps_its_random_bits() {
        let early = ulid(1_700_000_000_000, [0xff; 10]);
        let late = ulid(1_700_000_000_001, [0; 10]);
        assert!(early < late);
        assert!(early.ends_with("ZZZZZZZZZZZZZZZZ"));
        assert!(late.parse::<InstanceId>().is_ok());
    }

    #[test]
    fn a_machine_id_keeps_its_bits() {
        let id = MachineId::from_random([1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(id.as_str(), "01020304050607");
        assert_eq!(id.bits(), 0x0001_0203_0405_0607);
    }
}
