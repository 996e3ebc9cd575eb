//! Where the image comes from and how a release is rolled out: `[build]`, `[deploy]`.

use std::collections::BTreeMap;

use model::GoDuration;
use serde::Serialize;

use crate::{
    read::{BareNumber, Field, Section},
    unsupported::{self, Without},
};

/// Where the image comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Build {
    /// An image that exists.
    pub image: Option<String>,
    /// The Dockerfile, relative to the configuration file; `Dockerfile` unless given.
    pub dockerfile: Option<String>,
    /// The list of files that the build does not see; `.dockerignore` unless given.
    pub ignorefile: Option<String>,
    /// The stage to build; the last one unless given.
    pub target: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
}

/// How a release replaces the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// A few machines at a time, each healthy before the next; undone if one does not become so.
    #[default]
    Rolling,
    /// All machines at once, without waiting for their health.
    Immediate,
}

impl Strategy {
    /// Every strategy with its name in the file and on the command line.
    pub const NAMES: [(&'static str, Self); 2] = [("rolling", Self::Rolling), ("immediate", Self::Immediate)];

    /// The strategy's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Immediate => "immediate",
        }
    }
}

impl std::str::FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, strategy)| *strategy);
        found.ok_or_else(|| format!("{text:?} is not a strategy; use rolling or immediate"))
    }
}

/// How many machines of a group may be away at a time during a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MaxUnavailable {
    /// So many.
    Count(u32),
    /// This part of them, above 0 and at most 1.
    Fraction(f64),
}

impl MaxUnavailable {
    /// How many of `total` may be away at a time; at least 1.
    pub fn of(self, total: usize) -> usize {
        let count = match self {
            Self::Count(count) => count as usize,
            Self::Fraction(fraction) => (total as f64 * fraction).floor() as usize,
        };
        count.max(1)
    }
}

/// How a release is rolled out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Deploy {
    /// How it replaces the one before.
    pub strategy: Strategy,
    /// How many machines of a group may be away at a time.
    pub max_unavailable: MaxUnavailable,
    /// How long one machine may take to become healthy.
    pub wait_timeout: GoDuration,
}

impl Default for Deploy {
    fn default() -> Self {
        Self {
            strategy: Strategy::Rolling,
            max_unavailable: MaxUnavailable::Fraction(0.33),
            wait_timeout: GoDuration::from_secs(300),
        }
    }
}

/// Reads `[build]`.
pub(crate) fn build(section: Section<'_>) -> Build {
    let text = |key| section.get(key).and_then(|field| field.string()).filter(|text| !text.is_empty());
    let build = Build {
        image: text("image"),
        dockerfile: section.get("dockerfile").and_then(|field| dockerfile(&field)),
        ignorefile: text("ignorefile"),
        target: section.get_alias(&["build-target", "build_target"]).and_then(|field| field.string()),
        args: section.get("args").and_then(|field| field.section()).map(args).unwrap_or_default(),
    };
    if build.image.is_some() && build.dockerfile.is_some() {
        section
            .warning("[build] names an image and a Dockerfile; the image is used", "remove the one that is not meant");
    }
    unsupported::note(&section, unsupported::BUILD);
    section.finish();
    build
}

fn dockerfile(field: &Field<'_>) -> Option<String> {
    let path = field.string()?;
    if path.starts_with("https://") || path.starts_with("http://") {
        unsupported::tell(field, Without::Less, "a Dockerfile is not fetched; save it beside this file and name that");
        return None;
    }
    Some(path)
}

fn args(section: Section<'_>) -> BTreeMap<String, String> {
    section.entries().into_iter().filter_map(|(name, value)| Some((name, value.scalar()?))).collect()
}

/// Reads `[deploy]`.
pub(crate) fn deploy(section: Section<'_>) -> Deploy {
    let usual = Deploy::default();
    let deploy = Deploy {
        strategy: section.get("strategy").and_then(|field| strategy(&field)).unwrap_or_default(),
        max_unavailable: section
            .get("max_unavailable")
            .and_then(|field| max_unavailable(&field))
            .unwrap_or(usual.max_unavailable),
        wait_timeout: section.get("wait_timeout").and_then(|field| wait_timeout(&field)).unwrap_or(usual.wait_timeout),
    };
    unsupported::note(&section, unsupported::DEPLOY);
    section.finish();
    deploy
}

fn strategy(field: &Field<'_>) -> Option<Strategy> {
    let later = ["canary", "bluegreen"];
    match field.string()? {
        name if later.contains(&name.as_str()) => {
            let message = format!("strategy `{name}` is not supported yet");
            field
                .warning(message, "`rolling` is used instead: it too waits for health and undoes a release that fails");
            Some(Strategy::Rolling)
        }
        _ => field.word(&Strategy::NAMES),
    }
}

fn max_unavailable(field: &Field<'_>) -> Option<MaxUnavailable> {
    let number = field.number()?;
    if number > 0.0 && number < 1.0 {
        Some(MaxUnavailable::Fraction(number))
    } else if number >= 1.0 && number.fract() == 0.0 && number <= f64::from(u32::MAX) {
        Some(MaxUnavailable::Count(number as u32))
    } else {
        field.bad("`deploy.max_unavailable` is neither a part of the machines nor a number of them", "use 0.33 or 1");
        None
    }
}

fn wait_timeout(field: &Field<'_>) -> Option<GoDuration> {
    let timeout = field.duration(BareNumber::Nanoseconds)?;
    if timeout < GoDuration::from_secs(1) {
        let help = "write it with its unit, such as \"5m\"; a bare number means nanoseconds here";
        field.bad(format!("`deploy.wait_timeout` is {timeout}, which no machine can keep"), help);
        return None;
    }
    Some(timeout)
}
