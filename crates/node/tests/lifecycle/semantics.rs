//! What each call means, and what happens by itself.

use std::{collections::BTreeMap, path::Path, time::Duration};

use api::internal::{Idleness, Launch, Nap, Node, NodeError, StopRequest, Wake};
use model::{
    GoDuration, MachineId,
    machine::{Event, FileSpec, MachineSpec, MachineState, Observed, RestartPolicy, SealedSecrets, Sleep, StopConfig},
};
use node::StepProbe;
use tokio::runtime::Runtime;

use crate::world::{World, in_own_network, leftovers, machine};

const START: Launch = Launch { start: true, cordoned: false };

/// Runs a test with a node, in a network of its own, and looks for leftovers.
fn with_world<F: Future<Output = World>>(test: &str, work: impl FnOnce(World) -> F) {
    with_impatient_world(test, Duration::from_secs(30), work);
}

fn with_impatient_world<F: Future<Output = World>>(test: &str, boot: Duration, work: impl FnOnce(World) -> F) {
    if !in_own_network(&format!("semantics::{test}")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    Runtime::new().unwrap().block_on(async {
        let world = work(World::open_with(directory.path(), StepProbe::none(), boot).await).await;
        let machines: Vec<MachineId> = world.node.observe().borrow().machines.keys().cloned().collect();
        for id in machines {
            world.node.destroy(&id, true).await.unwrap();
        }
        world.node.shutdown_and_stop_all().await.unwrap();
    });
    assert_eq!(leftovers(directory.path()), Vec::<String>::new());
}

fn is(state: MachineState) -> impl Fn(&Observed) -> bool {
    move |machine| machine.state == state
}

async fn started(world: &World, spec: &MachineSpec) {
    world.node.create(spec.clone(), START).await.unwrap();
    world.until(&spec.id, is(MachineState::Started)).await;
}

fn kinds(machine: &Observed) -> Vec<&str> {
    machine.events.iter().map(|event| event.kind.as_str()).collect()
}

fn next_version(mut spec: MachineSpec, program: &str) -> MachineSpec {
    spec.version = model::InstanceId::new(kit::clock::unix_ms(), kit::random::bytes());
    spec.image.reference = program.into();
    spec
}

#[test]
fn a_machine_is_created_started_stopped_and_destroyed() {
    with_world("a_machine_is_created_started_stopped_and_destroyed", |world| async {
        let (spec, node) = (machine(1, "serve"), &world.node);
        let id = &spec.id;
        let made = node.create(spec.clone(), Launch { start: false, cordoned: false }).await.unwrap();
        assert!(matches!(made.state, MachineState::Creating | MachineState::Created));
        world.until(id, is(MachineState::Created)).await;
        node.create(spec.clone(), START).await.expect("the same spec again changes nothing");

        assert_eq!(node.start(id).await.unwrap(), MachineState::Created);
        assert_eq!(node.start(id).await.unwrap(), MachineState::Started);
        let first = world.exec(id, "pid").await;
        let denied = node.destroy(id, false).await.unwrap_err();
        assert!(matches!(denied, NodeError::Denied { state: MachineState::Started, .. }), "{denied}");

        node.stop(id, StopRequest::default()).await.unwrap();
        let stopped = world.seen(id).unwrap();
        assert_eq!(stopped.state, MachineState::Stopped);
        let exit = stopped.last_exit.clone().unwrap();
        assert_eq!((exit.guest_signal, exit.exit_code, exit.requested_stop), (2, 130, true));
        assert_eq!(leftovers(&world.directory).len(), 1, "only its record: {:?}", leftovers(&world.directory));
        node.stop(id, StopRequest::default()).await.expect("it is so already");

        node.start(id).await.unwrap();
        node.restart(id, StopRequest { signal: Some("SIGTERM".into()), timeout: None }).await.unwrap();
        assert_ne!(world.exec(id, "pid").await, first);
        let restarted = world.seen(id).unwrap();
        assert_eq!(restarted.last_exit.as_ref().unwrap().guest_signal, 15);
        assert_eq!(kinds(&restarted)[..4], ["start", "exit", "restart", "start"]);
        assert!(restarted.events.windows(2).all(|pair| pair[0].timestamp >= pair[1].timestamp));
        let messages = world.messages();
        for expected in ["it runs", "Starting machine", "Machine started in", "as requested"] {
            assert!(messages.iter().any(|message| message.contains(expected)), "{expected}: {messages:?}");
        }

        node.destroy(id, true).await.unwrap();
        assert_eq!(world.seen(id).unwrap().state, MachineState::Destroyed);
        node.destroy(id, true).await.expect("it is gone already");
        assert!(matches!(node.start(id).await, Err(NodeError::NotFound(_))));
        world
    });
}

#[test]
fn the_guest_is_told_its_environment_hosts_and_files() {
    with_world("the_guest_is_told_its_environment_hosts_and_files", |world| async {
        let mut spec = machine(1, "serve");
        let secrets = world.key.seal(&SealedSecrets::place(&spec.app), br#"{"BOTH":"secret","FILE":"aGk="}"#);
        spec.secrets = SealedSecrets { version: 1, sealed: secrets };
        spec.config.env = [("BOTH", "config"), ("OWN", "1")].map(|(name, value)| (name.into(), value.into())).into();
        spec.config.metadata.insert("fly_process_group".into(), "web".into());
        spec.config.files =
            vec![FileSpec { guest_path: "/f".into(), secret_name: Some("FILE".into()), ..FileSpec::default() }];
        started(&world, &spec).await;

        let env = world.exec(&spec.id, "env").await;
        let mut told = BTreeMap::new();
        told.extend(env.lines().filter_map(|line| line.split_once('=')));
        let private = spec.network.machine_address(&spec.id).to_string();
        for (name, value) in [
            ("FROM", "image"),
            ("OWN", "1"),
            ("BOTH", "secret"),
            ("FLY_APP_NAME", "a"),
            ("FLY_MACHINE_ID", spec.id.as_str()),
            ("FLY_ALLOC_ID", spec.id.as_str()),
            ("FLY_MACHINE_VERSION", spec.version.as_str()),
            ("FLY_REGION", "local"),
            ("FLY_IMAGE_REF", "a:v1"),
            ("FLY_PRIVATE_IP", &private),
            ("FLY_PROCESS_GROUP", "web"),
            ("FLY_VM_MEMORY_MB", "256"),
            ("PRIMARY_REGION", "local"),
        ] {
            assert_eq!(told.get(name), Some(&value), "{name}");
        }
        let hosts = world.exec(&spec.id, "hosts").await;
        assert!(hosts.contains("fly-local-6pn") && hosts.contains(&private), "{hosts}");
        assert_eq!(world.exec(&spec.id, "files").await, "/f=aGk=");
        world
    });
}

#[test]
fn a_program_that_ends_is_started_again_as_its_policy_says() {
    with_world("a_program_that_ends_is_started_again_as_its_policy_says", |world| async {
        let policy = |number, program: &str, policy, max_retries| {
            let mut spec = machine(number, program);
            (spec.config.restart.policy, spec.config.restart.max_retries) = (policy, max_retries);
            spec
        };
        let crashes = policy(1, "exit 3", RestartPolicy::OnFailure, Some(1));
        let done = policy(2, "exit 0", RestartPolicy::OnFailure, None);
        let never = policy(3, "exit 3", RestartPolicy::No, None);
        let mut temporary = policy(4, "exit 0", RestartPolicy::No, None);
        temporary.config.auto_destroy = true;
        let always = policy(5, "serve", RestartPolicy::Always, None);
        for spec in [&crashes, &done, &never, &temporary, &always] {
            world.node.create(spec.clone(), START).await.unwrap();
        }
        let exits = |machine: &Observed| kinds(machine).iter().filter(|kind| **kind == "exit").count();
        let stopped = world.until(&crashes.id, |it| it.state == MachineState::Stopped && exits(it) == 2).await;
        let exit = stopped.last_exit.clone().unwrap();
        assert_eq!((exit.exit_code, exit.requested_stop, exit.restarting), (3, false, false));
        for spec in [&done, &never] {
            let stopped = world.until(&spec.id, is(MachineState::Stopped)).await;
            assert_eq!(exits(&stopped), 1, "{:?}", stopped.events);
        }
        world.until(&temporary.id, is(MachineState::Destroyed)).await;

        world.until(&always.id, is(MachineState::Started)).await;
        let before = world.exec(&always.id, "pid").await;
        world.node.signal(&always.id, "SIGUSR1").await.unwrap();
        let again = |it: &Observed| it.state == MachineState::Started && exits(it) == 1;
        world.until(&always.id, again).await;
        assert_ne!(world.exec(&always.id, "pid").await, before);
        world
    });
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing_half_made() {
    let test = "a_start_that_fails_says_why_and_leaves_nothing_half_made";
    with_impatient_world(test, Duration::from_secs(2), |world| async {
        for (number, program, reason) in
            [(1, "missing", "push it"), (2, "fail", "there is no such file"), (3, "mute", "not started within 2 s")]
        {
            let spec = machine(number, program);
            world.node.create(spec.clone(), START).await.unwrap();
            let failed = world.until(&spec.id, is(MachineState::Failed)).await;
            assert!(failed.reason.as_deref().unwrap().contains(reason), "{:?}", failed.reason);
            let error = world.node.start(&spec.id).await.unwrap_err();
            assert!(matches!(&error, NodeError::Failed(why) if why.contains(reason)), "{error}");
            let left = leftovers(&world.directory);
            assert!(left.iter().all(|it| it.starts_with("file machines/")), "{left:?}");

            world.node.update(next_version(spec.clone(), "serve")).await.unwrap();
            world.until(&spec.id, is(MachineState::Started)).await;
            world.node.destroy(&spec.id, true).await.unwrap();
        }
        world
    });
}

#[test]
fn a_program_that_heeds_nothing_is_killed_and_force_does_not_wait_for_it() {
    with_world("a_program_that_heeds_nothing_is_killed_and_force_does_not_wait_for_it", |world| async {
        let mut spec = machine(1, "stubborn");
        spec.config.stop_config = StopConfig { timeout: Some(GoDuration::from_millis(10)), ..StopConfig::default() };
        started(&world, &spec).await;
        world.node.stop(&spec.id, StopRequest::default()).await.unwrap();
        let exit = world.seen(&spec.id).unwrap().last_exit.clone().unwrap();
        assert_eq!((exit.signal, exit.exit_code, exit.requested_stop), (9, 137, true));

        world.node.start(&spec.id).await.unwrap();
        let patient = StopRequest { signal: None, timeout: Some(Duration::from_secs(300)) };
        let stop = tokio::spawn({
            let (node, id) = (world.node.clone(), spec.id.clone());
            async move { node.stop(&id, patient).await }
        });
        world.until(&spec.id, is(MachineState::Stopping)).await;
        world.node.destroy(&spec.id, true).await.unwrap();
        stop.await.unwrap().unwrap();
        world
    });
}

#[test]
fn a_call_that_another_one_overtakes_is_told_so() {
    with_world("a_call_that_another_one_overtakes_is_told_so", |world| async {
        let spec = machine(1, "mute");
        world.node.create(spec.clone(), Launch { start: false, cordoned: false }).await.unwrap();
        let start = tokio::spawn({
            let (node, id) = (world.node.clone(), spec.id.clone());
            async move { node.start(&id).await }
        });
        world.until(&spec.id, is(MachineState::Starting)).await;
        world.node.stop(&spec.id, StopRequest::default()).await.unwrap();
        assert!(matches!(start.await.unwrap(), Err(NodeError::Denied { .. })));
        assert_eq!(world.seen(&spec.id).unwrap().state, MachineState::Created);
        world
    });
}

#[test]
fn a_node_takes_over_what_the_one_before_it_left() {
    if !in_own_network("semantics::a_node_takes_over_what_the_one_before_it_left") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    Runtime::new().unwrap().block_on(async {
        let (spec, stopped) = (machine(1, "serve"), machine(2, "serve"));
        let world = World::open(directory.path(), StepProbe::none()).await;
        for spec in [&spec, &stopped] {
            started(&world, spec).await;
        }
        world.node.stop(&stopped.id, StopRequest::default()).await.unwrap();
        let (pid, generation) = (world.exec(&spec.id, "pid").await, generation(&world));
        world.node.shutdown().await;
        assert!(Path::new(&format!("/proc/{pid}")).exists(), "it runs without the node");

        let world = World::open(directory.path(), StepProbe::none()).await;
        assert!(self::generation(&world) >= generation);
        world.until(&stopped.id, is(MachineState::Stopped)).await;
        world.until(&spec.id, is(MachineState::Started)).await;
        assert_eq!(world.exec(&spec.id, "pid").await, pid, "the same virtual machine");
        world.node.shutdown().await;

        // As after a reboot of the host: it does not run any more, but should.
        let process = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        let world = World::open(directory.path(), StepProbe::none()).await;
        let again = |it: &Observed| it.state == MachineState::Started && kinds(it)[..2] == ["start", "exit"];
        world.until(&spec.id, again).await;
        assert_ne!(world.exec(&spec.id, "pid").await, pid);

        // Everything is stopped for a while, and comes back.
        world.node.shutdown_and_stop_all().await.unwrap();
        let left = leftovers(directory.path());
        assert_eq!(left.len(), 2, "only their records: {left:?}");
        let world = World::open(directory.path(), StepProbe::none()).await;
        world.until(&spec.id, is(MachineState::Started)).await;
        assert_eq!(world.seen(&stopped.id).unwrap().state, MachineState::Stopped);
        for id in [&spec.id, &stopped.id] {
            world.node.destroy(id, true).await.unwrap();
        }
        world.node.shutdown().await;
    });
    assert_eq!(leftovers(directory.path()), Vec::<String>::new());
}

fn generation(world: &World) -> u64 {
    world.node.observe().borrow().generation
}

#[test]
fn each_machine_holds_a_volume_of_its_own_and_leaves_it_to_the_next() {
    with_world("each_machine_holds_a_volume_of_its_own_and_leaves_it_to_the_next", |world| async {
        let with_volume = |number| {
            let mut spec = machine(number, "serve");
            spec.config.mounts = serde_json::from_str(r#"[{"name": "data", "path": "/data"}]"#).unwrap();
            spec
        };
        let volumes = || std::fs::read_dir(world.directory.join("volumes/a")).map_or(0, Iterator::count);
        let (one, two, three) = (with_volume(1), with_volume(2), with_volume(3));
        for spec in [&one, &two] {
            started(&world, spec).await;
        }
        assert_eq!(volumes(), 2);
        world.node.destroy(&one.id, true).await.unwrap();
        started(&world, &three).await;
        assert_eq!(volumes(), 2, "the free one is used again");
        assert!(matches!(world.node.destroy_volumes(&one.app).await, Err(NodeError::Denied { .. })));
        for spec in [&two, &three] {
            world.node.destroy(&spec.id, true).await.unwrap();
        }
        world.node.destroy_volumes(&one.app).await.unwrap();
        assert_eq!(volumes(), 0);
        world
    });
}

#[test]
fn a_machine_that_cannot_be_run_here_is_refused_with_what_to_do() {
    with_world("a_machine_that_cannot_be_run_here_is_refused_with_what_to_do", |world| async {
        let mut large = machine(1, "serve");
        large.config.guest.memory_mb = 1 << 20;
        let refused = world.node.create(large, START).await.unwrap_err();
        assert!(matches!(&refused, NodeError::Capacity(why) if why.contains("less memory")), "{refused}");
        let mut odd = machine(1, "serve");
        odd.config.stop_config.signal = Some("SIGNAL".into());
        let refused = world.node.create(odd, START).await.unwrap_err();
        assert!(matches!(&refused, NodeError::Invalid(why) if why.contains("SIGTERM")), "{refused}");
        assert!(world.node.observe().borrow().machines.is_empty());
        world
    });
}

#[test]
fn a_change_of_traffic_or_labels_makes_no_new_version() {
    with_world("a_change_of_traffic_or_labels_makes_no_new_version", |world| async {
        let spec = machine(1, "serve");
        started(&world, &spec).await;
        let pid = world.exec(&spec.id, "pid").await;
        world.node.cordon(&spec.id, true).await.unwrap();
        assert!(world.seen(&spec.id).unwrap().cordoned);
        assert!(!world.seen(&spec.id).unwrap().is_ready());
        let labels = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
        world.node.set_metadata(&spec.id, labels.clone()).await.unwrap();
        let seen = world.seen(&spec.id).unwrap();
        assert_eq!((&seen.spec.config.metadata, &seen.spec.version), (&labels, &spec.version));
        world.node.cordon(&spec.id, false).await.unwrap();
        assert!(world.seen(&spec.id).unwrap().is_ready());
        assert_eq!(world.exec(&spec.id, "pid").await, pid);

        world.node.stop(&spec.id, StopRequest::default()).await.unwrap();
        world.node.update(next_version(spec.clone(), "serve")).await.unwrap();
        let changed = |it: &Observed| it.spec.version != spec.version && it.state == MachineState::Stopped;
        world.until(&spec.id, changed).await;
        world
    });
}

#[test]
fn a_record_that_cannot_be_read_takes_no_other_machine_down() {
    with_world("a_record_that_cannot_be_read_takes_no_other_machine_down", |world| async move {
        let spec = machine(1, "serve");
        started(&world, &spec).await;
        let pid = world.exec(&spec.id, "pid").await;
        world.node.shutdown().await;
        let poisoned = world.directory.join("machines/ffffffffffffff");
        std::fs::create_dir(&poisoned).unwrap();
        std::fs::write(poisoned.join("record.json"), "{").unwrap();

        let world = World::open(&world.directory, StepProbe::none()).await;
        world.until(&spec.id, is(MachineState::Started)).await;
        assert_eq!(world.exec(&spec.id, "pid").await, pid);
        assert!(poisoned.exists(), "it is left alone");
        std::fs::remove_dir_all(&poisoned).unwrap();
        world
    });
}

const IDLE: Idleness = Idleness::Idle(Duration::from_secs(60));

#[test]
fn a_machine_that_sleeps_stays_so_until_it_is_woken() {
    with_world("a_machine_that_sleeps_stays_so_until_it_is_woken", |world| async {
        let (spec, node) = (machine(1, "serve"), &world.node);
        let id = &spec.id;
        started(&world, &spec).await;
        assert_eq!(node.sleep(id, Sleep::Stopped, IDLE).await.unwrap(), Nap::Asleep);
        let asleep = world.seen(id).unwrap();
        assert_eq!(asleep.state, MachineState::Stopped);
        assert!(Event::rests_for_want_of_traffic(&asleep.events), "{:?}", asleep.events);
        assert_eq!(node.sleep(id, Sleep::Stopped, IDLE).await.unwrap(), Nap::Asleep, "it is so already");

        node.wake(id).await.unwrap();
        let awake = world.seen(id).unwrap();
        assert_eq!(awake.state, MachineState::Started);
        assert!(!Event::rests_for_want_of_traffic(&awake.events));
        node.stop(id, StopRequest::default()).await.unwrap();
        assert!(!Event::rests_for_want_of_traffic(&world.seen(id).unwrap().events), "somebody wanted it to rest");
        assert!(world.messages().iter().any(|line| line.contains("nothing to do for 1m0s and is stopped")));
        world
    });
}

#[test]
fn a_driver_that_keeps_no_memory_stops_instead_and_says_so() {
    with_world("a_driver_that_keeps_no_memory_stops_instead_and_says_so", |world| async {
        let (spec, node) = (machine(1, "serve"), &world.node);
        let id = &spec.id;
        started(&world, &spec).await;
        node.suspend(id).await.unwrap();
        assert_eq!(world.seen(id).unwrap().state, MachineState::Stopped);
        node.start(id).await.unwrap();
        assert_eq!(node.sleep(id, Sleep::Suspended, IDLE).await.unwrap(), Nap::Asleep);
        assert_eq!(world.seen(id).unwrap().state, MachineState::Stopped);
        let told = world.messages().iter().filter(|line| line.contains("cannot be suspended and is stopped")).count();
        assert_eq!(told, 2, "{:?}", world.messages());
        let denied = node.suspend(id).await.unwrap_err();
        assert!(matches!(denied, NodeError::Denied { .. }), "{denied}");
        world
    });
}

#[test]
fn a_program_that_says_it_is_busy_is_not_put_to_sleep() {
    with_world("a_program_that_says_it_is_busy_is_not_put_to_sleep", |world| async {
        let (spec, node) = (machine(1, "serve"), &world.node);
        let id = &spec.id;
        started(&world, &spec).await;
        world.run(id, &["busy", "600000"]).await;
        let nap = node.sleep(id, Sleep::Stopped, IDLE).await.unwrap();
        assert!(matches!(nap, Nap::Busy(left) if left > Duration::from_secs(500)), "{nap:?}");
        assert_eq!(world.seen(id).unwrap().state, MachineState::Started);
        world.run(id, &["busy", "0"]).await;
        assert_eq!(node.sleep(id, Sleep::Stopped, IDLE).await.unwrap(), Nap::Asleep);
        world
    });
}

#[test]
fn what_is_still_under_way_keeps_a_machine_awake_but_does_not_refuse_a_stop() {
    with_world("what_is_still_under_way_keeps_a_machine_awake_but_does_not_refuse_a_stop", |world| async {
        let (spec, node) = (machine(1, "serve"), &world.node);
        let id = &spec.id;
        started(&world, &spec).await;
        let pid = world.exec(id, "pid").await;
        world.traffic.set(id, 1);
        assert_eq!(node.sleep(id, Sleep::Stopped, IDLE).await.unwrap(), Nap::Disturbed);
        assert_eq!(world.seen(id).unwrap().state, MachineState::Started);
        assert_eq!(world.exec(id, "pid").await, pid, "it has not been touched");

        // A request that comes while the last ones end calls it back at once.
        world.traffic.hold();
        let falling = node.sleep(id, Sleep::Stopped, IDLE);
        let (nap, ()) = tokio::join!(falling, async {
            world.until(id, is(MachineState::Stopping)).await;
            node.wake(id).await.unwrap();
        });
        assert_eq!(nap.unwrap(), Nap::Disturbed);
        assert_eq!(world.exec(id, "pid").await, pid, "it has not been touched");

        world.traffic.set(id, 2);
        world.traffic.release();
        node.stop(id, StopRequest::default()).await.unwrap();
        assert_eq!(world.seen(id).unwrap().state, MachineState::Stopped);
        let asked = world.traffic.asked();
        assert_eq!(asked.last().map(|(id, state)| (id, *state)), Some((id, MachineState::Stopping)));
        world
    });
}
