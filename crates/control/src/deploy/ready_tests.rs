//! When a machine counts as ready, and why it does not.

use api::internal::GuestProcess;
use model::machine::{Check, Service};

use super::*;

const SMOKE: Duration = Duration::from_secs(3);

fn tempo() -> Tempo {
    Tempo { smoke: SMOKE, loopback_grace: Duration::from_secs(10), ..Tempo::default() }
}

fn listening(address: &str, port: u16) -> GuestReport {
    let socket = ListenSocket { protocol: "tcp".into(), address: address.parse().unwrap(), port };
    GuestReport { processes: vec![GuestProcess::default()], listening: vec![socket] }
}

fn service(port: u16, checks: usize) -> MachineConfig {
    let service = Service { internal_port: port, checks: vec![Check::default(); checks], ..Service::default() };
    MachineConfig { services: vec![service], ..MachineConfig::default() }
}

fn observed(checks: &[CheckState]) -> Observed {
    let spec = serde_json::json!({
        "id": "00000000000001", "name": "m", "org": "personal", "app": "app", "network": 1, "region": "local",
        "version": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "image": {"reference": "app", "digest": format!("sha256:{}", "0".repeat(64))},
        "config": {}, "secrets": {"version": 0, "sealed": ""},
    });
    let check = |(number, status): (usize, &CheckState)| model::machine::CheckStatus {
        name: format!("servicecheck-{number:02}"),
        status: *status,
        output: String::new(),
        updated_at: model::Timestamp(0),
    };
    Observed {
        spec: serde_json::from_value(spec).unwrap(),
        state: MachineState::Started,
        addresses: model::Addresses { private: "fdaa::1".parse().unwrap(), host_local: "10.0.0.1".parse().unwrap() },
        cordoned: true,
        checks: checks.iter().enumerate().map(check).collect(),
        events: Vec::new(),
        last_exit: None,
        reason: None,
        isolation: None,
        created_at: model::Timestamp(0),
        updated_at: model::Timestamp(0),
    }
}

#[test]
fn with_checks_it_is_ready_when_they_pass_and_not_before_they_are_known() {
    let now = Instant::now();
    let mut probe = Probe::new(&service(80, 1), tempo());
    let deaf = GuestReport::default();
    assert!(matches!(probe.look(now, &observed(&[]), Some(&deaf)), Look::Again(_)));
    assert!(matches!(probe.look(now, &observed(&[CheckState::Critical]), Some(&deaf)), Look::Again(_)));
    assert_eq!(probe.look(now, &observed(&[CheckState::Passing]), None), Look::Ready);
}

#[test]
fn without_checks_its_port_must_listen_where_it_can_be_reached() {
    let now = Instant::now();
    let mut probe = Probe::new(&service(80, 0), tempo());
    assert!(matches!(probe.look(now, &observed(&[]), None), Look::Again(_)));
    assert!(matches!(probe.look(now, &observed(&[]), Some(&listening("0.0.0.0", 81))), Look::Again(_)));
    assert!(matches!(probe.look(now, &observed(&[]), Some(&listening("127.0.0.1", 80))), Look::Again(_)));
    assert_eq!(probe.look(now, &observed(&[]), Some(&listening("::", 80))), Look::Ready);
}

#[test]
fn on_the_loopback_address_alone_it_fails_after_a_grace() {
    let now = Instant::now();
    let mut probe = Probe::new(&service(80, 1), tempo());
    let report = listening("::ffff:127.0.0.1", 80);
    let critical = observed(&[CheckState::Critical]);
    assert!(matches!(probe.look(now, &critical, Some(&report)), Look::Again(_)));
    let later = now + Duration::from_secs(10);
    assert!(matches!(probe.look(later, &critical, Some(&report)), Look::Failed(why) if why.contains(":80 only")));
}

#[test]
fn without_services_it_must_keep_running_for_a_while() {
    let now = Instant::now();
    let mut probe = Probe::new(&MachineConfig::default(), tempo());
    assert_eq!(probe.look(now, &observed(&[]), None), Look::Again(SMOKE));
    assert_eq!(probe.look(now + SMOKE, &observed(&[]), None), Look::Ready);
}

#[test]
fn an_exit_counts_only_if_nobody_asked_for_it_and_only_since_the_last_change() {
    let event = |kind: &str, requested_stop: Option<bool>| {
        let exit = requested_stop.map(|requested_stop| {
            serde_json::json!({
                "exit_code": 3, "guest_exit_code": 3, "guest_signal": 0, "oom_killed": false,
                "requested_stop": requested_stop, "restarting": false, "signal": -1, "exited_at": 0,
            })
        });
        serde_json::from_value(serde_json::json!({
            "id": "1", "type": kind, "status": "", "source": "dunlin", "timestamp": 0, "request": {"exit_event": exit},
        }))
        .unwrap()
    };
    let mut machine = observed(&[]);
    machine.events = vec![event("exit", Some(true)), event("update", None), event("exit", Some(false))];
    assert_eq!(crash(&machine), None);
    machine.events.insert(0, event("exit", Some(false)));
    assert_eq!(crash(&machine).map(|exit| exit.exit_code), Some(3));
    let version = machine.spec.version.clone();
    assert!(matches!(standing(&machine, &version, Exits::Fail), Standing::Failed(why) if why.contains("exit code 3")));
    assert_eq!(standing(&machine, &version, Exits::Pass), Standing::Started);
}
