//! The local Docker engine: found, asked to build, asked to push.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    time::Duration,
};

use bollard::{
    Docker,
    auth::DockerCredentials,
    query_parameters::{BuildImageOptionsBuilder, PushImageOptionsBuilder},
};
use futures_util::{Stream, StreamExt};
use model::{Digest, Reference};

use crate::{BuildError, Source};

/// A Docker engine that answers.
#[derive(Debug)]
pub struct Engine {
    docker: Docker,
}

/// How to sign in to a registry that base images come from, or that an image is pushed to.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: String,
}

/// What to build.
pub struct Request<'r> {
    /// The directory.
    pub source: &'r Source,
    /// The name that the image gets: with a registry and a tag.
    pub reference: &'r Reference,
    /// The stage to build; the last one if absent.
    pub target: Option<&'r str>,
    /// Build arguments.
    pub args: &'r BTreeMap<String, String>,
    /// How to sign in to the registries that base images come from.
    pub registries: &'r BTreeMap<String, Credentials>,
    /// Build every step again.
    pub no_cache: bool,
}

/// An image that stands in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name with its digest, so that it cannot come to mean another image.
    pub reference: Reference,
}

/// Where progress goes: one line at a time, for people.
pub type Progress<'p> = &'p mut (dyn FnMut(&str) + Send);

/// Where the engine listens if nothing else is said.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// Longest wait for the engine to begin its answer. It answers a build once it has the whole context.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);
/// Longest wait for the engine to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    /// Finds the engine: where `DOCKER_HOST` says, else at the system's socket, else at the user's own (rootless).
    ///
    /// # Errors
    /// If there is none, it does not answer, or this user may not use it.
    pub async fn connect() -> Result<Self, BuildError> {
        Self::connect_to(&host()).await
    }

    /// Finds the engine at an address such as `unix:///var/run/docker.sock` or `tcp://10.0.0.2:2375`.
    ///
    /// # Errors
    /// If there is none, it does not answer, or this user may not use it.
    pub async fn connect_to(host: &str) -> Result<Self, BuildError> {
        let absent = |reason: String| BuildError::NoEngine { host: host.to_owned(), reason };
        if let Some(path) = host.strip_prefix("unix://") {
            knock(host, path).await?;
        }
        let docker = Docker::connect_with_host(host).map_err(|error| absent(error.to_string()))?;
        let docker = docker.with_timeout(ANSWER_TIMEOUT);
        match tokio::time::timeout(PING_TIMEOUT, docker.negotiate_version()).await {
            Ok(Ok(docker)) => Ok(Self { docker }),
            Ok(Err(error)) => Err(absent(told(&error))),
            Err(_) => Err(absent(format!("it did not answer within {} s", PING_TIMEOUT.as_secs()))),
        }
    }

    /// Builds an image and gives it its name. What the engine says goes to `progress`, line by line.
    ///
    /// # Errors
    /// If a file cannot be read, a step of the Dockerfile fails, or the engine does.
    pub async fn build(&self, request: &Request<'_>, progress: Progress<'_>) -> Result<(), BuildError> {
        let args: HashMap<String, String> = request.args.clone().into_iter().collect();
        let options = BuildImageOptionsBuilder::new()
            .dockerfile(&request.source.dockerfile_name())
            .t(&request.reference.to_string())
            .target(request.target.unwrap_or_default())
            .buildargs(&args)
            .nocache(request.no_cache)
            .rm(true)
            .forcerm(true)
            .build();
        // The files are listed before the engine is asked, so that an unreadable directory is told as such.
        request.source.files()?;
        let context = bollard::body_try_stream(request.source.stream());
        let registries =
            request.registries.iter().map(|(registry, own)| (registry.clone(), own.of(registry))).collect();
        let events = self.docker.build_image(options, Some(registries), Some(context));
        let lines = events.map(|event| event.map(|info| info.stream.or(info.status).unwrap_or_default()));
        follow(lines, progress).await.map(drop).map_err(|error| match error {
            Failure::Step(reason) => BuildError::Build(reason),
            Failure::Engine(reason) => BuildError::Engine(reason),
        })
    }

    /// Pushes an image to the registry in its name.
    ///
    /// # Errors
    /// If the engine cannot reach the registry or is refused by it.
    pub async fn push(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        progress: Progress<'_>,
    ) -> Result<Image, BuildError> {
        let registry = reference.registry.clone().unwrap_or_default();
        let tag = reference.tag.as_deref().unwrap_or("latest");
        let options = PushImageOptionsBuilder::new().tag(tag).build();
        let name = format!("{registry}/{}", reference.repository);
        let events = self.docker.push_image(&name, Some(options), Some(credentials.of(&registry)));
        let lines = events.map(|event| event.map(|info| info.status.unwrap_or_default()));
        let refused = |reason| BuildError::Push { registry: registry.clone(), reason };
        let said = follow(lines, progress).await.map_err(|failure| refused(failure.reason()))?;
        let digest =
            pushed_digest(&said).ok_or_else(|| refused("the engine did not say which digest it pushed".to_owned()))?;
        Ok(Image { reference: Reference { digest: Some(digest), ..reference.clone() } })
    }
}

impl Credentials {
    fn of(&self, registry: &str) -> DockerCredentials {
        DockerCredentials {
            username: Some(self.username.clone()),
            password: Some(self.password.clone()),
            serveraddress: Some(registry.to_owned()),
            ..DockerCredentials::default()
        }
    }
}

fn host() -> String {
    if let Some(host) = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
        return host;
    }
    let own = std::env::var("XDG_RUNTIME_DIR").ok().map(|directory| PathBuf::from(directory).join("docker.sock"));
    match own {
        Some(own) if own.exists() && !PathBuf::from(DEFAULT_SOCKET).exists() => format!("unix://{}", own.display()),
        _ => format!("unix://{DEFAULT_SOCKET}"),
    }
}

/// Opens the engine's socket once, because what goes wrong there has three different remedies.
async fn knock(host: &str, path: &str) -> Result<(), BuildError> {
    let Err(error) = tokio::net::UnixStream::connect(path).await else { return Ok(()) };
    let host = host.to_owned();
    Err(match error.kind() {
        io::ErrorKind::PermissionDenied => BuildError::Forbidden { host },
        io::ErrorKind::NotFound => {
            BuildError::NoEngine { host, reason: "Docker is not installed, or not started".to_owned() }
        }
        io::ErrorKind::ConnectionRefused => {
            BuildError::NoEngine { host, reason: "it is installed but not running".to_owned() }
        }
        _ => BuildError::NoEngine { host, reason: error.to_string() },
    })
}

/// What ended a stream of the engine's events.
enum Failure {
    /// The engine did its part; what it was asked to do failed.
    Step(String),
    /// The engine itself.
    Engine(String),
}

impl Failure {
    fn reason(self) -> String {
        match self {
            Self::Step(reason) | Self::Engine(reason) => reason,
        }
    }
}

/// How many of the engine's last lines are kept to be looked through afterwards.
const KEPT_LINES: usize = 20;
/// A longer line is cut.
const LINE_BYTES: usize = 4096;

/// Hands every line to `progress` and returns the last ones.
async fn follow(
    lines: impl Stream<Item = Result<String, bollard::errors::Error>>,
    progress: Progress<'_>,
) -> Result<Vec<String>, Failure> {
    let mut lines = std::pin::pin!(lines);
    let mut kept = std::collections::VecDeque::new();
    while let Some(text) = lines.next().await {
        let text = text.map_err(failure)?;
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            let line = cut(line);
            // A push says "Preparing" and "Pushing" again and again, once for each layer.
            if kept.back().is_some_and(|last| last == line) {
                continue;
            }
            progress(line);
            kept.push_back(line.to_owned());
            if kept.len() > KEPT_LINES {
                kept.pop_front();
            }
        }
    }
    Ok(kept.into())
}

fn cut(line: &str) -> &str {
    let end = (0..=LINE_BYTES.min(line.len())).rev().find(|end| line.is_char_boundary(*end));
    &line[..end.unwrap_or(0)]
}

fn failure(error: bollard::errors::Error) -> Failure {
    match error {
        bollard::errors::Error::DockerStreamError { error } => Failure::Step(error),
        bollard::errors::Error::DockerResponseServerError { status_code: 400..500, message } => Failure::Step(message),
        other => Failure::Engine(told(&other)),
    }
}

/// An error with its causes: the engine's client library hides what matters in the last one.
fn told(error: &dyn std::error::Error) -> String {
    kit::report::Report(error).to_string()
}

/// The digest in a line such as `v1: digest: sha256:… size: 528`, which ends a push.
fn pushed_digest(lines: &[String]) -> Option<Digest> {
    lines.iter().rev().find_map(|line| {
        let (_, rest) = line.split_once("digest: ")?;
        rest.split_whitespace().next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_engine_that_is_absent_dead_or_forbidden_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let host = format!("unix://{}", socket.display());
        let absent = Engine::connect_to(&host).await.unwrap_err();
        assert!(absent.to_string().contains("not installed, or not started"), "{absent}");
        assert!(absent.hint().contains("DOCKER_HOST"));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let dead = Engine::connect_to(&host).await.unwrap_err();
        assert!(dead.to_string().contains("not running"), "{dead}");
        let strange = Engine::connect_to("gopher://x").await.unwrap_err();
        assert!(matches!(strange, BuildError::NoEngine { .. }), "{strange}");
    }

    #[test]
    fn the_digest_is_in_the_last_line_of_a_push() {
        let hex = "ab".repeat(32);
        let lines = ["The push refers to repository [x]".to_owned(), format!("v1: digest: sha256:{hex} size: 528")];
        assert_eq!(pushed_digest(&lines).unwrap().hex(), hex);
        assert_eq!(pushed_digest(&lines[..1]), None);
    }
}
