//! `dunlin edge serve`: an edge by itself, beside or far from the control plane that tells it who runs where.
//!
//! ```text
//!  last good picture ─▶ edge          ┌────────── pause, longer each time ◀─────────┐
//!  on the disk           ▲            ▼                                             │
//!                        │        ask for what is new ─▶ listen ── cut off, or silent for too long
//!                        └─ picture ◀─ Intake ◀─ lines ───┘
//! ```
//!
//! It serves before it has reached the control plane, and while that is away, by the last picture that it was told whole.
//! Machines are reached by their host's worker, if it has a door for other hosts; the control plane gives the certificate
//! that opens it. Where there is no such door they are dialed by the addresses that they have on their own host, to which
//! this one needs a way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use api::internal::{ChallengeAnswer, ChallengeDoor, HostnameView, LogSink, MaintenanceView, OpenHostname};
use catalog::{Intake, Publisher};
use clap::Args;
use edge::{Edge, EdgeOptions, Hostnames, Maintenance, proxy_protocol::TrustedProxy};
use futures_util::StreamExt;
use kit::seal::SealingKey;
use logs::{Logs, Retention};
use model::Region;
use serde::de::DeserializeOwned;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    limits::EdgeLimits,
    lock,
    membership::{Authority, Membership},
    trace,
};
use crate::cli::{Client, Failure};

/// How the edge is started.
#[derive(Debug, Args)]
pub struct EdgeServeOptions {
    /// Where everything is kept; not that of a `dunlin serve`
    #[arg(long, default_value = "/var/lib/dunlin-edge")]
    data_dir: PathBuf,
    /// The region this host stands in
    #[arg(long, env = "DUNLIN_REGION", default_value = "local")]
    region: Region,
    /// Apps are reached as <app>.<domain>
    #[arg(long, env = "DUNLIN_DOMAIN", default_value = "dunlin.localhost")]
    domain: String,
    /// The addresses on which apps are served
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::UNSPECIFIED.into())]
    listen: IpAddr,
    /// The port for HTTP
    #[arg(long, default_value_t = 80)]
    http_port: u16,
    /// The port for HTTPS
    #[arg(long, default_value_t = 443)]
    https_port: u16,
    /// Peers whose connections to apps begin with a PROXY protocol header, as for `dunlin serve`
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    trusted_proxies: Vec<TrustedProxy>,
    /// Speak no HTTP/3, which is otherwise offered on the same port of UDP as HTTPS
    #[arg(long)]
    no_http3: bool,
    /// Write no access records into the logs of apps
    #[arg(long)]
    no_access_records: bool,
    /// What to tell on standard error, as tracing's filter: `warn`, `info`, `edge=debug`
    #[arg(long, env = "DUNLIN_LOG", default_value = "info")]
    log: String,
    #[command(flatten)]
    limits: EdgeLimits,
}

/// How long requests that are under way may take to end.
const DRAIN: Duration = Duration::from_secs(10);
/// The control plane says something every few seconds; after this silence it counts as gone.
const SILENCE: Duration = Duration::from_secs(20);
/// The first pause before it is asked again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Runs an edge that follows the control plane of `client` until it is told to end.
pub async fn run(client: Client, options: EdgeServeOptions) -> Result<()> {
    trace::start(&options.log)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let _lock = lock::take(&options.data_dir)?;
    let catalog = Arc::new(Publisher::open(options.data_dir.join("catalog.jsonl")));
    let sealing_key = SealingKey::load_or_create(&options.data_dir.join("sealing.key")).context("the sealing key")?;
    let membership = Arc::new(Membership::open(&options.data_dir, sealing_key.clone())?);
    let maintenance = Maintenance::open(options.data_dir.join("maintenance.json"));
    let hostnames = Hostnames::open(options.data_dir.join("hostnames"), sealing_key.clone());
    let (host, answers) = (membership.host.clone(), hostnames.clone());
    let edge = Edge::start(edge_options(&options, &catalog, &hostnames, &membership, &maintenance)?).await?;
    let (stop, client) = (CancellationToken::new(), Arc::new(client));
    // Until the control plane has said something, what is known stands.
    let in_maintenance = watch::Sender::new(maintenance.view());
    let named = watch::Sender::new(Arc::new(HostnameView { incomplete: true, ..HostnameView::default() }));
    let mut tasks = vec![
        tokio::spawn(Arc::clone(&catalog).keep(stop.clone())),
        tokio::spawn(follow(client.clone(), catalog, stop.clone())),
        tokio::spawn(membership.keep(Authority::Platform(client.clone()), stop.clone())),
        tokio::spawn(maintenance.follow(in_maintenance.subscribe(), stop.clone())),
        tokio::spawn(hostnames.follow(named.subscribe(), stop.clone())),
    ];
    let take = move |view: MaintenanceView| drop(in_maintenance.send_replace(Arc::new(view)));
    tasks.push(tokio::spawn(follow_views(client.clone(), "/internal/maintenance", take, stop.clone())));
    let take = move |open: Vec<OpenHostname>| {
        let rows = open.into_iter().map(|open| (open.hostname.clone(), Arc::new(open.sealed(&sealing_key)))).collect();
        let generation = named.borrow().generation + 1;
        named.send_replace(Arc::new(HostnameView { generation, rows, incomplete: false }));
    };
    let mut proofs = Vec::new();
    let take_proofs = move |told: Vec<ChallengeAnswer>| give_instead(&*answers, &mut proofs, told);
    tasks.push(tokio::spawn(follow_views(client.clone(), "/internal/proofs", take_proofs, stop.clone())));
    if client.is_private() {
        tasks.push(tokio::spawn(follow_views(client, "/internal/hostnames", take, stop.clone())));
    } else {
        tracing::warn!(
            "host names of apps are not served here: their keys would be sent in the clear; use --url https://…"
        );
    }
    println!("Dunlin {} edge in region {}, host {host}", env!("CARGO_PKG_VERSION"), options.region);
    println!("apps: {}", addresses(edge.http_addresses()));
    println!("ready");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    edge.shutdown(DRAIN).await;
    stop.cancel();
    for task in tasks {
        task.await?;
    }
    Ok(())
}

fn addresses(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(|address| format!("http://{address}")).collect::<Vec<_>>().join(", ")
}

fn edge_options(
    options: &EdgeServeOptions,
    catalog: &Publisher,
    hostnames: &Arc<Hostnames>,
    membership: &Membership,
    maintenance: &Arc<Maintenance>,
) -> Result<EdgeOptions> {
    let data = &options.data_dir;
    let logs = Logs::open(&data.join("logs"), Retention::default()).context("the app logs")?;
    Ok(EdgeOptions {
        http: vec![SocketAddr::new(options.listen, options.http_port)],
        https: vec![SocketAddr::new(options.listen, options.https_port)],
        domain: options.domain.clone(),
        region: options.region.clone(),
        keys: data.join("keys"),
        catalog: catalog.reader(),
        hostnames: Arc::clone(hostnames),
        maintenance: Arc::clone(maintenance),
        logs: logs as Arc<dyn LogSink>,
        platform: BTreeMap::new(),
        reserved_ports: BTreeSet::from([22, 53]),
        public_https_port: None,
        trusted_proxies: options.trusted_proxies.clone(),
        http3: !options.no_http3,
        backhaul: membership.backhaul(None),
        access_records: !options.no_access_records,
        bounds: options.limits.bounds(),
    })
}

/// Gives the answers to ACME servers that were told, in place of those that are `given`. One that cannot be given is tried
/// again with the next ones.
fn give_instead(door: &dyn ChallengeDoor, given: &mut Vec<ChallengeAnswer>, mut told: Vec<ChallengeAnswer>) {
    given.iter().filter(|answer| !told.contains(answer)).for_each(|answer| door.withdraw(answer));
    told.retain(|answer| {
        let done = if given.contains(answer) { Ok(()) } else { door.present(answer) };
        done.inspect_err(|reason| tracing::warn!("a host name cannot be proven here: {reason}")).is_ok()
    });
    *given = told;
}

/// Takes every view that the control plane tells at a path, until `stop`.
async fn follow_views<T: DeserializeOwned + Send>(
    client: Arc<Client>,
    path: &'static str,
    mut take: impl FnMut(T) + Send,
    stop: CancellationToken,
) {
    let following = async {
        let mut pause = PAUSE.0;
        loop {
            let (ended, heard) = listen_for_views(&client, path, &mut take).await;
            if heard {
                pause = PAUSE.0;
            }
            tracing::debug!("{path} is not heard, what was heard last stands: {ended}");
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    };
    stop.run_until_cancelled(following).await;
}

/// Listens until nothing comes any more. Tells why, and whether anything came.
async fn listen_for_views<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    take: &mut impl FnMut(T),
) -> (String, bool) {
    let mut heard = false;
    let mut lines = match timeout(SILENCE, client.lines::<Option<T>>(path, &[])).await {
        Ok(Ok(lines)) => std::pin::pin!(lines),
        Ok(Err(failure)) => return (failure.message, heard),
        Err(_) => return ("no answer in time".into(), heard),
    };
    loop {
        match timeout(SILENCE, lines.next()).await {
            Ok(Some(Ok(view))) => {
                heard = true;
                // Nothing but a sign of life comes where nothing changes.
                view.into_iter().for_each(&mut *take);
            }
            Ok(Some(Err(failure))) => return (failure.message, heard),
            Ok(None) => return ("it has ended".into(), heard),
            Err(_) => return ("it has fallen silent".into(), heard),
        }
    }
}

/// Follows the control plane's catalog until `stop`.
async fn follow(client: Arc<Client>, catalog: Arc<Publisher>, stop: CancellationToken) {
    let following = async {
        let (mut intake, mut pause) = (Intake::new(catalog), PAUSE.0);
        loop {
            let before = intake.since();
            let ended = listen(&client, &mut intake).await;
            if intake.since() != before {
                pause = PAUSE.0;
            }
            tracing::warn!("the control plane is not heard, the last picture stands: {ended}");
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    };
    stop.run_until_cancelled(following).await;
}

/// Listens until nothing comes any more, and tells why.
async fn listen(client: &Client, intake: &mut Intake) -> String {
    intake.begin();
    let since: Vec<_> = intake.since().map(|since| ("since", since.to_string())).into_iter().collect();
    let told = |failure: Failure| failure.message;
    let mut lines = match timeout(SILENCE, client.bytes("/internal/catalog", &since)).await {
        Ok(Ok(lines)) => std::pin::pin!(lines),
        Ok(Err(failure)) => return told(failure),
        Err(_) => return "no answer in time".into(),
    };
    loop {
        match timeout(SILENCE, lines.next()).await {
            Ok(Some(Ok(bytes))) => {
                if let Err(error) = intake.hear(&bytes) {
                    return error.to_string();
                }
            }
            Ok(Some(Err(failure))) => return told(failure),
            Ok(None) => return "it has ended".into(),
            Err(_) => return "it has fallen silent".into(),
        }
    }
}
