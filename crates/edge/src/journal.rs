//! What an app is told about its traffic: one line in its own log for each refusal, up to a rate.

use std::sync::{Arc, PoisonError};

use api::internal::LogSink;
use model::{
    Region,
    log::{LogRecord, LogSource},
};
use tokio::time::Instant;

use crate::{Refusal, machine::AppState};

/// Lines that may come at once.
const BURST: f64 = 20.0;
/// Lines a second in the long run.
const PER_SECOND: f64 = 2.0;

/// How many lines may still be written about an app: a token bucket, and what it kept out.
pub struct Allowance {
    tokens: f64,
    at: Option<Instant>,
    kept_out: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { tokens: BURST, at: None, kept_out: 0 }
    }
}

impl Allowance {
    /// Whether a line may be written now; if so, how many were kept out since the last one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = self.at.replace(now).map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        self.tokens = (self.tokens + passed * PER_SECOND).min(BURST);
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
}

impl Journal {
    /// A journal that writes into `logs`.
    pub fn new(logs: Arc<dyn LogSink>, region: Region) -> Self {
        Self { logs, region }
    }

    /// Writes a refusal into the app's log. `what` says what was refused, such as `GET / (request …)`.
    pub fn refused(&self, app: &AppState, refusal: &Refusal, what: &str) {
        let text = format!("[{}] {refusal}. {} {what}", refusal.code(), refusal.hint());
        self.write(app, refusal.machine().cloned(), text);
    }

    /// Writes a line about the app as a whole.
    pub fn note(&self, app: &AppState, text: String) {
        self.write(app, None, text);
    }

    fn write(&self, app: &AppState, machine: Option<model::MachineId>, text: String) {
        let allowed = app.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let Some(kept_out) = allowed else { return };
        let message = if kept_out == 0 { text } else { format!("{text} ({kept_out} lines like it were left out)") };
        self.logs.append(LogRecord {
            timestamp_ns: kit::clock::unix_ns(),
            app: app.name.clone(),
            machine,
            region: self.region.clone(),
            source: LogSource::Platform,
            message,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_what_is_kept_out_is_counted() {
        let mut allowance = Allowance::default();
        let start = Instant::now();
        let written = (0..50).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(30));
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(0));
        assert_eq!(allowance.take(start + Duration::from_secs(1)), None);
    }
}
