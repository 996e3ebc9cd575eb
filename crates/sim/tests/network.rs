//! What holds in every run, and what a fault of each kind does to requests.

use std::time::Duration;

use sim::{Fault, Network, Outcome, Plan, Random, Report, Trouble};

/// How long after a fault everything is as it was.
const RECOVERY: Duration = Duration::from_secs(15);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn run(trouble: Trouble, region: usize, seed: u64) -> (Plan, Report) {
    let plan = Plan::around_the_world(Fault { trouble, region, from: secs(20), until: secs(35) });
    let report = Network::run(plan.clone(), seed);
    holds_always(&plan, &report, seed);
    (plan, report)
}

/// What holds whatever goes wrong.
fn holds_always(plan: &Plan, report: &Report, seed: u64) {
    let told = format!("seed {seed}, {:?}", plan.fault);
    assert_eq!(report.broken, Vec::<String>::new(), "{told}");
    assert_eq!(report.ended.len(), report.came, "every request ends: {told}");
    assert!(report.most_under_way <= plan.hard_limit, "no machine is above its hard limit: {told}");
    assert!(report.ended.iter().all(|it| it.outcome != Outcome::Refused), "none is refused: {told}");
    for edge in 0..plan.regions.len() {
        // What comes in the last moment before it is still under way when it begins.
        let [own, other, _] = report.split(edge, Duration::ZERO, plan.fault.from - secs(2));
        assert!(own > 100 && other == 0, "all is served at home before the fault: {told}");
        let [own, other, _] = report.split(edge, plan.fault.until + RECOVERY, plan.lasts);
        assert!(own > 100 && other == 0, "all is served at home after it, {other} are not at {edge}: {told}");
    }
}

/// How many requests of the fault's own region were served at home and elsewhere, from a while after it began.
fn during(plan: &Plan, report: &Report) -> [usize; 3] {
    report.split(plan.fault.region, plan.fault.from + secs(5), plan.fault.until)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let digest = |seed| run(Trouble::Surge, 1, seed).1.digest();
    assert_eq!(digest(7), digest(7));
    assert_ne!(digest(7), digest(8));
}

#[test]
fn whatever_goes_wrong_where_and_when_the_rules_hold() {
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let fault = Fault::drawn(&mut random, 5);
        let plan = Plan::around_the_world(fault);
        holds_always(&plan, &Network::run(plan.clone(), seed), seed);
    }
}

#[test]
fn above_the_soft_limits_requests_stay_in_their_region() {
    let (plan, report) = run(Trouble::Busy, 2, 1);
    let [own, other, refused] = during(&plan, &report);
    assert!(own > 2_000 && other == 0 && refused == 0, "{own} {other} {refused}");
}

#[test]
fn above_the_hard_limits_some_go_to_the_next_region_and_no_further() {
    let (plan, report) = run(Trouble::Surge, 0, 2);
    let [own, other, _] = during(&plan, &report);
    assert!(other > 500 && own > other, "{own} {other}");
    let mut by_region = [0; 5];
    for it in report.ended.iter().filter(|it| it.edge == 0) {
        if let Outcome::Served(served) = it.outcome {
            by_region[served.region] += 1;
        }
    }
    assert_eq!(by_region[2..], [0, 0, 0], "from Frankfurt to Amsterdam, and no further: {by_region:?}");
}

#[test]
fn when_a_region_dies_the_next_one_takes_over() {
    let (plan, report) = run(Trouble::RegionDies, 3, 3);
    let [own, other, refused] = during(&plan, &report);
    assert!(own == 0 && other > 200 && refused == 0, "{own} {other} {refused}");
}

#[test]
fn a_worker_that_cannot_be_reached_is_avoided_though_the_catalog_calls_its_machines_ready() {
    let (plan, report) = run(Trouble::WorkerCutOff, 4, 4);
    let [own, other, refused] = during(&plan, &report);
    assert!(own == 0 && other > 200 && refused == 0, "{own} {other} {refused}");
    let late = report
        .ended
        .iter()
        .filter(|it| it.edge == 4 && it.came > plan.fault.from + secs(5) && it.came < plan.fault.until);
    let straight =
        late.clone().filter(|it| matches!(it.outcome, Outcome::Served(served) if served.failed == 0)).count();
    assert!(straight * 10 > late.count() * 9, "most do not even try there: {straight}");
}

#[test]
fn a_flaky_machine_keeps_nobody_from_his_region() {
    let (plan, report) = run(Trouble::MachineFlaky, 1, 5);
    let [own, other, refused] = during(&plan, &report);
    assert!(own > 200 && other == 0 && refused == 0, "{own} {other} {refused}");
}

#[test]
fn a_rolling_restart_is_noticed_by_nobody() {
    let (plan, report) = run(Trouble::RollingRestart, 2, 6);
    let failed = report.ended.iter().filter(|it| matches!(it.outcome, Outcome::Served(served) if served.failed > 0));
    assert_eq!(failed.count(), 0);
    let [own, other, refused] = during(&plan, &report);
    assert!(own > 200 && other == 0 && refused == 0, "{own} {other} {refused}");
}

#[test]
fn a_catalog_that_falls_silent_costs_no_request() {
    let (plan, report) = run(Trouble::CatalogSilent, 1, 7);
    let [own, other, refused] = during(&plan, &report);
    assert!(own > 200 && other == 0 && refused == 0, "{own} {other} {refused}");
}
