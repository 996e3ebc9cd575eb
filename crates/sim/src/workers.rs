//! Machines as they really are, and what their workers say to requests.

use std::time::Duration;

use model::MachineId;

/// A machine as it really is.
#[derive(Debug)]
pub struct Machine {
    /// Which.
    pub id: MachineId,
    /// Where: the place of the region in the plan.
    pub region: usize,
    /// Whether its program runs.
    pub alive: bool,
    /// It refuses every other connection.
    pub flaky: bool,
    /// What is under way to it, from all edges.
    pub under_way: u32,
    asked: u64,
}

/// What a worker says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The machine has taken it.
    Taken,
    /// The machine is at its hard limit.
    Bounced,
    /// The machine could not be reached.
    Failed,
}

impl Machine {
    /// A machine that runs.
    pub fn new(number: usize, region: usize) -> Self {
        let id =
            MachineId::from_random((number as u64 + 1).to_be_bytes()[1..].try_into().expect("seven of eight bytes"));
        Self { id, region, alive: true, flaky: false, under_way: 0, asked: 0 }
    }

    /// What its worker says to a request.
    pub fn ask(&mut self, hard_limit: u32) -> Word {
        self.asked += 1;
        if !self.alive || self.flaky && self.asked.is_multiple_of(2) {
            return Word::Failed;
        }
        if self.under_way >= hard_limit {
            return Word::Bounced;
        }
        self.under_way += 1;
        Word::Taken
    }

    /// A request that it had taken has ended.
    pub fn done(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

/// How long the answer to a request takes in a machine: most are quick, some are not.
pub fn service_time(unit: f64) -> Duration {
    Duration::from_secs_f64(0.02 + 0.08 * -(1.0 - unit).max(1e-3).ln())
}
