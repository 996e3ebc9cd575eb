//! Whose a host name is, by what DNS says: pure.
//!
//! | record | proves that the name is | beside another app that claims it |
//! |---|---|---|
//! | `CNAME` to `<app>.<domain>` | this app's | wins |
//! | `_acme-challenge.<name>` `CNAME` to the app's own target | this app's | wins |
//! | `_fly-ownership.<name>` `TXT` with `app-<app>` or `org-<org>` | this app's, or its organization's | wins |
//! | `A`, `AAAA` to the platform's addresses, which all apps share | somebody's here | whoever came first |
//!
//! An address proves nothing below a name that another organization owns: where `*.example.com` leads here for one, a
//! neighbor could claim every name under it.
//!
//! What one app has proven stays its own while DNS is silent or says nothing of others.

use std::net::IpAddr;

use api::{
    internal::{DnsQuestion, DnsSeen},
    public::certificates::{AcmeChallengeRequirement, DnsRequirements, OwnershipRequirement},
};
use model::{AppName, Hostname, OrgSlug};

/// An app's claim to a host name.
pub(crate) struct Claim<'a> {
    pub hostname: &'a Hostname,
    pub app: &'a AppName,
    pub org: &'a OrgSlug,
    /// The platform's own domain.
    pub domain: &'a str,
    /// Where the platform is reached.
    pub addresses: &'a [IpAddr],
}

/// How well a claim is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Proof {
    /// Not at all.
    None,
    /// The name leads to this platform.
    Place,
    /// Its owner names this app.
    App,
}

impl Claim<'_> {
    /// The name without a wildcard's star.
    fn base(&self) -> &str {
        self.hostname.as_str().trim_start_matches("*.")
    }

    /// Where DNS is asked.
    pub(crate) fn question(&self) -> DnsQuestion {
        DnsQuestion {
            hostname: self.hostname.clone(),
            acme_name: self.acme_name(),
            ownership_name: format!("_fly-ownership.{}", self.base()),
        }
    }

    fn acme_name(&self) -> String {
        format!("_acme-challenge.{}", self.base())
    }

    fn acme_target(&self) -> String {
        format!("{}.{}.acme.{}", self.base(), self.app, self.domain)
    }

    fn alias(&self) -> String {
        format!("{}.{}", self.app, self.domain)
    }

    /// What the app's owner may set, each record alone enough.
    pub(crate) fn requirements(&self) -> DnsRequirements {
        let of_kind =
            |is_v4: bool| self.addresses.iter().filter(move |it| it.is_ipv4() == is_v4).map(ToString::to_string);
        DnsRequirements {
            a: of_kind(true).collect(),
            aaaa: of_kind(false).collect(),
            cname: self.alias(),
            acme_challenge: AcmeChallengeRequirement { name: self.acme_name(), target: self.acme_target() },
            ownership: OwnershipRequirement {
                name: self.question().ownership_name,
                app_value: format!("app-{}", self.app),
                org_value: format!("org-{}", self.org),
            },
        }
    }

    /// Whether the name leads to this platform.
    pub(crate) fn leads_here(&self, seen: &DnsSeen) -> bool {
        let addresses = || seen.a.iter().map(|a| IpAddr::V4(*a)).chain(seen.aaaa.iter().map(|a| IpAddr::V6(*a)));
        addresses().any(|address| self.addresses.contains(&address)) || self.has_alias(seen)
    }

    fn has_alias(&self, seen: &DnsSeen) -> bool {
        seen.cname.iter().any(|name| is_same(name, &self.alias()))
    }

    /// Whether the alias for DNS challenges is there.
    pub(crate) fn has_acme_alias(&self, seen: &DnsSeen) -> bool {
        seen.acme_cname.as_ref().is_some_and(|name| is_same(name, &self.acme_target()))
    }

    /// Whether the ownership text is there.
    pub(crate) fn has_text(&self, seen: &DnsSeen) -> bool {
        let wanted = [format!("app-{}", self.app), format!("org-{}", self.org)];
        let values = seen.ownership_txt.iter().flat_map(|text| text.split(';')).map(str::trim);
        values.into_iter().any(|value| wanted.iter().any(|wanted| wanted == value))
    }

    /// How well it is proven.
    pub(crate) fn proof(&self, seen: &DnsSeen) -> Proof {
        if self.has_alias(seen) || self.has_acme_alias(seen) || self.has_text(seen) {
            Proof::App
        } else if self.leads_here(seen) {
            Proof::Place
        } else {
            Proof::None
        }
    }

    /// How well it is proven, where a name above it is another organization's or not.
    pub(crate) fn proof_below(&self, seen: &DnsSeen, is_below_anothers: bool) -> Proof {
        match self.proof(seen) {
            Proof::Place if is_below_anothers => Proof::None,
            proof => proof,
        }
    }

    /// The names above it, and the wildcards that stand for it or for them.
    pub(crate) fn names_above(&self) -> Vec<String> {
        let parents = self.base().match_indices('.').map(|(at, _)| &self.base()[at + 1..]);
        parents.flat_map(|parent| [parent.to_owned(), format!("*.{parent}")]).collect()
    }

    /// Where the text of a DNS challenge is put: at the alias's target, where the platform's operator has the say.
    pub(crate) fn acme_record(&self, seen: Option<&DnsSeen>) -> String {
        let has_alias = seen.is_some_and(|seen| self.has_acme_alias(seen));
        if has_alias { self.acme_target() } else { self.acme_name() }
    }
}

/// Whether a claim that is proven so well takes a name from an app that has it, by what DNS says of that one's claim.
pub(crate) fn wins(new: Proof, present: Option<Proof>) -> bool {
    match present {
        None => new > Proof::None,
        Some(present) => new == Proof::App && present < Proof::App,
    }
}

fn is_same(name: &str, other: &str) -> bool {
    name.trim_end_matches('.').eq_ignore_ascii_case(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_claim<T>(hostname: &str, app: &str, test: impl FnOnce(Claim<'_>) -> T) -> T {
        let (hostname, app) = (hostname.parse().unwrap(), app.parse().unwrap());
        let (org, addresses) =
            ("birds".parse().unwrap(), ["203.0.113.7".parse().unwrap(), "2001:db8::7".parse().unwrap()]);
        test(Claim { hostname: &hostname, app: &app, org: &org, domain: "apps.example", addresses: &addresses })
    }

    fn seen(change: impl FnOnce(&mut DnsSeen)) -> DnsSeen {
        let mut seen = DnsSeen::default();
        change(&mut seen);
        seen
    }

    #[test]
    fn each_record_alone_is_a_proof() {
        with_claim("shop.example.com", "shop", |claim| {
            for (said, proof) in [
                (DnsSeen::default(), Proof::None),
                (seen(|it| it.a = vec!["203.0.113.7".parse().unwrap()]), Proof::Place),
                (seen(|it| it.aaaa = vec!["2001:db8::7".parse().unwrap()]), Proof::Place),
                (seen(|it| it.a = vec!["203.0.113.8".parse().unwrap()]), Proof::None),
                (seen(|it| it.cname = vec!["www.example.com".into(), "Shop.apps.example.".into()]), Proof::App),
                (seen(|it| it.cname = vec!["other.apps.example".into()]), Proof::None),
                (seen(|it| it.acme_cname = Some("shop.example.com.shop.acme.apps.example".into())), Proof::App),
                (seen(|it| it.acme_cname = Some("shop.example.com.other.acme.apps.example".into())), Proof::None),
                (seen(|it| it.ownership_txt = vec!["app-other; app-shop".into()]), Proof::App),
                (seen(|it| it.ownership_txt = vec!["x".into(), "org-birds".into()]), Proof::App),
                (seen(|it| it.ownership_txt = vec!["app-shop2".into()]), Proof::None),
            ] {
                assert_eq!(claim.proof(&said), proof, "{said:?}");
            }
        });
    }

    #[test]
    fn an_address_proves_nothing_below_anothers_name() {
        with_claim("a.shop.example.com", "shop", |claim| {
            let above = ["shop.example.com", "*.shop.example.com", "example.com", "*.example.com", "com", "*.com"];
            assert_eq!(claim.names_above(), above);
            let leads_here = seen(|it| it.a = vec!["203.0.113.7".parse().unwrap()]);
            assert_eq!(claim.proof_below(&leads_here, false), Proof::Place);
            assert_eq!(claim.proof_below(&leads_here, true), Proof::None);
            let named = seen(|it| it.ownership_txt = vec!["app-shop".into()]);
            assert_eq!(claim.proof_below(&named, true), Proof::App);
        });
    }

    #[test]
    fn a_wildcard_is_asked_for_at_its_base() {
        with_claim("*.example.com", "shop", |claim| {
            assert_eq!(claim.question().acme_name, "_acme-challenge.example.com");
            assert_eq!(claim.acme_record(None), "_acme-challenge.example.com");
            let alias = seen(|it| it.acme_cname = Some(claim.requirements().acme_challenge.target));
            assert_eq!(claim.acme_record(Some(&alias)), "example.com.shop.acme.apps.example");
        });
    }

    #[test]
    fn who_names_the_app_wins_over_who_came_first() {
        use Proof::{App, None as Nothing, Place};
        for (new, present, does) in [
            (Nothing, None, false),
            (Place, None, true),
            (App, None, true),
            (Place, Some(Nothing), false),
            (App, Some(Place), true),
            (App, Some(Nothing), true),
            (App, Some(App), false),
        ] {
            assert_eq!(wins(new, present), does, "{new:?} {present:?}");
        }
    }
}
