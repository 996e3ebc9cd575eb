//! What can go wrong on the way from layers to a filesystem.

use std::{fmt::Write, io};

use api::internal::ImageError;
use thiserror::Error;

/// Why a conversion ended without a filesystem.
#[derive(Debug, Error)]
pub enum Fault {
    /// The image is broken or hostile. The text says where and what.
    #[error("{0}")]
    Unusable(String),
    /// The host's disk is full or failed.
    #[error("{doing}: {source}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The platform is shutting down.
    #[error("the platform is shutting down; the image will be converted when it is asked for again")]
    Stopped,
}

impl Fault {
    /// Something is wrong with the image as a whole, or with a place that the caller adds.
    pub fn unusable(reason: impl Into<String>) -> Self {
        Self::Unusable(reason.into())
    }

    /// Something is wrong with the entry of this name.
    pub fn entry(name: &[u8], reason: impl AsRef<str>) -> Self {
        Self::Unusable(format!("entry {}: {}", quoted(name), reason.as_ref()))
    }

    /// Says that this happened in `place`, if it is the image's fault.
    pub fn within(self, place: &str) -> Self {
        match self {
            Self::Unusable(reason) => Self::Unusable(format!("{place}: {reason}")),
            other => other,
        }
    }

    /// The error that the other rooms see.
    pub fn of_image(self, reference: &str) -> ImageError {
        let reference = reference.to_owned();
        match self {
            Self::Unusable(reason) => ImageError::Unusable { reference, reason },
            Self::Storage { doing, source } if is_full(&source) => {
                let reason = format!("{doing}: {source}; free some disk space, then deploy again");
                ImageError::Storage { reference, reason }
            }
            fault => ImageError::Storage { reference, reason: fault.to_string() },
        }
    }
}

/// Turns an error of the system into a fault that says what was being done.
pub fn storage(doing: &'static str) -> impl FnOnce(io::Error) -> Fault {
    move |source| Fault::Storage { doing, source }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A name from an archive as it may be shown: nothing in it can steer a terminal, and it is not endless.
pub fn quoted(name: &[u8]) -> String {
    const SHOWN: usize = 200;
    let mut text = String::from("\"");
    for character in String::from_utf8_lossy(&name[..name.len().min(SHOWN)]).chars() {
        let _ = write!(text, "{}", character.escape_debug());
    }
    text.push_str(if name.len() > SHOWN { "…\"" } else { "\"" });
    text
}
