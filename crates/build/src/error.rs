//! Why an image could not be built.

use std::path::PathBuf;

use thiserror::Error;

/// Why an image could not be built or pushed.
#[derive(Debug, Error)]
pub enum BuildError {
    /// There is nothing to build.
    #[error("there is no Dockerfile at {}", .0.display())]
    NoDockerfile(PathBuf),
    /// A file of the build cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A line of the ignore file means nothing.
    #[error("{}:{line}: {pattern:?} is not a pattern: {reason}", path.display())]
    Ignore {
        /// The ignore file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no Docker engine where it was looked for.
    #[error("there is no Docker engine at {host}: {reason}")]
    NoEngine {
        /// Where it was looked for.
        host: String,
        /// What the system said.
        reason: String,
    },
    /// The Docker engine is there, and this user may not use it.
    #[error("the Docker engine at {host} does not let this user in")]
    Forbidden {
        /// Where it is.
        host: String,
    },
    /// The build itself failed.
    #[error("the build failed: {0}")]
    Build(String),
    /// The image could not be pushed.
    #[error("the image could not be pushed to {registry}: {reason}")]
    Push {
        /// The registry.
        registry: String,
        /// What Docker said.
        reason: String,
    },
    /// Docker did not do what it was asked.
    #[error("the Docker engine failed: {0}")]
    Engine(String),
}

impl BuildError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoDockerfile(_) => {
                "write a Dockerfile, name another with --dockerfile, or deploy an image that exists with --image"
            }
            Self::Unreadable { .. } => "make it readable, or keep it out of the build with a line in .dockerignore",
            Self::Ignore { .. } => "correct the line; `*`, `?`, `[a-z]`, `**` and a leading `!` have a meaning",
            Self::NoEngine { .. } => {
                "install Docker (apt-get install docker.io) and start it (systemctl start docker), set DOCKER_HOST if it \
                 is elsewhere, or deploy an image that exists with --image"
            }
            Self::Forbidden { .. } => "add yourself to the group `docker` and sign in again, or run this as root",
            Self::Build(_) => "correct the Dockerfile where the lines above point, then deploy again",
            Self::Push { .. } => {
                "the Docker engine must reach Dunlin's registry itself: check that `dunlin serve` runs on the same host \
                 as the engine, and that the token may push to this app"
            }
            Self::Engine(_) => "look into the engine's own log (journalctl -u docker)",
        }
    }
}
