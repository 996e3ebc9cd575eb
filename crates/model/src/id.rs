//! Typed identifiers. Each is proven valid when it is made; none can be mistaken for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
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

/// Declares a string newtype that is checked by `$valid` at every door: parsing and deserializing. Short texts lie in the
/// value itself and longer ones are shared, so that a copy costs no allocation: every request copies some, and a catalog
/// keeps millions.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(SmolStr);

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
                    Ok(Self(text.into()))
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
                name.0.into()
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
    /// A host's identifier: lower-case letters, digits and dashes, 1 to 40 of them, so that it fits into a certificate.
    HostId, "host id", "use 1 to 40 lower-case letters, digits and dashes, with a letter or a digit at both ends",
    |text| (1..=40).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !text.starts_with('-') && !text.ends_with('-')
);
impl HostId {
    /// Below it lie the names of hosts in certificates. It is in no public DNS.
    pub const CERTIFICATE_DOMAIN: &str = "worker.dunlin.internal";

    /// The name of this host in its certificate.
    #[must_use]
    pub fn certificate_name(&self) -> String {
        format!("{self}.{}", Self::CERTIFICATE_DOMAIN)
    }
}

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

name!(
    /// A public host name that its owner brings to an app: `shop.example.com`, or `*.example.com` for every name
    /// directly below one. In lower case, as DNS has it on the wire (RFC 5891 for other scripts).
    Hostname, "host name",
    "write at least two labels of lower-case letters, digits and inner dashes, such as shop.example.com or *.example.com",
    is_hostname
);

/// Longest host name (RFC 1035, 2.3.4), without the dot at its end.
const MAX_HOSTNAME: usize = 253;

fn is_hostname(text: &str) -> bool {
    let base = text.strip_prefix("*.").unwrap_or(text);
    let is_address = base.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= MAX_HOSTNAME && base.contains('.') && base.split('.').all(is_dns_label) && !is_address
}

impl Hostname {
    /// The host name that a person wrote: in any case, perhaps with a dot at its end.
    ///
    /// # Errors
    /// If it is none.
    pub fn of_text(text: &str) -> Result<Self, InvalidName> {
        let text = text.trim();
        text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase().parse()
    }

    /// Whether it stands for every name directly below another.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// The name without the `*.` of a wildcard: where its records lie in DNS.
    pub fn base(&self) -> &str {
        self.0.strip_prefix("*.").unwrap_or(&self.0)
    }

    /// The wildcard that `name` falls under: `*.example.com` for `shop.example.com`.
    pub fn wildcard_over(name: &str) -> Option<String> {
        name.split_once('.').map(|(_, parent)| format!("*.{parent}"))
    }
}

impl MachineId {
    /// The identifier that holds these 56 random bits.
    pub fn from_random(random: [u8; 7]) -> Self {
        Self(hex::encode(random).into())
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
    ulid_digits(unix_ms, random).map(char::from).iter().collect()
}

/// The same as bytes of ASCII.
pub fn ulid_digits(unix_ms: u64, random: [u8; 10]) -> [u8; 26] {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&random);
    let mut bits = u128::from_be_bytes(bytes);
    let mut digits = [0; 26];
    for digit in digits.iter_mut().rev() {
        *digit = CROCKFORD[(bits & 31) as usize];
        bits >>= 5;
    }
    digits
}

impl InstanceId {
    /// A new version made at this moment (milliseconds since 1970).
    pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
        Self(ulid(unix_ms, random).into())
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
    fn a_host_name_has_labels_and_perhaps_a_star_in_front() {
        let long = format!("{}.example.com", ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join("."));
        for good in ["a.b", "shop.example.com", "*.example.com", "xn--bcher-kva.example", "1.example", &long] {
            assert!(good.parse::<Hostname>().is_ok(), "{good}");
        }
        let longer = format!("{long}.{}", "d".repeat(60));
        for bad in [
            "",
            "a",
            "*",
            "*.a",
            "*.",
            "a.*.b",
            "**.a.b",
            "a..b",
            ".a.b",
            "a.b.",
            "A.b",
            "a_b.c",
            "127.0.0.1",
            "*.1.2",
            "a.b:80",
            "bücher.de",
            "-a.b",
            "a b.c",
            &longer,
        ] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_name_is_read_as_people_write_it() {
        let name = Hostname::of_text(" *.Example.COM. ").unwrap();
        assert_eq!((name.as_str(), name.base(), name.is_wildcard()), ("*.example.com", "example.com", true));
        assert_eq!(Hostname::wildcard_over("shop.example.com").as_deref(), Some("*.example.com"));
        assert_eq!(Hostname::wildcard_over("localhost"), None);
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
