//! Machines: what one is configured to be, what it is doing, and what may be asked of it when.

pub mod config;
pub mod event;
pub mod sleep;
pub mod spec;
pub mod state;

pub use config::{
    AutoStop, Check, CheckKind, Concurrency, ConcurrencyKind, CpuKind, FileSpec, Guest, Handler, HeaderEdit,
    HttpOptions, Init, MAX_STATICS, MachineConfig, Mount, Port, Protocol, ProxyProtoOptions, ProxyProtoVersion,
    ReplayCache, ResponseOptions, Restart, RestartPolicy, STATICS_PORT, Service, SessionKind, Static, StopConfig,
    TlsOptions,
};
pub use event::{CheckState, CheckStatus, Event, ExitEvent};
pub use sleep::{Sleep, SleepRule};
pub use spec::{Isolation, MachineSpec, Observed, SealedSecrets};
pub use state::{Action, MachineState, Verdict};
