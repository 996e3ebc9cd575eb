//! What is remembered of a machine's past: events, newest first and bounded, and how its program ended.

use guest::Exit;
use kit::{clock, random};
use model::{
    Timestamp,
    machine::{Event, ExitEvent, event::EventRequest},
};

use crate::ledger::Record;

/// How many events a record keeps.
pub const MAX_EVENTS: usize = 50;
/// How long a reason may be: the end of a virtual machine monitor's output is part of some.
const MAX_REASON_BYTES: usize = 4096;

/// Who caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Someone who asked for it.
    User,
    /// Its traffic, or the want of it.
    Proxy,
    /// The platform itself.
    Platform,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Proxy => "proxy",
            Self::Platform => "dunlin",
        }
    }
}

impl Record {
    /// Adds an event to the machine's history.
    pub fn note(&mut self, kind: &str, status: &str, source: Source, request: Option<EventRequest>) {
        let now = clock::unix_ms();
        let event = Event {
            id: model::id::ulid(now, random::bytes()),
            kind: kind.into(),
            status: status.into(),
            source: source.name().into(),
            timestamp: Timestamp(now),
            request,
        };
        self.events.insert(0, event);
        self.events.truncate(MAX_EVENTS);
    }
}

/// More about an event: a reason in words.
pub fn because(message: &str) -> Option<EventRequest> {
    Some(EventRequest { message: Some(message.to_owned()), ..EventRequest::default() })
}

/// How the program ended, as the product tells it. `exit` is `None` if the virtual machine ended without a word.
pub fn exit_event(exit: Option<Exit>, vm_ran_out_of_memory: bool, requested: bool, restarting: bool) -> ExitEvent {
    let told = exit.unwrap_or(Exit { code: 0, signal: 9, oom_killed: false });
    ExitEvent {
        exit_code: if told.signal > 0 { 128 + told.signal } else { told.code },
        guest_exit_code: told.code,
        guest_signal: told.signal,
        oom_killed: told.oom_killed || vm_ran_out_of_memory,
        requested_stop: requested,
        restarting,
        signal: if exit.is_some() { -1 } else { 9 },
        exited_at: Timestamp(clock::unix_ms()),
    }
}

/// How the program ended, for people.
pub fn describe(exit: &ExitEvent) -> String {
    let mut text = match exit {
        ExitEvent { signal, .. } if *signal >= 0 => "The virtual machine ended".to_owned(),
        ExitEvent { guest_signal: 0, guest_exit_code, .. } => format!("The program exited with code {guest_exit_code}"),
        ExitEvent { guest_signal, .. } => format!("The program was ended by {}", guest::signal::name(*guest_signal)),
    };
    if exit.oom_killed {
        text.push_str(", because it ran out of memory; give the machine more with [[vm]] memory");
    }
    text
}

/// Bounds a reason, keeping its beginning and its end, where the telling part of most outputs stands.
pub fn bounded(reason: &str) -> String {
    if reason.len() <= MAX_REASON_BYTES {
        return reason.to_owned();
    }
    let head = reason.floor_char_boundary(MAX_REASON_BYTES / 4);
    let tail = reason.ceil_char_boundary(reason.len() - MAX_REASON_BYTES * 3 / 4);
    format!("{} … {}", &reason[..head], &reason[tail..])
}
