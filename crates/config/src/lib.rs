//! The app configuration file, `fly.toml` (or `dunlin.toml`, the same format).
//!
//! ```text
//! text ─▶ spanned tree ─▶ sections, read key by key ─▶ rules across sections ─▶ AppConfig ─▶ MachineConfig per group
//!            │                   │                            │
//!            └───────────────────┴──────── Diagnostics ───────┘      all of them at once, each with its line
//! ```
//!
//! Three promises: every problem of a file is told in one go; a key that this version does not know, or knows but
//! does not support, is named with its line and never dropped in silence; an edit keeps comments and order.
//!
//! The room is pure: text in, values out. Whoever has files reads them (see [`edit::inline_local_files`]).

mod check;
mod compute;
mod convert;
mod deploy;
mod diagnostic;
mod document;
pub mod edit;
mod http_options;
mod processes;
mod read;
mod render;
mod service;
mod storage;
mod suggest;
mod unsupported;

pub use compute::PRESETS;
pub use convert::ConvertError;
pub use deploy::{Build, Deploy, MaxUnavailable, Strategy};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use document::{AppConfig, Scoped};
pub use render::{NewApp, render_new};
pub use storage::{FileSection, FileSource};
