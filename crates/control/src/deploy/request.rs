//! Deployments by request: what makes a release and its rollout, stored together in one transaction.

use std::collections::BTreeMap;

use api::{
    internal::PullCredentials,
    public::deploys::{
        DeployEvent, DeployRequest, Deployment, DeploymentStatus, Plan, RegistryAuth, Release, ReleaseConfig,
        RollbackRequest, ScaleRequest,
    },
};
use config::{AppConfig, Strategy};
use model::{Digest, id::ulid};

use super::{Definition, plan::Change, runner::show_plan, view};
use crate::{
    Control,
    auth::Caller,
    error::Error,
    store::{
        Tx,
        apps::{self, AppRow},
        deployments,
        releases::{self, ReleaseRow, status},
    },
};

/// How many deployments of an app may wait or be under way.
const MAX_UNDER_WAY: i64 = 8;
const MAX_CONFIG_BYTES: usize = 512 * 1024;
const MAX_KEY_BYTES: usize = 200;
/// The most machines a process group may have.
const MAX_COUNT: u32 = 100;
/// How much of the past a list shows.
const LISTED: u32 = 50;

/// A release that is not stored yet.
struct Draft {
    image: String,
    digest: Digest,
    config: String,
    definition: Definition,
    secrets_version: u64,
    description: String,
    warnings: Vec<String>,
}

impl Control {
    /// What a deployment would do.
    pub(crate) async fn plan(&self, app: &AppRow, request: DeployRequest) -> Result<Plan, Error> {
        let draft = self.draft(app, request).await?;
        let changes = self.changes(app, &draft.definition, 0, &BTreeMap::new()).await?;
        Ok(show_plan(&changes, draft.definition.immediate, &draft.image, draft.notes(&changes)))
    }

    /// Makes a release and begins its rollout. With a key that was used before, tells of what that began.
    pub(crate) async fn deploy(
        &self,
        caller: &Caller,
        app: &AppRow,
        mut request: DeployRequest,
    ) -> Result<Deployment, Error> {
        let key = request.idempotency_key.take().filter(|key| !key.is_empty());
        if key.as_deref().is_some_and(|key| key.len() > MAX_KEY_BYTES) {
            return Err(Error::invalid(format!("idempotency_key: {MAX_KEY_BYTES} bytes at most")));
        }
        if let Some(known) = self.known_by_key(app, key.as_deref()).await? {
            return Ok(known);
        }
        let draft = self.draft(app, request).await?;
        self.release(caller, app, draft, key.as_deref()).await
    }

    async fn known_by_key(&self, app: &AppRow, key: Option<&str>) -> Result<Option<Deployment>, Error> {
        let Some(key) = key else { return Ok(None) };
        match deployments::by_key(self.store.reader(), app.id, key).await? {
            Some(id) => Ok(Some(self.deployment(app, &id).await?)),
            None => Ok(None),
        }
    }

    /// Rolls an earlier release out again: its image, its configuration and its secrets, as a new release.
    pub(crate) async fn rollback(
        &self,
        caller: &Caller,
        app: &AppRow,
        request: &RollbackRequest,
    ) -> Result<Deployment, Error> {
        let kept = releases::kept(self.store.reader(), app.id).await?;
        let target = match request.version {
            Some(version) => self.rollback_to(app, version, &kept).await?,
            None => {
                let earlier = |release: &&ReleaseRow| Some(release.id) != app.current_release;
                kept.iter().find(earlier).cloned().ok_or_else(|| Error::Conflict {
                    message: "there is no earlier release that was complete".to_owned(),
                    hint: "deploy the image that you want to run",
                })?
            }
        };
        let description = format!("rollback to v{}", target.version);
        let draft = Draft { description, ..Draft::again(&target)? };
        self.release(caller, app, draft, None).await
    }

    async fn rollback_to(&self, app: &AppRow, version: u32, kept: &[ReleaseRow]) -> Result<ReleaseRow, Error> {
        let found = releases::by_version(self.store.reader(), app.id, version).await?;
        let found = found.ok_or_else(|| Error::not_found("release", format!("v{version}")))?;
        if found.status != status::COMPLETE {
            return Err(Error::Conflict {
                message: format!("release v{version} is {}: it has never run", found.status),
                hint: "choose one that was complete; `dunlin releases` shows them",
            });
        }
        if !kept.iter().any(|release| release.id == found.id) {
            return Err(Error::Conflict {
                message: format!("release v{version} is too old: its image is no longer kept"),
                hint: "deploy the image again",
            });
        }
        Ok(found)
    }

    /// Brings the newest secrets to the machines: the current release's image and configuration as a new release.
    pub(crate) async fn deploy_secrets(&self, caller: &Caller, app: &AppRow) -> Result<Deployment, Error> {
        let current = self.current_release(app).await?;
        let description = format!("secrets version {}", app.secrets_version);
        let draft = Draft { description, secrets_version: app.secrets_version, ..Draft::again(&current)? };
        self.release(caller, app, draft, None).await
    }

    /// Makes the current release run on another number of machines.
    pub(crate) async fn scale(&self, app: &AppRow, request: &ScaleRequest) -> Result<Deployment, Error> {
        let current = self.current_release(app).await?;
        let definition = current.definition()?;
        check_counts(&definition, &request.counts)?;
        let changes = self.changes(app, &definition, current.version, &request.counts).await?;
        let plan = show_plan(&changes, definition.immediate, &current.image, Vec::new());
        self.begin_rollout(app, Rollout::Again(current), &plan, &request.counts, None).await
    }

    async fn current_release(&self, app: &AppRow) -> Result<ReleaseRow, Error> {
        let current = match app.current_release {
            Some(id) => releases::by_id(self.store.reader(), id).await?,
            None => None,
        };
        current.ok_or_else(|| Error::Conflict {
            message: format!("app {} has no release yet", app.name),
            hint: "deploy it first: `dunlin deploy`",
        })
    }

    /// Reads the configuration, brings the image in, and works out what the release wants.
    async fn draft(&self, app: &AppRow, request: DeployRequest) -> Result<Draft, Error> {
        if request.config.len() > MAX_CONFIG_BYTES {
            return Err(Error::invalid(format!("config: {MAX_CONFIG_BYTES} bytes at most")));
        }
        let config = AppConfig::parse(&request.config).map_err(|found| Error::Config(found.to_string()))?;
        if config.app.as_ref().is_some_and(|name| *name != app.name) {
            let named = config.app.map(String::from).unwrap_or_default();
            return Err(Error::invalid(format!("the configuration is for app {named}, not for {}", app.name)));
        }
        let strategy = request.strategy.as_deref().filter(|name| !name.is_empty()).map(str::parse::<Strategy>);
        let strategy = strategy.transpose().map_err(|error| Error::invalid(format!("strategy: {error}")))?;
        let image = request.image.filter(|image| !image.is_empty()).or_else(|| config.build.image.clone());
        let image = image.ok_or_else(|| {
            Error::invalid("no image is named: give one in the request, or under [build] in the configuration")
        })?;
        // Before the image is fetched: what is wrong with the configuration is told without that wait.
        let definition = Definition::new(&config, &image, strategy)?;
        let found = self.resolve_image(app, &image, credentials(request.registry_auth)).await?;
        Ok(Draft {
            image,
            digest: found.image.digest,
            config: request.config,
            definition,
            secrets_version: app.secrets_version,
            description: request.description.chars().take(500).collect(),
            warnings: config.warnings().iter().map(|warning| warning.message.clone()).collect(),
        })
    }

    /// Makes a release of a draft and begins its rollout.
    async fn release(
        &self,
        caller: &Caller,
        app: &AppRow,
        draft: Draft,
        key: Option<&str>,
    ) -> Result<Deployment, Error> {
        let changes = self.changes(app, &draft.definition, 0, &BTreeMap::new()).await?;
        let plan = show_plan(&changes, draft.definition.immediate, &draft.image, draft.notes(&changes));
        let what = Rollout::New { draft: &draft, user: &caller.name };
        self.begin_rollout(app, what, &plan, &BTreeMap::new(), key).await
    }

    /// Stores a release, if it is new, its deployment and its plan in one transaction.
    async fn begin_rollout(
        &self,
        app: &AppRow,
        what: Rollout<'_>,
        plan: &Plan,
        counts: &BTreeMap<String, u32>,
        key: Option<&str>,
    ) -> Result<Deployment, Error> {
        let mut tx = self.store.begin().await?;
        if let Some(key) = key
            && let Some(known) = deployments::by_key(&mut *tx, app.id, key).await?
        {
            drop(tx);
            return self.deployment(app, &known).await;
        }
        self.check_room(&mut tx, app).await?;
        let release = match what {
            Rollout::Again(release) => release.id,
            Rollout::New { draft, user } => releases::insert(&mut tx, app.id, draft.as_release(user)).await?.id,
        };
        let id = ulid(kit::clock::unix_ms(), kit::random::bytes());
        deployments::insert(&mut tx, &id, app.id, release, counts, plan).await?;
        deployments::tell(&mut tx, &id, DeploymentStatus::Pending, None, "waits for its turn").await?;
        if let Some(key) = key {
            deployments::set_key(&mut tx, app.id, key, &id).await?;
        }
        self.store.commit(tx).await?;
        self.deployment(app, &id).await
    }

    async fn check_room(&self, tx: &mut Tx, app: &AppRow) -> Result<(), Error> {
        if !apps::stays(&mut **tx, app.id).await? {
            return Err(Error::not_found("app", app.name.as_str()));
        }
        if deployments::under_way(&mut **tx, app.id).await? >= MAX_UNDER_WAY {
            return Err(Error::Busy(format!("{MAX_UNDER_WAY} deployments of app {} have not ended yet", app.name)));
        }
        Ok(())
    }

    /// One of the app's deployments.
    pub(crate) async fn deployment(&self, app: &AppRow, id: &str) -> Result<Deployment, Error> {
        let row = deployments::find(self.store.reader(), app.id, id).await?;
        self.show_deployment(app, row.ok_or_else(|| Error::not_found("deployment", id))?).await
    }

    /// The app's last deployments, newest first.
    pub(crate) async fn deployments(&self, app: &AppRow) -> Result<Vec<Deployment>, Error> {
        let mut shown = Vec::new();
        for row in deployments::list(self.store.reader(), app.id, LISTED).await? {
            shown.push(self.show_deployment(app, row).await?);
        }
        Ok(shown)
    }

    /// The app's last releases, newest first.
    pub(crate) async fn releases(&self, app: &AppRow) -> Result<Vec<Release>, Error> {
        let rows = releases::list(self.store.reader(), app.id, LISTED).await?;
        Ok(rows.into_iter().map(|row| view::release(app, row)).collect())
    }

    /// The configuration file of one of the app's releases; of the current one unless another is named.
    pub(crate) async fn release_config(&self, app: &AppRow, version: Option<u32>) -> Result<ReleaseConfig, Error> {
        let release = match version {
            None => self.current_release(app).await?,
            Some(version) => {
                let found = releases::by_version(self.store.reader(), app.id, version).await?;
                found.ok_or_else(|| Error::not_found("release", format!("v{version}")))?
            }
        };
        Ok(ReleaseConfig { version: release.version, config: release.config })
    }

    /// What happened in a deployment after event number `after`: at least one event, or none if it has ended and all
    /// of it is told.
    pub(crate) async fn deployment_events(
        &self,
        app: &AppRow,
        id: &str,
        after: u64,
    ) -> Result<Vec<DeployEvent>, Error> {
        let mut changes = self.store.changes();
        loop {
            changes.borrow_and_update();
            let row = deployments::find(self.store.reader(), app.id, id).await?;
            let row = row.ok_or_else(|| Error::not_found("deployment", id))?;
            let events = deployments::events(self.store.reader(), id, after).await?;
            if !events.is_empty() || row.status.has_ended() || changes.changed().await.is_err() {
                return Ok(events);
            }
        }
    }
}

/// What a deployment rolls out.
enum Rollout<'a> {
    /// A release that is made with it.
    New { draft: &'a Draft, user: &'a str },
    /// One that there is.
    Again(ReleaseRow),
}

impl Draft {
    /// The same release once more.
    fn again(release: &ReleaseRow) -> Result<Self, Error> {
        Ok(Self {
            image: release.image.clone(),
            digest: release.digest.clone(),
            config: release.config.clone(),
            definition: release.definition()?,
            secrets_version: release.secrets_version,
            description: String::new(),
            warnings: Vec::new(),
        })
    }

    fn as_release<'a>(&'a self, user: &'a str) -> releases::NewRelease<'a> {
        releases::NewRelease {
            image: &self.image,
            digest: &self.digest,
            config: &self.config,
            definition: &self.definition,
            secrets_version: self.secrets_version,
            description: &self.description,
            user,
        }
    }

    /// What to know before: what the configuration's reader found, and how many machines a new group gets.
    fn notes(&self, changes: &[Change]) -> Vec<String> {
        let first = changes.iter().filter_map(|change| match change {
            Change::Create { group, .. } => Some(format!(
                "{group} gets one machine, since one host gains nothing from two; `dunlin scale count` makes more"
            )),
            _ => None,
        });
        self.warnings.iter().cloned().chain(first).collect()
    }
}

fn credentials(auth: Option<RegistryAuth>) -> PullCredentials {
    match auth {
        None => PullCredentials::Anonymous,
        Some(RegistryAuth { token: Some(token), .. }) if !token.is_empty() => PullCredentials::Bearer(token),
        Some(RegistryAuth { username, password, .. }) => PullCredentials::Basic { username, password },
    }
}

fn check_counts(definition: &Definition, counts: &BTreeMap<String, u32>) -> Result<(), Error> {
    let mut problems = Vec::new();
    if counts.is_empty() {
        problems.push("counts: name a process group and its number of machines".to_owned());
    }
    for (name, count) in counts {
        match definition.group(name) {
            None => {
                let known: Vec<_> = definition.groups.iter().map(|group| group.name.as_str()).collect();
                problems.push(format!("there is no process group {name}; the app has {}", known.join(", ")));
            }
            Some(group) if !group.config.mounts.is_empty() && *count > 1 => {
                let volume = &group.config.mounts[0].name;
                problems.push(format!(
                    "{name}: volume {volume} can be used by one machine at a time, so there is one at most"
                ));
            }
            Some(_) if *count > MAX_COUNT => problems.push(format!("{name}: {MAX_COUNT} machines at most")),
            Some(_) => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Invalid(problems)) }
}
