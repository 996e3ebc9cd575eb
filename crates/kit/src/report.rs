//! An error with its whole chain of causes, printed once, at the boundary.

use std::{error::Error, fmt};

/// Shows an error and what caused it, `outer: inner: innermost`. A cause whose text its effect already ends with is
/// not repeated.
pub struct Report<'a>(pub &'a dyn Error);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}
