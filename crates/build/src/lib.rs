//! From a directory with a Dockerfile to an image in the platform's own registry, by the local Docker engine.
//!
//! ```text
//! directory ─▶ Source (Dockerfile found, .dockerignore read)
//!                 │  tar stream, made while it is sent
//!                 ▼
//!             Engine: build ─▶ tag ─▶ push ─▶ reference with its digest
//! ```
//!
//! [`layout`] pushes an image that lies on disk already, without Docker. [`scan`] reads a Dockerfile for what `launch` wants to know: the port and the volumes.

pub mod context;
mod engine;
mod error;
pub mod ignore;
pub mod layout;
pub mod scan;

pub use context::Source;
pub use engine::{Credentials, Engine, Image, Request};
pub use error::BuildError;
