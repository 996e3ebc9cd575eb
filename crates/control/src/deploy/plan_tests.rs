//! Plans: what they do, and that undoing them leads back.

use proptest::prelude::*;

use super::*;

/// Counts identifiers up, so that a test can tell them apart.
#[derive(Default)]
struct Counter(u8);

impl Ids for Counter {
    fn machine(&mut self) -> MachineId {
        self.0 += 1;
        MachineId::from_random([0xaa, 0, 0, 0, 0, 0, self.0])
    }

    fn version(&mut self) -> InstanceId {
        self.0 += 1;
        InstanceId::new(2, [self.0; 10])
    }
}

const GROUPS: [&str; 3] = ["web", "worker", "db"];

fn present(number: u8, group: &str, release: u32, volume: bool, state: Before) -> Present {
    Present {
        id: MachineId::from_random([0, 0, 0, 0, 0, 0, number]),
        group: group.to_owned(),
        release: Some(release),
        version: InstanceId::new(1, [number; 10]),
        volumes: if volume { vec!["data".to_owned()] } else { Vec::new() },
        state,
    }
}

fn machines() -> impl Strategy<Value = Vec<Present>> {
    let machine = (0..GROUPS.len(), 1..3_u32, any::<bool>(), any::<bool>(), any::<bool>());
    prop::collection::vec(machine, 0..6).prop_map(|all| {
        let one = |(number, (group, release, volume, running, cordoned)): (usize, (usize, u32, bool, bool, bool))| {
            let state = Before { running, cordoned };
            present(number as u8, GROUPS[group], release, volume, state)
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

fn wanted() -> impl Strategy<Value = Vec<Wanted>> {
    let group = |name: &'static str| {
        (0..4_u32, any::<bool>(), any::<bool>()).prop_map(move |(count, volume, exists)| {
            let volumes = if volume { vec!["data".to_owned()] } else { Vec::new() };
            exists.then(|| Wanted { name: name.to_owned(), count, volumes })
        })
    };
    (group("web"), group("worker"), group("db")).prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect())
}

/// A host on which steps do what they say.
#[derive(Debug, Clone, PartialEq)]
struct World(std::collections::BTreeMap<MachineId, (String, InstanceId, Before)>);

impl World {
    fn of(present: &[Present]) -> Self {
        Self(present.iter().map(|one| (one.id.clone(), (one.group.clone(), one.version.clone(), one.state))).collect())
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Launch { machine, version, group, cordoned } => {
                let state = Before { running: true, cordoned: *cordoned };
                self.0.insert(machine.clone(), (group.clone(), version.clone(), state));
            }
            Step::Update { machine, to, .. } => self.change(machine, |one| {
                one.1 = to.clone();
                one.2.running = true;
            }),
            Step::Admit { machine } => self.change(machine, |one| one.2.cordoned = false),
            Step::Retire { machine, .. } => {
                self.change(machine, |one| one.2 = Before { running: false, cordoned: true });
            }
            Step::Destroy { machine } => drop(self.0.remove(machine)),
            Step::AwaitReady { .. } | Step::Commit => {}
        }
    }

    fn undo(&mut self, step: &Step) {
        match step {
            Step::Launch { machine, .. } => drop(self.0.remove(machine)),
            Step::Update { machine, from, before, .. } => self.change(machine, |one| {
                one.1 = from.clone();
                one.2.running = before.running;
            }),
            Step::Retire { machine, before } => self.change(machine, |one| one.2 = *before),
            _ => {}
        }
    }

    fn change(&mut self, machine: &MachineId, change: impl FnOnce(&mut (String, InstanceId, Before))) {
        change(self.0.get_mut(machine).expect("a step concerns a machine that exists"));
    }

    /// How many machines of a group may be given requests.
    fn serving(&self, group: &str) -> usize {
        self.0.values().filter(|(of, _, state)| of == group && state.running && !state.cordoned).count()
    }
}

fn run(present: &[Present], wanted: &[Wanted]) -> (Vec<Change>, Vec<Step>) {
    let changes = changes(present, wanted, 7, &mut Counter::default());
    let steps = steps(&changes, false);
    (changes, steps)
}

proptest! {
    #[test]
    fn in_the_end_each_group_has_what_is_wanted(present in machines(), wanted in wanted()) {
        let (changes, steps) = run(&present, &wanted);
        let mut world = World::of(&present);
        steps.iter().for_each(|step| world.perform(step));
        for group in GROUPS {
            let count = wanted.iter().find(|one| one.name == group).map_or(0, |one| one.count as usize);
            let have = world.0.values().filter(|(of, _, _)| of == group).count();
            prop_assert_eq!(have, count, "{} after {:?}", group, changes);
        }
    }

    #[test]
    fn start_first_groups_never_serve_with_fewer_than_before_or_wanted(present in machines(), wanted in wanted()) {
        let (_, steps) = run(&present, &wanted);
        for group in wanted.iter().filter(|group| group.volumes.is_empty()) {
            if present.iter().any(|machine| machine.group == group.name && !machine.volumes.is_empty()) {
                continue;
            }
            let mut world = World::of(&present);
            let least = world.serving(&group.name).min(group.count as usize);
            for step in &steps {
                world.perform(step);
                prop_assert!(world.serving(&group.name) >= least, "{:?} at {:?}", group, step);
            }
        }
    }

    #[test]
    fn undoing_from_anywhere_before_the_commit_leads_back(present in machines(), wanted in wanted()) {
        let (_, steps) = run(&present, &wanted);
        let commit = steps.iter().position(|step| *step == Step::Commit).unwrap();
        for done in 0..=commit {
            let mut world = World::of(&present);
            steps[..done].iter().for_each(|step| world.perform(step));
            steps[..done].iter().rev().for_each(|step| world.undo(step));
            prop_assert_eq!(&world, &World::of(&present), "after {} steps", done);
        }
    }

    #[test]
    fn undoing_never_serves_with_fewer_than_there_were_or_were_wanted(present in machines(), wanted in wanted()) {
        let (_, steps) = run(&present, &wanted);
        let commit = steps.iter().position(|step| *step == Step::Commit).unwrap();
        let start_first = |group: &&Wanted| {
            group.volumes.is_empty()
                && present.iter().all(|machine| machine.group != group.name || machine.volumes.is_empty())
        };
        for group in wanted.iter().filter(start_first) {
            let mut world = World::of(&present);
            steps[..commit].iter().for_each(|step| world.perform(step));
            let least = World::of(&present).serving(&group.name).min(group.count as usize);
            for step in steps[..commit].iter().rev() {
                world.undo(step);
                prop_assert!(world.serving(&group.name) >= least, "{:?} undoing {:?}", group, step);
            }
        }
    }

    #[test]
    fn nothing_is_destroyed_before_the_commit(present in machines(), wanted in wanted()) {
        let (_, steps) = run(&present, &wanted);
        let commit = steps.iter().position(|step| *step == Step::Commit).unwrap();
        prop_assert!(steps[..commit].iter().all(|step| !matches!(step, Step::Destroy { .. })), "{:?}", steps);
    }
}

#[test]
fn a_machine_with_a_volume_is_updated_in_place_and_the_plan_says_what_that_means() {
    let old = present(1, "db", 6, true, Before { running: true, cordoned: false });
    let wanted = [Wanted { name: "db".into(), count: 1, volumes: vec!["data".into()] }];
    let (changes, steps) = run(&[old], &wanted);
    assert!(matches!(steps[..], [Step::Update { .. }, Step::AwaitReady { .. }, Step::Commit]), "{steps:?}");
    let warnings = warnings(&changes, false);
    assert!(warnings[0].contains("a short pause: volume data can be used by one machine at a time"), "{warnings:?}");
}

#[test]
fn a_machine_that_runs_the_release_is_kept_even_while_it_sleeps() {
    let asleep = present(1, "web", 7, false, Before { running: false, cordoned: false });
    let wanted = [Wanted { name: "web".into(), count: 1, volumes: Vec::new() }];
    let (_, steps) = run(&[asleep], &wanted);
    assert_eq!(steps, [Step::Commit]);
}

#[test]
fn of_too_many_the_newest_go() {
    let serving = Before { running: true, cordoned: false };
    let all: Vec<_> = (1..=3).map(|number| present(number, "web", 7, false, serving)).collect();
    let wanted = [Wanted { name: "web".into(), count: 1, volumes: Vec::new() }];
    let (changes, _) = run(&all, &wanted);
    let gone = changes.iter().filter_map(|change| match change {
        Change::Destroy { old } => Some(old.id.clone()),
        _ => None,
    });
    assert_eq!(gone.collect::<Vec<_>>(), [all[1].id.clone(), all[2].id.clone()]);
}

#[test]
fn a_volume_that_moves_to_another_group_is_let_go_before_it_is_taken() {
    let old = present(1, "db", 6, true, Before { running: true, cordoned: false });
    let wanted = [Wanted { name: "web".into(), count: 1, volumes: vec!["data".into()] }];
    let (_, steps) = run(std::slice::from_ref(&old), &wanted);
    let retired = steps.iter().position(|step| matches!(step, Step::Retire { machine, .. } if *machine == old.id));
    let launched = steps.iter().position(|step| matches!(step, Step::Launch { .. }));
    assert!(retired.unwrap() < launched.unwrap(), "{steps:?}");
}
