//! Organizations and apps by request.

use std::collections::BTreeSet;

use api::public::{
    access::{CreateOrganization, OrganizationList, Token, TokenList, TokenReply},
    machines::{App, AppList, CreateApp, Organization},
};
use kit::{clock::unix_ms, report::Report};
use model::{AppName, OrgSlug, Timestamp, machine::MachineState};

use crate::{
    Control,
    auth::{self, Caller, Scope},
    error::Error,
    store::{
        apps::{self, AppRow},
        machines::{self, MachineRow},
        orgs::{self, Org},
        releases,
        tokens::{self, TokenShown},
    },
};

/// How many apps an organization may have.
const MAX_APPS: usize = 1000;

impl Control {
    /// The app of this name, if the caller may use it.
    pub(crate) async fn app_row(&self, caller: &Caller, name: &str) -> Result<AppRow, Error> {
        let row = apps::find(self.store.reader(), caller.scope, name).await?;
        row.ok_or_else(|| Error::not_found("app", name))
    }

    /// The apps that the caller may use; of one organization if it is named.
    pub(crate) async fn apps(&self, caller: &Caller, org: Option<&str>) -> Result<AppList, Error> {
        let mut shown = Vec::new();
        for row in apps::list(self.store.reader(), caller.scope, org).await? {
            shown.push(self.show_app(&row).await?);
        }
        let total_apps = u32::try_from(shown.len()).unwrap_or(u32::MAX);
        Ok(AppList { apps: shown, total_apps })
    }

    /// Makes an app.
    pub(crate) async fn create_app(&self, caller: &Caller, request: CreateApp) -> Result<App, Error> {
        let name: AppName = request.name.parse().map_err(|error| Error::invalid(format!("name: {error}")))?;
        let slug = if request.org_slug.is_empty() { orgs::DEFAULT } else { &request.org_slug };
        let org = self.org(caller, slug).await?;
        let network = if request.network.is_empty() { orgs::DEFAULT_NETWORK } else { &request.network };
        check_network(network)?;
        if apps::list(self.store.reader(), Scope::Org(org.id), None).await?.len() >= MAX_APPS {
            return Err(Error::invalid(format!("organization {slug} has {MAX_APPS} apps, which is all it may have")));
        }
        let mut tx = self.store.begin().await?;
        let network = orgs::network(&mut tx, org.id, network).await?;
        if !apps::insert(&mut tx, org.id, network, &name).await? {
            return Err(Error::NameTaken(name.to_string()));
        }
        self.store.commit(tx).await?;
        self.show_app(&self.app_row(caller, name.as_str()).await?).await
    }

    /// The organization of this short name, if the caller may act for all of it.
    async fn org(&self, caller: &Caller, slug: &str) -> Result<Org, Error> {
        let org = orgs::by_slug(self.store.reader(), slug).await?.filter(|org| caller.acts_for(org.id));
        org.ok_or_else(|| Error::not_found("organization", slug))
    }

    /// The organizations that the caller may act for; an app's token sees the app's own.
    pub(crate) async fn orgs(&self, caller: &Caller) -> Result<OrganizationList, Error> {
        let own = |org: &Org| caller.scope.ids().0.is_none_or(|id| id == org.id);
        let all = orgs::all(self.store.reader()).await?;
        let show = |org: Org| Organization { name: org.name, slug: org.slug };
        Ok(OrganizationList { organizations: all.into_iter().filter(own).map(show).collect() })
    }

    /// Makes an organization.
    pub(crate) async fn create_org(&self, caller: &Caller, request: CreateOrganization) -> Result<Organization, Error> {
        caller.require_admin("create an organization")?;
        let slug: OrgSlug = request.slug.parse().map_err(|error| Error::invalid(format!("slug: {error}")))?;
        let name = if request.name.is_empty() { slug.to_string() } else { request.name.chars().take(100).collect() };
        let mut tx = self.store.begin().await?;
        if !orgs::insert(&mut tx, &slug, &name).await? {
            return Err(Error::NameTaken(slug.to_string()));
        }
        self.store.commit(tx).await?;
        Ok(Organization { name, slug })
    }

    /// Makes a token that reaches one organization.
    pub(crate) async fn create_org_token(
        &self,
        caller: &Caller,
        slug: &str,
        name: &str,
        lifetime_ms: Option<u64>,
    ) -> Result<TokenReply, Error> {
        let org = self.org(caller, slug).await?;
        self.create_token(Scope::Org(org.id), name, slug, lifetime_ms).await
    }

    /// Makes a token that reaches one app.
    pub(crate) async fn create_app_token(&self, app: &AppRow, lifetime_ms: Option<u64>) -> Result<TokenReply, Error> {
        let scope = Scope::App { org: app.org_id, app: app.id };
        self.create_token(scope, "", &format!("deploy token of {}", app.name), lifetime_ms).await
    }

    async fn create_token(
        &self,
        scope: Scope,
        name: &str,
        usual_name: &str,
        lifetime_ms: Option<u64>,
    ) -> Result<TokenReply, Error> {
        let name: String = if name.is_empty() { usual_name } else { name }.chars().take(100).collect();
        let mut tx = self.store.begin().await?;
        let expires_at = lifetime_ms.map(|lifetime| unix_ms().saturating_add(lifetime));
        let token = auth::create_token(&mut tx, scope, &name, expires_at, true).await?;
        self.store.commit(tx).await?;
        Ok(TokenReply { token })
    }

    /// The tokens that the caller may revoke, of an organization and of an app if these are named.
    pub(crate) async fn tokens(
        &self,
        caller: &Caller,
        org: Option<&str>,
        app: Option<&str>,
    ) -> Result<TokenList, Error> {
        let rows = tokens::list(self.store.reader(), caller.tokens_within()?, org, app).await?;
        Ok(TokenList { tokens: rows.into_iter().map(shown_token).collect::<Result<_, _>>()? })
    }

    /// Makes a token good no more.
    pub(crate) async fn revoke_token(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        let within = caller.tokens_within()?;
        let mut tx = self.store.begin().await?;
        if !tokens::delete(&mut tx, id, within).await? {
            return Err(Error::not_found("token", id));
        }
        self.store.commit(tx).await
    }

    /// An app as the API shows it.
    pub(crate) async fn show_app(&self, row: &AppRow) -> Result<App, Error> {
        let machines = machines::of_app(self.store.reader(), row.id).await?;
        let live: Vec<_> = machines.iter().filter(|machine| !machine.gone).collect();
        let volumes: BTreeSet<_> =
            live.iter().flat_map(|machine| &machine.spec.config.mounts).map(|mount| &mount.name).collect();
        let release = match row.current_release {
            Some(id) => releases::by_id(self.store.reader(), id).await?,
            None => None,
        };
        let definition = release.map(|release| release.definition()).transpose()?;
        Ok(App {
            id: row.name.to_string(),
            name: row.name.clone(),
            network: row.network_name.clone(),
            status: self.app_status(row, &live).to_owned(),
            machine_count: u32::try_from(live.len()).unwrap_or(u32::MAX),
            volume_count: u32::try_from(volumes.len()).unwrap_or(u32::MAX),
            organization: Organization { name: row.org_name.clone(), slug: row.org.clone() },
            url: definition.and_then(|definition| self.options.url(&row.name, definition.configs())),
            hostname: self.options.hostname(&row.name),
        })
    }

    fn app_status(&self, row: &AppRow, machines: &[&MachineRow]) -> &'static str {
        let view = self.view();
        let runs = |machine: &&MachineRow| {
            view.machines.get(&machine.spec.id).is_some_and(|observed| observed.state == MachineState::Started)
        };
        match () {
            () if row.destroying => "destroying",
            () if machines.iter().any(runs) => "deployed",
            () if row.current_release.is_none() && machines.is_empty() => "pending",
            () => "suspended",
        }
    }

    /// Begins to destroy an app; the rest is done in the background, and goes on after a restart.
    pub(crate) async fn begin_to_destroy_app(&self, app: &AppRow) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        apps::set_destroying(&mut tx, app.id).await?;
        self.store.commit(tx).await
    }

    /// Waits until an app is gone.
    pub(crate) async fn app_gone(&self, app: i64) -> Result<(), Error> {
        let mut changes = self.store.changes();
        while apps::by_id(self.store.reader(), app).await?.is_some() {
            if changes.changed().await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Destroys an app that is on its way out: its machines, volumes, images, logs, and then all that is known of it.
    /// Each part may be done again, so this goes on where it was interrupted.
    pub(crate) async fn destroy_app(&self, id: i64) -> Result<(), Error> {
        let Some(app) = apps::by_id(self.store.reader(), id).await? else { return Ok(()) };
        for row in machines::of_app(self.store.reader(), id).await? {
            if row.destroyed_at.is_none() {
                self.retire_for_good(&row).await?;
            }
        }
        self.ports.node.destroy_volumes(&app.name).await?;
        self.ports.images.forget(&app.name).await?;
        self.ports.logs.forget(&app.name).await;
        let mut tx = self.store.begin().await?;
        apps::delete(&mut tx, id).await?;
        self.store.commit(tx).await?;
        self.tell_hostnames().await?;
        self.tell_maintenance().await
    }

    /// Stops a machine in the orderly way, so that its program may save what it holds, and destroys it.
    async fn retire_for_good(&self, row: &MachineRow) -> Result<(), Error> {
        let id = &row.spec.id;
        if let Err(error) = self.ports.node.stop(id, api::internal::StopRequest::default()).await {
            tracing::debug!(machine = %id, "not stopped before it is destroyed: {}", Report(&error));
        }
        self.remove(id, true).await
    }
}

impl AppRow {
    /// Refuses if the app is on its way out.
    pub(crate) fn require_living(&self) -> Result<(), Error> {
        if !self.destroying {
            return Ok(());
        }
        Err(Error::Conflict {
            message: format!("app {} is being destroyed", self.name),
            hint: "wait until it is gone, then create it again",
        })
    }
}

fn check_network(name: &str) -> Result<(), Error> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.len() <= 63 && name.chars().all(inner) {
        return Ok(());
    }
    Err(Error::invalid(format!("network: {name:?} is not a network's name: 1 to 63 letters, digits, '-' and '_'")))
}

fn shown_token(row: TokenShown) -> Result<Token, Error> {
    let read = Error::unreadable("token");
    let names =
        || Ok((row.org.as_deref().map(str::parse).transpose()?, row.app.as_deref().map(str::parse).transpose()?));
    let (org, app) = names().map_err(|error: model::InvalidName| read(error.into()))?;
    let time = |ms: i64| Timestamp(ms.unsigned_abs());
    let (created_at, expires_at) = (time(row.created_at), row.expires_at.map(time));
    Ok(Token { id: row.id, name: row.name, org, app, created_at, expires_at })
}
