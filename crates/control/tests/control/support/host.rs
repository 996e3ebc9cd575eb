//! A host in memory. What a machine does follows from its image's name:
//!
//! | the name begins with | the machine |
//! |---|---|
//! | `crash` | ends with exit code 3 as soon as it runs |
//! | `oom` | is killed for want of memory as soon as it runs |
//! | `broken` | cannot be started |
//! | `sick` | runs, but its health checks never pass |
//! | `local` | listens on the loopback address alone |
//! | `deaf` | listens on another port |
//! | `flaky` | crashes, unless it is the first of its image here |
//! | anything else | runs, listens and is healthy |

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{
    internal::{
        BadHostRequest, CatalogFeed, Drain, EdgeView, ExecEvent, ExecInput, ExecRequest, ExecSession, GuestProcess,
        GuestReport, HostCertificate, HostCertifier, Launch, ListenSocket, Node, NodeError, NodeView, StopRequest,
    },
    public::edge::{EdgeApp, EdgeConnections, EdgeRoutes},
};
use async_trait::async_trait;
use bytes::Bytes;
use model::{
    Addresses, AppName, HostId, MachineId, Timestamp,
    machine::{
        Action, CheckState, CheckStatus, Event, ExitEvent, Isolation, MachineSpec, MachineState, Observed, Verdict,
    },
};
use tokio::sync::{Notify, mpsc, watch};

pub struct Host {
    view: watch::Sender<Arc<NodeView>>,
    /// Every change to a view, one at a time.
    turn: Mutex<()>,
    calls: AtomicUsize,
    /// The call, and the side of its effect, at which the host freezes.
    freeze_at: Mutex<Option<(usize, Side)>>,
    pub frozen: Notify,
    /// The fewest machines that served since it was last set.
    pub serving: Serving,
    pub drained: Mutex<Vec<MachineId>>,
    pub volumes_destroyed: Mutex<Vec<AppName>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

/// Remembers the fewest machines that ever served at a time.
#[derive(Default)]
pub struct Serving(Mutex<Option<usize>>);

impl Serving {
    pub fn watch(&self, now: usize) {
        *self.0.lock().unwrap() = Some(now);
    }

    pub fn least(&self) -> usize {
        self.0.lock().unwrap().expect("watched before")
    }

    fn note(&self, now: usize) {
        let mut least = self.0.lock().unwrap();
        *least = least.map(|least| least.min(now));
    }
}

impl Host {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            view: watch::Sender::new(Arc::default()),
            turn: Mutex::default(),
            calls: AtomicUsize::new(0),
            freeze_at: Mutex::default(),
            frozen: Notify::new(),
            serving: Serving::default(),
            drained: Mutex::default(),
            volumes_destroyed: Mutex::default(),
        })
    }

    /// Freezes at the so-manieth call from now.
    pub fn freeze_at(&self, call: usize, side: Side) {
        self.calls.store(0, Ordering::SeqCst);
        *self.freeze_at.lock().unwrap() = Some((call, side));
    }

    pub fn thaw(&self) {
        *self.freeze_at.lock().unwrap() = None;
    }

    /// The machines that exist, with their states.
    pub fn machines(&self) -> BTreeMap<MachineId, Arc<Observed>> {
        let mut machines = self.view.borrow().machines.clone();
        machines.retain(|_, observed| observed.state != MachineState::Destroyed);
        machines
    }

    pub fn ready(&self) -> usize {
        self.machines().values().filter(|observed| observed.is_ready()).count()
    }

    /// Puts a machine here that nobody asked for.
    pub fn plant(&self, spec: MachineSpec) {
        self.change(|machines| drop(machines.insert(spec.id.clone(), Arc::new(fresh(spec, false)))));
    }

    /// Forgets a machine, as a host does that lost its disk.
    pub fn lose(&self, id: &MachineId) {
        self.change(|machines| drop(machines.remove(id)));
    }

    async fn gate(&self, side: Side) {
        let call = match side {
            Side::Before => self.calls.fetch_add(1, Ordering::SeqCst) + 1,
            Side::After => self.calls.load(Ordering::SeqCst),
        };
        let frozen = *self.freeze_at.lock().unwrap() == Some((call, side));
        if frozen {
            self.frozen.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<MachineId, Arc<Observed>>) -> T) -> T {
        let _turn = self.turn.lock().unwrap();
        let mut view = NodeView::clone(&self.view.borrow());
        let changed = change(&mut view.machines);
        view.generation += 1;
        self.view.send_replace(Arc::new(view));
        self.serving.note(self.ready());
        changed
    }

    fn with<T>(
        &self,
        id: &MachineId,
        action: Option<Action>,
        change: impl FnOnce(&mut Observed) -> T,
    ) -> Result<Option<T>, NodeError> {
        self.change(|machines| {
            let found = machines.get_mut(id).filter(|observed| observed.state != MachineState::Destroyed);
            let observed = Arc::make_mut(found.ok_or_else(|| NodeError::NotFound(id.clone()))?);
            match action.map_or(Verdict::Accept, |action| observed.state.may(action)) {
                Verdict::Accept => Ok(Some(change(observed))),
                Verdict::Ignore => Ok(None),
                Verdict::Deny(reason) => {
                    Err(NodeError::Denied { machine: id.clone(), state: observed.state, reason: reason.into() })
                }
            }
        })
    }
}

fn fresh(spec: MachineSpec, cordoned: bool) -> Observed {
    let now = Timestamp(kit::clock::unix_ms());
    let private = spec.network.machine_address(&spec.id);
    Observed {
        state: MachineState::Created,
        addresses: Addresses { private, host_local: "10.1.0.2".parse().unwrap() },
        cordoned,
        checks: Vec::new(),
        events: Vec::new(),
        last_exit: None,
        reason: None,
        isolation: None,
        created_at: now,
        updated_at: now,
        spec,
    }
}

fn tell(observed: &mut Observed, kind: &str, exit: Option<ExitEvent>) {
    let exit = serde_json::to_value(exit).unwrap();
    let event = serde_json::json!({
        "id": format!("{:026}", observed.events.len()), "type": kind, "status": observed.state.to_string(),
        "source": "dunlin", "timestamp": kit::clock::unix_ms(), "request": { "exit_event": exit },
    });
    observed.events.insert(0, serde_json::from_value::<Event>(event).unwrap());
}

fn boot(observed: &mut Observed) -> Result<(), NodeError> {
    let image = observed.spec.image.reference.clone();
    if image.starts_with("broken") {
        observed.state = MachineState::Failed;
        observed.reason = Some("the kernel does not boot".into());
        return Err(NodeError::Failed("the kernel does not boot".into()));
    }
    observed.state = MachineState::Started;
    observed.isolation = Some(Isolation::QemuTcg);
    tell(observed, "start", None);
    let status = if image.starts_with("sick") { CheckState::Critical } else { CheckState::Passing };
    let checks = observed.spec.config.services.iter().flat_map(|service| &service.checks).enumerate();
    observed.checks = checks
        .map(|(number, _)| CheckStatus {
            name: format!("servicecheck-{number:02}-http-8080"),
            status,
            output: "connection refused".into(),
            updated_at: Timestamp(0),
        })
        .collect();
    if image.starts_with("crash") || image.starts_with("oom") {
        let oom_killed = image.starts_with("oom");
        let exit_code = if oom_killed { 137 } else { 3 };
        let exit = ExitEvent { exit_code, guest_exit_code: 3, oom_killed, signal: -1, ..ExitEvent::default() };
        observed.state = MachineState::Stopped;
        observed.last_exit = Some(exit.clone());
        tell(observed, "exit", Some(exit));
    }
    Ok(())
}

fn halt(observed: &mut Observed) {
    if observed.state.may_run() {
        observed.state = MachineState::Stopped;
        let exit = ExitEvent { requested_stop: true, signal: -1, ..ExitEvent::default() };
        tell(observed, "exit", Some(exit));
    }
}

#[async_trait]
impl Node for Host {
    async fn create(&self, spec: MachineSpec, launch: Launch) -> Result<Arc<Observed>, NodeError> {
        self.gate(Side::Before).await;
        let id = spec.id.clone();
        self.change(|machines| {
            let first =
                !machines.values().any(|other| other.spec.image.digest == spec.image.digest && other.spec.id != id);
            machines.entry(id.clone()).or_insert_with(|| {
                let mut spec = spec;
                if spec.image.reference.starts_with("flaky") {
                    spec.image.reference = if first { "good:flaky".into() } else { "crash:flaky".into() };
                }
                let mut observed = fresh(spec, launch.cordoned);
                tell(&mut observed, "launch", None);
                if launch.start {
                    let _ = boot(&mut observed);
                }
                Arc::new(observed)
            });
        });
        self.gate(Side::After).await;
        Ok(self.machines()[&id].clone())
    }

    async fn update(&self, spec: MachineSpec) -> Result<Arc<Observed>, NodeError> {
        self.gate(Side::Before).await;
        let id = spec.id.clone();
        self.with(&id, Some(Action::Update), |observed| {
            if observed.spec == spec {
                return;
            }
            let ran = observed.state.may_run();
            halt(observed);
            observed.spec = spec;
            tell(observed, "update", None);
            if ran {
                let _ = boot(observed);
            }
        })?;
        self.gate(Side::After).await;
        Ok(self.machines()[&id].clone())
    }

    async fn start(&self, id: &MachineId) -> Result<MachineState, NodeError> {
        self.gate(Side::Before).await;
        let before = self.machines().get(id).map_or(MachineState::Destroyed, |observed| observed.state);
        self.with(id, Some(Action::Start), boot)?.transpose()?;
        self.gate(Side::After).await;
        Ok(before)
    }

    async fn stop(&self, id: &MachineId, _: StopRequest) -> Result<(), NodeError> {
        self.gate(Side::Before).await;
        self.with(id, Some(Action::Stop), halt)?;
        self.gate(Side::After).await;
        Ok(())
    }

    async fn suspend(&self, id: &MachineId) -> Result<(), NodeError> {
        self.gate(Side::Before).await;
        self.with(id, Some(Action::Suspend), |observed| {
            halt(observed);
            observed.state = MachineState::Suspended;
        })?;
        self.gate(Side::After).await;
        Ok(())
    }

    async fn restart(&self, id: &MachineId, _: StopRequest) -> Result<(), NodeError> {
        self.gate(Side::Before).await;
        let restart = |observed: &mut Observed| {
            halt(observed);
            boot(observed)
        };
        self.with(id, Some(Action::Restart), restart)?.transpose()?;
        self.gate(Side::After).await;
        Ok(())
    }

    async fn signal(&self, id: &MachineId, signal: &str) -> Result<(), NodeError> {
        self.with(id, Some(Action::Signal), |observed| tell(observed, &format!("signal {signal}"), None)).map(drop)
    }

    async fn destroy(&self, id: &MachineId, force: bool) -> Result<(), NodeError> {
        self.gate(Side::Before).await;
        self.with(id, Some(Action::Destroy { force }), |observed| observed.state = MachineState::Destroyed)?;
        self.gate(Side::After).await;
        Ok(())
    }

    async fn cordon(&self, id: &MachineId, cordoned: bool) -> Result<(), NodeError> {
        self.gate(Side::Before).await;
        self.with(id, Some(Action::Cordon), |observed| observed.cordoned = cordoned)?;
        self.gate(Side::After).await;
        Ok(())
    }

    async fn set_metadata(&self, id: &MachineId, metadata: BTreeMap<String, String>) -> Result<(), NodeError> {
        self.with(id, None, |observed| observed.spec.config.metadata = metadata).map(drop)
    }

    async fn exec(&self, id: &MachineId, request: ExecRequest) -> Result<ExecSession, NodeError> {
        self.with(id, Some(Action::Exec), |_| ())?;
        let (input, mut given) = mpsc::channel(8);
        let (said, output) = mpsc::channel(8);
        tokio::spawn(async move {
            // Says its arguments, repeats what it is given, ends with 7.
            let words = Bytes::from(request.command.join(" "));
            let _ = said.send(ExecEvent::Stderr(words)).await;
            while let Some(ExecInput::Stdin(bytes)) = given.recv().await {
                let _ = said.send(ExecEvent::Stdout(bytes)).await;
            }
            let _ = said.send(ExecEvent::Exit { code: 7, signal: 0 }).await;
        });
        Ok(ExecSession { input, output })
    }

    async fn inspect(&self, id: &MachineId) -> Result<GuestReport, NodeError> {
        let machines = self.machines();
        let observed = machines.get(id).ok_or_else(|| NodeError::NotFound(id.clone()))?;
        if observed.state != MachineState::Started {
            return Err(NodeError::Internal("the guest does not answer".into()));
        }
        let image = &observed.spec.image.reference;
        let address = if image.starts_with("local") { "127.0.0.1" } else { "0.0.0.0" };
        let shift = if image.starts_with("deaf") { 1 } else { 0 };
        let socket = |service: &model::machine::Service| ListenSocket {
            protocol: "tcp".into(),
            address: address.parse().unwrap(),
            port: service.internal_port + shift,
        };
        let listening = observed.spec.config.services.iter().map(socket).collect();
        Ok(GuestReport { processes: vec![GuestProcess { pid: 2, ..GuestProcess::default() }], listening })
    }

    async fn destroy_volumes(&self, app: &AppName) -> Result<(), NodeError> {
        self.gate(Side::Before).await;
        self.volumes_destroyed.lock().unwrap().push(app.clone());
        self.gate(Side::After).await;
        Ok(())
    }

    fn observe(&self) -> watch::Receiver<Arc<NodeView>> {
        self.view.subscribe()
    }

    fn isolation(&self) -> (Isolation, String) {
        (Isolation::QemuTcg, "this is a test".into())
    }
}

/// Two apps of the tests have traffic.
impl EdgeView for Host {
    fn metrics(&self, apps: Option<&BTreeSet<AppName>>) -> String {
        let shown = ["nest", "reef"].into_iter().filter(|name| apps.is_none_or(|apps| apps.contains(*name)));
        shown.map(|name| format!("fly_edge_http_responses_count{{app=\"{name}\"}} 1\n")).collect()
    }

    fn routes(&self) -> EdgeRoutes {
        let app = |name: &str| EdgeApp {
            name: name.parse().unwrap(),
            organization: "personal".parse().unwrap(),
            host: format!("{name}.dunlin.localhost"),
            waiting: 0,
            ports: Vec::new(),
        };
        EdgeRoutes { generation: 1, apps: ["nest", "reef"].map(app).into(), left_out: Vec::new() }
    }

    fn connections(&self) -> EdgeConnections {
        EdgeConnections::default()
    }
}

#[async_trait]
impl Drain for Host {
    async fn drained(&self, machine: &MachineId, generation: u64, _: Duration) -> usize {
        self.gate(Side::Before).await;
        let view = self.view.borrow().clone();
        assert!(view.generation >= generation, "a generation that has been seen");
        if let Some(observed) = view.machines.get(machine) {
            assert!(observed.cordoned, "a machine is drained only after it was taken out of the choice");
        }
        self.drained.lock().unwrap().push(machine.clone());
        self.gate(Side::After).await;
        0
    }
}

impl HostCertifier for Host {
    fn certify(&self, host: &HostId, request_pem: &str) -> Result<HostCertificate, BadHostRequest> {
        let certificate_pem = format!("{host}: {request_pem}");
        Ok(HostCertificate { certificate_pem, authority_pem: "an authority".into(), renew_at: Timestamp(1) })
    }
}

/// Nothing has changed since the generation that is asked for.
impl CatalogFeed for Host {
    fn feed(&self, since: Option<u64>) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(1);
        let line = format!("{{\"generation\":{}}}\n", since.unwrap_or(1));
        sender.try_send(line.into()).unwrap();
        receiver
    }
}
