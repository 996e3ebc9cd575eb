//! What an app is told about its traffic: one line in its own log for each refusal and one access record for each
//! request, each up to a rate. What is left out is counted and told with the next line.

use std::{
    fmt,
    sync::{Arc, PoisonError},
};

use api::internal::LogSink;
use model::{
    MachineId, Region,
    log::{LogRecord, LogSource},
};
use tokio::time::Instant;

use crate::{Refusal, machine::AppState};

/// A bound on lines: so many at once, and so many a second in the long run.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

const REFUSALS: Rate = Rate { burst: 20.0, per_second: 2.0 };
/// An app's log is bounded: its traffic must not push out what the app itself said.
const ACCESS: Rate = Rate { burst: 1000.0, per_second: 50.0 };

/// How many lines may still be written about an app: a token bucket, and what it kept out.
pub struct Allowance {
    rate: Rate,
    tokens: f64,
    at: Option<Instant>,
    kept_out: u64,
}

impl Allowance {
    /// For lines about refusals.
    pub fn of_refusals() -> Self {
        Self::new(REFUSALS)
    }

    /// For access records.
    pub fn of_access() -> Self {
        Self::new(ACCESS)
    }

    fn new(rate: Rate) -> Self {
        Self { rate, tokens: rate.burst, at: None, kept_out: 0 }
    }

    /// Whether a line may be written now; if so, how many were kept out since the last one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = self.at.replace(now).map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        self.tokens = (self.tokens + passed * self.rate.per_second).min(self.rate.burst);
        if self.tokens < 1.0 {
            self.kept_out += 1;
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.kept_out))
    }
}

/// Writes to the logs of apps.
pub struct Journal {
    logs: Arc<dyn LogSink>,
    region: Region,
    access_records: bool,
}

impl Journal {
    /// A journal that writes into `logs`.
    pub fn new(logs: Arc<dyn LogSink>, region: Region, access_records: bool) -> Self {
        Self { logs, region, access_records }
    }

    /// Writes a refusal into the app's log. `what` says what was refused, such as `GET / (request …)`.
    pub fn refused(&self, app: &AppState, refusal: &Refusal, what: &impl fmt::Display) {
        let text = format!("[{}] {refusal}. {} {what}", refusal.code(), refusal.hint());
        self.write(app, refusal.machine().cloned(), text);
    }

    /// Writes what became of a request into the app's log, if there is room for it: `record` is asked for it then, at
    /// this moment.
    pub fn access<R: fmt::Display>(
        &self,
        app: &AppState,
        machine: Option<&MachineId>,
        record: impl FnOnce(Instant) -> R,
    ) {
        if !self.access_records {
            return;
        }
        let now = Instant::now();
        let allowed = app.access_allowance.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        let Some(left_out) = allowed else { return };
        let record = record(now);
        let message = if left_out == 0 { record.to_string() } else { format!("{record} left_out={left_out}") };
        self.append(app, machine.cloned(), LogSource::Access, message);
    }

    /// Writes a line about the app as a whole.
    pub fn note(&self, app: &AppState, text: String) {
        self.write(app, None, text);
    }

    /// Writes a line about one machine of an app.
    pub fn about(&self, app: &AppState, machine: &MachineId, text: String) {
        self.write(app, Some(machine.clone()), text);
    }

    fn write(&self, app: &AppState, machine: Option<MachineId>, text: String) {
        let allowed = app.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let Some(kept_out) = allowed else { return };
        let message = if kept_out == 0 { text } else { format!("{text} ({kept_out} lines like it were left out)") };
        self.append(app, machine, LogSource::Platform, message);
    }

    fn append(&self, app: &AppState, machine: Option<MachineId>, source: LogSource, message: String) {
        let (timestamp_ns, region) = (kit::clock::unix_ns(), self.region.clone());
        self.logs.append(LogRecord { timestamp_ns, app: app.name.clone(), machine, region, source, message });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_what_is_kept_out_is_counted() {
        let mut allowance = Allowance::of_refusals();
        let start = Instant::now();
        let written = (0..50).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(written, REFUSALS.burst as usize);
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(30));
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(0));
        assert_eq!(allowance.take(start + Duration::from_secs(1)), None);
    }
}
