//! The planner against a model of a host on which anything may happen at any moment, the end of the process included.

use model::machine::{MachineSpec, MachineState};
use proptest::prelude::*;

use super::*;
use crate::ledger::{Cause, Down, Made, Suspended};

/// What is really there, whatever the process knows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Host {
    overlay: bool,
    tap: bool,
    firewall: bool,
    cgroup: bool,
    vm: bool,
    memory: bool,
}

struct World {
    host: Host,
    record: Record,
    facts: Facts,
    now: Timestamp,
    /// The VM was launched with kept memory.
    resumes: bool,
    erased: bool,
}

#[derive(Debug, Clone)]
enum Event {
    /// The process takes this many steps.
    Steps(u8),
    /// The process is killed: before its next step takes effect, or after it but before it has noted so.
    Crash {
        after_effect: bool,
    },
    Start,
    Stop {
        kill: bool,
    },
    Suspend {
        cause: Cause,
    },
    /// It falls asleep.
    Sleep,
    /// Something is still under way to a machine that is drained, when its time is over.
    Disturb,
    Restart,
    Update,
    Destroy,
    /// The program ends by itself.
    Exit {
        again: bool,
    },
    /// The virtual machine ends without a word.
    VmDies,
    /// The next wait is not answered: its deadline passes.
    Silence,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..12_u8).prop_map(Event::Steps),
        2 => any::<bool>().prop_map(|after_effect| Event::Crash { after_effect }),
        1 => Just(Event::Start),
        1 => any::<bool>().prop_map(|kill| Event::Stop { kill }),
        2 => any::<bool>().prop_map(|idle| Event::Suspend { cause: if idle { Cause::Idle } else { Cause::Asked } }),
        1 => Just(Event::Sleep),
        1 => Just(Event::Disturb),
        1 => Just(Event::Restart),
        1 => Just(Event::Update),
        1 => Just(Event::Destroy),
        1 => any::<bool>().prop_map(|again| Event::Exit { again }),
        1 => Just(Event::VmDies),
        1 => Just(Event::Silence),
    ]
}

fn spec() -> MachineSpec {
    serde_json::from_value(serde_json::json!({
        "id": "01020304050607", "name": "m", "org": "o", "app": "a", "network": 1, "region": "local",
        "version": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "image": {"reference": "a", "digest": format!("sha256:{}", "0".repeat(64)), "repository": "a"},
        "config": {"image": "a"}, "secrets": {"version": 0, "sealed": ""},
    }))
    .unwrap()
}

impl World {
    fn new(goal: Goal) -> Self {
        let now = Timestamp(1_000_000);
        let record = Record::new(spec(), 1, goal, false, now);
        Self { host: Host::default(), record, facts: Facts::default(), now, resumes: false, erased: false }
    }

    fn step(&self) -> Step {
        next(&self.record, &self.facts, self.now)
    }

    fn happen(&mut self, event: &Event) {
        let running = self.record.made.is_some();
        let order = |kill, cause| Down { kill, signal: 0, timeout_ms: 5000, drain_ms: 5000, cause };
        let down = |kill| running.then_some(order(kill, Cause::Asked));
        if self.erased {
            return;
        }
        match event {
            Event::Steps(count) => (0..*count).for_each(|_| self.go_on(true)),
            Event::Crash { after_effect } => self.crash(*after_effect),
            Event::Silence => self.go_on(false),
            Event::VmDies => self.vm_dies(),
            Event::Exit { again } => self.exit(*again),
            _ if self.record.goal == Goal::Gone => {}
            Event::Suspend { cause } if state(&self.record) == MachineState::Started => {
                (self.record.goal, self.record.down) = (Goal::Suspend, Some(order(false, *cause)));
                self.facts.drained = Have::No;
            }
            Event::Sleep if state(&self.record) == MachineState::Started => {
                (self.record.goal, self.record.down) = (Goal::Rest, Some(order(false, Cause::Idle)));
                self.facts.drained = Have::No;
            }
            Event::Suspend { .. } | Event::Sleep => {}
            Event::Disturb if self.facts.drained == Have::Maybe => {
                self.facts.drained = Have::Yes;
                self.stay_awake();
            }
            Event::Disturb => {}
            Event::Start if self.stay_awake() => {}
            Event::Start => (self.record.goal, self.record.failure, self.record.respawn) = (Goal::Run, None, None),
            Event::Stop { kill } => {
                (self.record.goal, self.record.respawn, self.record.down) = (Goal::Rest, None, down(*kill));
            }
            Event::Restart => {
                (self.record.goal, self.record.failure, self.record.respawn) = (Goal::Run, None, None);
                self.record.down = down(false).or(self.record.down.take());
            }
            Event::Update => {
                (self.record.next_spec, self.record.respawn) = (Some(Box::new(spec())), None);
                self.record.down = self.record.down.take().or(down(false));
            }
            Event::Destroy => {
                (self.record.goal, self.record.next_spec, self.record.respawn) = (Goal::Gone, None, None);
                self.record.down = down(true);
            }
        }
    }

    /// Calls a machine back that was falling asleep and has lost nothing yet.
    fn stay_awake(&mut self) -> bool {
        let idle = self.record.down.as_ref().is_some_and(|down| down.cause == Cause::Idle);
        let dozing = idle && self.facts.vm == Vm::Running;
        if dozing {
            (self.record.goal, self.record.down, self.facts.drained) = (Goal::Run, None, Have::No);
        }
        dozing
    }

    /// Takes the next step, or has the thing happen that is waited for (or not, and its deadline passes).
    fn go_on(&mut self, cooperative: bool) {
        match self.step() {
            Step::Wait(until) if cooperative && self.awaited() => _ = until,
            Step::Wait(Some(until)) => self.now = self.now.max(until),
            Step::Wait(None) => {}
            step => {
                self.effect(step);
                self.note(step);
            }
        }
        self.check();
    }

    /// What a guest and the host's other rooms do in time. Whether there was something.
    fn awaited(&mut self) -> bool {
        if self.facts.rootfs == Have::Maybe && self.host.vm == (self.facts.vm == Vm::Waiting) {
            self.facts.rootfs = Have::Yes;
            return true;
        }
        if self.facts.drained == Have::Maybe && self.facts.vm == Vm::Running {
            self.facts.drained = Have::Yes;
            return true;
        }
        let next = match self.facts.vm {
            Vm::Silent if std::mem::take(&mut self.resumes) => Vm::Running,
            Vm::Suspending => Vm::Dead,
            Vm::Silent => Vm::Waiting,
            Vm::Booting => Vm::Running,
            Vm::Asked(_) => Vm::Over,
            Vm::PoweringOff(_) => Vm::Dead,
            _ => return false,
        };
        if self.facts.vm == Vm::Suspending {
            self.host.memory = true;
            let (overlay, memory, isolation) = ("o".into(), "m".into(), model::machine::Isolation::QemuTcg);
            self.record.suspended = Some(Suspended { boot_id: "b".into(), overlay, memory, isolation });
            self.facts.vm = next;
            return true;
        }
        match next {
            Vm::Running => self.record.made.as_mut().unwrap().started = true,
            Vm::Over => self.record.made.as_mut().unwrap().exited = true,
            Vm::Dead => self.host.vm = false,
            _ => {}
        }
        self.facts.vm = next;
        true
    }

    /// What a step does to the host.
    fn effect(&mut self, step: Step) {
        match step {
            Step::Overlay => self.host.overlay = true,
            Step::Tap => self.host.tap = true,
            Step::Firewall => self.host.firewall = true,
            Step::Cgroup => self.host.cgroup = true,
            Step::Launch => {
                let Host { overlay, tap, firewall, cgroup, vm, .. } = self.host;
                assert!(overlay && tap && firewall && cgroup, "everything is there before the launch");
                assert!(!vm, "one virtual machine at a time");
                // Noted before it takes effect.
                self.resumes = self.record.suspended.take().is_some();
                (self.host.vm, self.host.memory) = (true, false);
            }
            Step::Kill => self.host.vm = false,
            Step::RemoveCgroup => self.host.cgroup = false,
            Step::CloseFirewall => self.host.firewall = false,
            Step::RemoveTap => self.host.tap = false,
            Step::RemoveOverlay => {
                assert!(!self.host.vm, "its disk is not taken away under it");
                self.host.overlay = false;
            }
            Step::Discard => {
                assert!(!self.host.vm, "its disk is not taken away under it");
                (self.host.overlay, self.host.memory) = (false, false);
            }
            Step::Erase => {
                assert_eq!(self.host, Host::default(), "nothing is left behind");
                self.erased = true;
            }
            _ => {}
        }
    }

    /// What the task notes of a step, in the record and in its memory.
    fn note(&mut self, step: Step) {
        let record = &mut self.record;
        match step {
            Step::Fetch => self.facts.rootfs = Have::Maybe,
            Step::Prepare => record.preparation = Preparation::Done,
            Step::Declare => {
                record.respawn = None;
                self.facts = Facts { rootfs: self.facts.rootfs, ..Facts::default() };
                record.made = Some(Made {
                    boot_id: "b".into(),
                    tap: "t".into(),
                    uid: 1,
                    cgroups: Vec::new(),
                    overlay: "o".into(),
                    vm: None,
                    started: false,
                    ready: false,
                    exited: false,
                });
            }
            Step::Overlay => self.facts.overlay = Have::Yes,
            Step::Tap => self.facts.tap = Have::Yes,
            Step::Firewall => self.facts.firewall = Have::Yes,
            Step::Cgroup => self.facts.cgroup = Have::Yes,
            Step::Launch => {
                self.facts.vm = Vm::Silent;
                self.facts.boot_deadline = Timestamp(self.now.0 + 60_000);
            }
            Step::Boot => self.facts.vm = Vm::Booting,
            Step::GiveUp => {
                if std::mem::take(&mut self.resumes) && !record.made.as_ref().unwrap().started {
                    self.facts.overlay = Have::Maybe;
                } else if record.made.as_ref().unwrap().started {
                    record.made.as_mut().unwrap().exited = true;
                    record.respawn = Some(self.now);
                } else {
                    (record.goal, record.failure) = (Goal::Rest, Some("late".into()));
                }
                self.facts.vm = Vm::Dead;
            }
            Step::Drain => self.facts.drained = Have::Maybe,
            Step::Suspend => self.facts.vm = Vm::Suspending,
            Step::Discard => record.suspended = None,
            Step::Ask => self.facts.vm = Vm::Asked(Timestamp(self.now.0 + 5000)),
            Step::PowerOff => self.facts.vm = Vm::PoweringOff(Timestamp(self.now.0 + 10_000)),
            Step::Kill => self.facts.vm = Vm::Absent,
            Step::RemoveCgroup => self.facts.cgroup = Have::No,
            Step::CloseFirewall => self.facts.firewall = Have::No,
            Step::RemoveTap => self.facts.tap = Have::No,
            Step::RemoveOverlay => self.facts.overlay = Have::No,
            Step::Undeclare => {
                let kept = record.suspended.is_some();
                let left = Host { overlay: kept, memory: kept, ..Host::default() };
                assert_eq!(self.host, left, "the record forgets only what is gone");
                record.made = None;
            }
            Step::Replace => {
                record.spec = *record.next_spec.take().unwrap();
                (record.preparation, self.facts.rootfs) = (Preparation::Replaced, Have::No);
            }
            Step::Land => record.down = None,
            Step::Erase | Step::Wait(_) => {}
        }
    }

    fn exit(&mut self, again: bool) {
        if self.facts.vm != Vm::Running {
            return;
        }
        self.facts.vm = Vm::Over;
        self.ended(again);
    }

    fn vm_dies(&mut self) {
        self.host.vm = false;
        match self.facts.vm {
            Vm::Absent | Vm::Unknown => return,
            Vm::Running => self.ended(true),
            Vm::Silent if std::mem::take(&mut self.resumes) => self.facts.overlay = Have::Maybe,
            Vm::Silent | Vm::Waiting | Vm::Booting if self.record.goal != Goal::Gone => {
                (self.record.goal, self.record.failure, self.record.down) = (Goal::Rest, Some("died".into()), None);
            }
            _ => {}
        }
        self.facts.vm = Vm::Dead;
    }

    fn ended(&mut self, again: bool) {
        self.record.made.as_mut().unwrap().exited = true;
        match () {
            () if self.record.goal != Goal::Run || self.record.down.is_some() => {}
            () if again => self.record.respawn = Some(Timestamp(self.now.0 + 1000)),
            () => self.record.goal = Goal::Rest,
        }
    }

    /// Another process takes over, with nothing but the record and what it finds.
    fn crash(&mut self, after_effect: bool) {
        let step = self.step();
        if after_effect {
            self.effect(step);
        }
        if self.erased {
            return;
        }
        self.resumes = false;
        let found = if self.host.vm && self.record.made.is_some() { Vm::Silent } else { Vm::Unknown };
        self.facts = Facts::after_restart(&self.record, found);
        self.facts.boot_deadline = Timestamp(self.now.0 + 60_000);
        self.check();
    }

    /// What holds at every moment.
    fn check(&self) {
        let anything = self.host != Host::default();
        let known = self.record.made.is_some() || self.record.suspended.is_some();
        assert!(!anything || known, "whatever is on the host stands in the ledger");
    }

    fn settle(&mut self) {
        for _ in 0..300 {
            if self.erased || self.step() == Step::Wait(None) && !self.awaited() {
                return;
            }
            self.go_on(true);
        }
        panic!("no rest: {:?} {:?} {:?}", self.step(), self.facts, self.record);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_a_machine_ends_up_where_it_is_meant_to(
        start: bool,
        events in prop::collection::vec(any_event(), 0..40),
    ) {
        let mut world = World::new(if start { Goal::Run } else { Goal::Rest });
        for event in &events {
            world.happen(event);
        }
        world.settle();
        match world.record.goal {
            Goal::Gone => prop_assert!(world.erased),
            Goal::Rest => {
                prop_assert_eq!(&world.host, &Host::default());
                let state = state(&world.record);
                prop_assert!(state.rests() && state != MachineState::Started, "{}", state);
            }
            Goal::Suspend => {
                let kept = world.record.suspended.is_some();
                let left = Host { overlay: kept, memory: kept, ..Host::default() };
                prop_assert_eq!(&world.host, &left, "what is kept is kept whole");
                let expected = if kept { MachineState::Suspended } else { MachineState::Stopped };
                prop_assert_eq!(state(&world.record), expected);
            }
            Goal::Run => {
                prop_assert_eq!(state(&world.record), MachineState::Started);
                prop_assert!(world.host.vm && world.facts.vm == Vm::Running);
            }
        }
    }
}
