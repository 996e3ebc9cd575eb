//! `dunlin certs`: host names that an app brings along, and their certificates.

use std::{fs, path::PathBuf};

use api::public::certificates::{
    AddCertificate, Certificate, CertificateList, DnsRecords, DnsRequirements, ImportCertificate,
};
use clap::Subcommand;

use super::{
    context::Context,
    exit::Failure,
    output::{printable, table},
};

/// What to do about host names.
#[derive(Debug, Subcommand)]
pub enum Certs {
    /// Serve the app under a host name of your own, with a certificate that is ordered and renewed by itself
    #[command(visible_alias = "create")]
    Add {
        /// shop.example.com, or *.example.com for every name directly below one
        hostname: String,
    },
    /// Serve a host name with a certificate that you have; it is preferred to an ordered one
    Import {
        /// The host name
        hostname: String,
        /// The certificate and those that signed it, in PEM, the host's own first
        #[arg(long, value_name = "FILE")]
        fullchain: PathBuf,
        /// Its private key, in PEM
        #[arg(long, value_name = "FILE")]
        private_key: PathBuf,
    },
    /// List the app's host names
    #[command(visible_alias = "ls")]
    List {
        /// Only those that contain this
        #[arg(long)]
        filter: Option<String>,
    },
    /// Show a host name: what is to be set in its DNS, and its certificates
    Show {
        /// The host name
        hostname: String,
    },
    /// Look at a host name's DNS now, and try again what failed
    Check {
        /// The host name
        hostname: String,
    },
    /// Serve a host name no longer, or with one certificate less
    #[command(visible_aliases = ["delete", "rm"])]
    Remove {
        /// The host name
        hostname: String,
        /// Remove the imported certificate alone
        #[arg(long, conflicts_with = "acme")]
        custom: bool,
        /// Remove the ordered certificate alone, and order no other
        #[arg(long)]
        acme: bool,
    },
}

/// Does it.
pub async fn run(context: &Context, command: Certs) -> Result<(), Failure> {
    let (client, app) = (context.client()?, context.app()?);
    let shown = match command {
        Certs::Add { hostname } => client.add_certificate(&app, &AddCertificate { hostname }).await?,
        Certs::Import { hostname, fullchain, private_key } => {
            let (fullchain, private_key) = (read(&fullchain)?, read(&private_key)?);
            client.import_certificate(&app, &ImportCertificate { hostname, fullchain, private_key }).await?
        }
        Certs::List { filter } => {
            let list = client.certificates(&app, filter.as_deref()).await?;
            return context.out.data(&list, || names(&list));
        }
        Certs::Show { hostname } => client.certificate(&app, &hostname).await?,
        Certs::Check { hostname } => client.check_certificate(&app, &hostname).await?,
        Certs::Remove { hostname, custom: false, acme: false } => {
            client.remove_hostname(&app, &hostname).await?;
            context.out.say(format!("{hostname} is no longer served."));
            return Ok(());
        }
        Certs::Remove { hostname, custom, .. } => {
            client.remove_certificate(&app, &hostname, if custom { "custom" } else { "acme" }).await?
        }
    };
    context.out.data(&shown, || text(&shown))
}

fn read(path: &PathBuf) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("{} cannot be read: {error}", path.display())).hint("name a file in PEM")
    })
}

fn names(list: &CertificateList) -> String {
    let rows = list.certificates.iter().map(|it| {
        let kinds = [("imported", it.has_custom_certificate), ("ordered", it.has_acme_certificate)];
        let kinds: Vec<_> = kinds.into_iter().filter(|(_, has)| *has).map(|(kind, _)| kind).collect();
        let kinds = if kinds.is_empty() { "none".into() } else { kinds.join(", ") };
        [it.hostname.clone(), it.status.clone(), kinds, it.created_at.clone()]
    });
    table(["HOSTNAME", "STATUS", "CERTIFICATES", "ADDED"], rows)
}

fn text(shown: &Certificate) -> String {
    let mut lines = vec![format!("{}: {}", shown.hostname, status(shown))];
    for certificate in &shown.certificates {
        let source = if certificate.source == "custom" { "imported" } else { "ordered" };
        let kind = certificate.issued.first().map(|it| it.kind.as_str()).unwrap_or_default();
        let (issuer, until) = (printable(&certificate.issuer), &certificate.expires_at);
        lines.push(format!("  certificate: {source}, {kind}, by {issuer}, until {until} ({})", certificate.status));
    }
    if let Some(renews) = &shown.renews_at {
        lines.push(format!("  renewed: {renews}"));
    }
    for error in &shown.validation_errors {
        lines.push(format!("  failed: {} ({}, {})", printable(&error.message), error.code, error.timestamp));
        lines.push(format!("          {}", error.remediation));
    }
    if let Some(until) = &shown.rate_limited_until {
        lines.push(format!("  the issuer is not asked before {until}"));
    }
    if shown.status == "pending_ownership" || !shown.validation.dns_configured {
        lines.extend(wanted(&shown.hostname, &shown.dns_requirements));
    }
    if let Some(seen) = shown.dns_records.as_ref().filter(|_| !shown.configured) {
        lines.extend(found(seen));
    }
    if !shown.configured {
        // A shell would take the star for files.
        let quote = if shown.hostname.contains('*') { "'" } else { "" };
        lines.push(format!("Then: dunlin certs check {quote}{}{quote}", shown.hostname));
    }
    lines.join("\n")
}

fn status(shown: &Certificate) -> &'static str {
    match shown.status.as_str() {
        "active" => "served, with a good certificate",
        "pending_ownership" => "waits for DNS to say that it is this app's",
        "expired" => "served, but its certificate has expired",
        _ if shown.acme_requested => "is this app's; its certificate is on its way",
        _ => "is this app's; it has no certificate: order one (`certs add`) or import one",
    }
}

/// The records that may be set.
fn wanted(hostname: &str, wanted: &DnsRequirements) -> Vec<String> {
    let mut lines = Vec::new();
    if !hostname.starts_with("*.") {
        lines.push("Let the name lead here, by addresses or by an alias:".to_owned());
        lines.extend(wanted.a.iter().map(|address| record("A", hostname, address)));
        lines.extend(wanted.aaaa.iter().map(|address| record("AAAA", hostname, address)));
        if wanted.a.is_empty() && wanted.aaaa.is_empty() {
            lines.push(
                "  (the platform does not know its addresses: `dunlin serve --public-address` tells it)".to_owned(),
            );
        }
        lines.push(record("CNAME", hostname, &wanted.cname));
        lines.push("To prove it before it leads here, or where other apps claim it, one of:".to_owned());
    } else {
        lines.push("A wildcard is proven by one of:".to_owned());
    }
    lines.push(record("TXT", &wanted.ownership.name, &wanted.ownership.app_value));
    lines.push(record("CNAME", &wanted.acme_challenge.name, &wanted.acme_challenge.target));
    lines
}

fn record(kind: &str, name: &str, value: &str) -> String {
    format!("  {kind:<6} {name}  {value}")
}

/// The records that are there.
fn found(seen: &DnsRecords) -> Vec<String> {
    let kinds = [("A", &seen.a), ("AAAA", &seen.aaaa), ("CNAME", &seen.cname)];
    let mut lines: Vec<_> =
        kinds.into_iter().flat_map(|(kind, values)| values.iter().map(move |it| (kind, it))).collect();
    lines.extend(seen.acme_challenge_cname.iter().map(|it| ("CNAME (_acme-challenge)", it)));
    lines.extend(seen.ownership_txt.iter().map(|it| ("TXT (_fly-ownership)", it)));
    let mut lines: Vec<_> = lines.into_iter().map(|(kind, value)| format!("  {kind} {}", printable(value))).collect();
    lines.extend(seen.errors.iter().map(|error| format!("  not found out: {}", printable(error))));
    if lines.is_empty() {
        lines.push("  nothing".to_owned());
    }
    lines.insert(0, format!("DNS says ({}):", seen.checked_at));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_the_next_step() {
        let mut shown = Certificate {
            hostname: "shop.example.com".into(),
            status: "pending_ownership".into(),
            ..Certificate::default()
        };
        shown.dns_requirements.a = vec!["203.0.113.7".into()];
        shown.dns_requirements.cname = "shop.apps.example".into();
        shown.dns_requirements.ownership.name = "_fly-ownership.shop.example.com".into();
        shown.dns_requirements.ownership.app_value = "app-shop".into();
        shown.dns_records = Some(DnsRecords { a: vec!["198.51.100.1".into()], ..DnsRecords::default() });
        let said = text(&shown);
        for part in [
            "A      shop.example.com  203.0.113.7",
            "CNAME  shop.example.com  shop.apps.example",
            "TXT    _fly-ownership.shop.example.com  app-shop",
            "  A 198.51.100.1",
            "dunlin certs check shop.example.com",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("--public-address"), "{said}");
        shown.dns_requirements.a.clear();
        assert!(text(&shown).contains("--public-address"));
        shown.hostname = "*.example.com".into();
        let said = text(&shown);
        assert!(said.contains("certs check '*.example.com'") && !said.contains("203.0.113.7"), "{said}");
    }
}
