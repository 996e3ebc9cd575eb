//! The API's calls, typed.

use api::public::{
    access::{CreateOrganization, CreateToken, OrganizationList, TokenList, TokenReply},
    certificates::{AddCertificate, Certificate, CertificateList, ImportCertificate},
    deploys::{
        DeployEvent, DeployRequest, Deployment, Plan, Platform, Release, ReleaseConfig, RollbackRequest, ScaleRequest,
    },
    edge::{EdgeConnections, EdgeRoutes},
    machines::{
        App, AppList, CreateApp, ExecMachine, ExecReply, Machine, Organization, SecretList, SetSecrets, StartReply,
        StopMachine,
    },
    maintenance::{BeginMaintenance, Maintenance},
};
use futures_util::Stream;
use model::{AppName, MachineId, log::LogRecord};
use serde_json::json;

use super::{client::Client, exit::Failure};

type Answer<T> = Result<T, Failure>;

impl Client {
    /// Facts about the platform.
    pub async fn platform(&self) -> Answer<Platform> {
        self.get("/v1/platform", &[]).await
    }

    /// What leads where at the edge: for all apps, or for one.
    pub async fn edge_routes(&self, app: Option<&AppName>) -> Answer<EdgeRoutes> {
        self.get("/v1/edge/routes", &of_app(app)).await
    }

    /// The live connections of clients: of all apps, or of one.
    pub async fn edge_connections(&self, app: Option<&AppName>) -> Answer<EdgeConnections> {
        self.get("/v1/edge/connections", &of_app(app)).await
    }

    /// The apps of all organizations that the caller may act for, or of one.
    pub async fn apps(&self, org: Option<&str>) -> Answer<AppList> {
        let query: Vec<_> = org.map(|org| ("org_slug", org.to_owned())).into_iter().collect();
        self.get("/v1/apps", &query).await
    }

    /// An app.
    pub async fn app(&self, app: &AppName) -> Answer<App> {
        self.get(&format!("/v1/apps/{app}"), &[]).await
    }

    /// Creates an app.
    pub async fn create_app(&self, app: &CreateApp) -> Answer<App> {
        self.post("/v1/apps", app).await
    }

    /// Destroys an app with everything that belongs to it.
    pub async fn destroy_app(&self, app: &AppName) -> Answer<()> {
        self.delete(&format!("/v1/apps/{app}"), &[("force", "true".to_owned())]).await
    }

    /// An app's host names, those that contain `filter`.
    pub async fn certificates(&self, app: &AppName, filter: Option<&str>) -> Answer<CertificateList> {
        let path = format!("/v1/apps/{app}/certificates");
        let mut all = CertificateList::default();
        loop {
            let mut query = vec![("limit", "500".to_owned())];
            query.extend(filter.map(|filter| ("filter", filter.to_owned())));
            query.extend(all.next_cursor.take().map(|cursor| ("cursor", cursor)));
            let page: CertificateList = self.get(&path, &query).await?;
            all.certificates.extend(page.certificates);
            (all.next_cursor, all.total_count) = (page.next_cursor, page.total_count);
            if all.next_cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// One of them.
    pub async fn certificate(&self, app: &AppName, hostname: &str) -> Answer<Certificate> {
        self.get(&of_hostname(app, hostname, ""), &[]).await
    }

    /// Adds a host name whose certificates are ordered.
    pub async fn add_certificate(&self, app: &AppName, request: &AddCertificate) -> Answer<Certificate> {
        self.post(&format!("/v1/apps/{app}/certificates/acme"), request).await
    }

    /// Imports a certificate.
    pub async fn import_certificate(&self, app: &AppName, request: &ImportCertificate) -> Answer<Certificate> {
        self.post(&format!("/v1/apps/{app}/certificates/custom"), request).await
    }

    /// Looks at a host name's DNS.
    pub async fn check_certificate(&self, app: &AppName, hostname: &str) -> Answer<Certificate> {
        self.post(&of_hostname(app, hostname, "/check"), &json!({})).await
    }

    /// Removes a host name.
    pub async fn remove_hostname(&self, app: &AppName, hostname: &str) -> Answer<()> {
        self.delete(&of_hostname(app, hostname, ""), &[]).await
    }

    /// Removes one of its certificates.
    pub async fn remove_certificate(&self, app: &AppName, hostname: &str, source: &str) -> Answer<Certificate> {
        self.delete(&of_hostname(app, hostname, &format!("/{source}")), &[]).await?;
        self.certificate(app, hostname).await
    }

    /// Whether an app is in maintenance mode.
    pub async fn maintenance(&self, app: &AppName) -> Answer<Maintenance> {
        self.get(&format!("/v1/apps/{app}/maintenance"), &[]).await
    }

    /// Puts an app into maintenance mode.
    pub async fn begin_maintenance(&self, app: &AppName, request: &BeginMaintenance) -> Answer<Maintenance> {
        self.put(&format!("/v1/apps/{app}/maintenance"), request).await
    }

    /// Opens an app again.
    pub async fn end_maintenance(&self, app: &AppName) -> Answer<Maintenance> {
        let path = format!("/v1/apps/{app}/maintenance");
        self.delete(&path, &[]).await?;
        self.get(&path, &[]).await
    }

    /// What a deployment would do.
    pub async fn plan(&self, app: &AppName, request: &DeployRequest) -> Answer<Plan> {
        self.post(&format!("/v1/apps/{app}/plan"), request).await
    }

    /// Begins a deployment.
    pub async fn deploy(&self, app: &AppName, request: &DeployRequest) -> Answer<Deployment> {
        self.post(&format!("/v1/apps/{app}/deployments"), request).await
    }

    /// An app's deployments, newest first.
    pub async fn deployments(&self, app: &AppName) -> Answer<Vec<Deployment>> {
        self.get(&format!("/v1/apps/{app}/deployments"), &[]).await
    }

    /// A deployment.
    pub async fn deployment(&self, app: &AppName, id: &str) -> Answer<Deployment> {
        self.get(&format!("/v1/apps/{app}/deployments/{id}"), &[]).await
    }

    /// What happens in a deployment, from the event after `after` to its end.
    pub async fn deployment_events(
        &self,
        app: &AppName,
        id: &str,
        after: u64,
    ) -> Answer<impl Stream<Item = Answer<DeployEvent>> + use<>> {
        self.lines(&format!("/v1/apps/{app}/deployments/{id}/events"), &[("after", after.to_string())]).await
    }

    /// An app's releases, newest first.
    pub async fn releases(&self, app: &AppName) -> Answer<Vec<Release>> {
        self.get(&format!("/v1/apps/{app}/releases"), &[]).await
    }

    /// The configuration file of an app's current release.
    pub async fn release_config(&self, app: &AppName) -> Answer<ReleaseConfig> {
        self.get(&format!("/v1/apps/{app}/config"), &[]).await
    }

    /// Runs an earlier release again.
    pub async fn rollback(&self, app: &AppName, version: Option<u32>) -> Answer<Deployment> {
        self.post(&format!("/v1/apps/{app}/rollback"), &RollbackRequest { version }).await
    }

    /// Changes how many machines run.
    pub async fn scale(&self, app: &AppName, request: &ScaleRequest) -> Answer<Deployment> {
        self.post(&format!("/v1/apps/{app}/scale"), request).await
    }

    /// An app's log.
    pub async fn logs(
        &self,
        app: &AppName,
        query: &[(&str, String)],
    ) -> Answer<impl Stream<Item = Answer<LogRecord>> + use<>> {
        self.lines(&format!("/v1/apps/{app}/logs"), query).await
    }

    /// An app's machines.
    pub async fn machines(&self, app: &AppName) -> Answer<Vec<Machine>> {
        self.get(&format!("/v1/apps/{app}/machines"), &[]).await
    }

    /// A machine.
    pub async fn machine(&self, app: &AppName, id: &MachineId) -> Answer<Machine> {
        self.get(&format!("/v1/apps/{app}/machines/{id}"), &[]).await
    }

    /// Starts a machine.
    pub async fn start_machine(&self, app: &AppName, id: &MachineId) -> Answer<StartReply> {
        self.post(&format!("/v1/apps/{app}/machines/{id}/start"), &json!({})).await
    }

    /// Stops a machine.
    pub async fn stop_machine(&self, app: &AppName, id: &MachineId, how: &StopMachine) -> Answer<()> {
        self.order(&format!("/v1/apps/{app}/machines/{id}/stop"), how).await
    }

    /// Keeps a machine's memory and ends its virtual machine.
    pub async fn suspend_machine(&self, app: &AppName, id: &MachineId) -> Answer<()> {
        self.order(&format!("/v1/apps/{app}/machines/{id}/suspend"), &json!({})).await
    }

    /// Stops and starts a machine.
    pub async fn restart_machine(&self, app: &AppName, id: &MachineId) -> Answer<()> {
        self.order(&format!("/v1/apps/{app}/machines/{id}/restart"), &json!({})).await
    }

    /// Destroys a machine.
    pub async fn destroy_machine(&self, app: &AppName, id: &MachineId, force: bool) -> Answer<()> {
        self.delete(&format!("/v1/apps/{app}/machines/{id}"), &[("force", force.to_string())]).await
    }

    /// Runs a command in a machine and waits for its end.
    pub async fn exec(&self, app: &AppName, id: &MachineId, request: &ExecMachine) -> Answer<ExecReply> {
        self.post(&format!("/v1/apps/{app}/machines/{id}/exec"), request).await
    }

    /// An app's secrets, without their values.
    pub async fn secrets(&self, app: &AppName) -> Answer<SecretList> {
        self.get(&format!("/v1/apps/{app}/secrets"), &[]).await
    }

    /// Sets and removes secrets, all or none. No machine changes.
    pub async fn set_secrets(&self, app: &AppName, request: &SetSecrets) -> Answer<SecretList> {
        self.post(&format!("/v1/apps/{app}/secrets"), request).await
    }

    /// Brings the newest secrets to the machines.
    pub async fn deploy_secrets(&self, app: &AppName) -> Answer<Deployment> {
        self.post(&format!("/v1/apps/{app}/secrets/deploy"), &json!({})).await
    }

    /// The organizations that the caller may act for.
    pub async fn organizations(&self) -> Answer<OrganizationList> {
        self.get("/v1/orgs", &[]).await
    }

    /// Creates an organization.
    pub async fn create_organization(&self, request: &CreateOrganization) -> Answer<Organization> {
        self.post("/v1/orgs", request).await
    }

    /// Makes a token that is good for an organization.
    pub async fn create_org_token(&self, org: &str, request: &CreateToken) -> Answer<TokenReply> {
        self.post(&format!("/v1/orgs/{org}/tokens"), request).await
    }

    /// Makes a token that is good for one app.
    pub async fn create_app_token(&self, app: &AppName, request: &CreateToken) -> Answer<TokenReply> {
        self.post(&format!("/v1/apps/{app}/deploy_token"), request).await
    }

    /// The tokens that the caller may revoke: all, or those of an organization or an app.
    pub async fn tokens(&self, org: Option<&str>, app: Option<&AppName>) -> Answer<TokenList> {
        let mut query = of_app(app);
        query.extend(org.map(|org| ("org_slug", org.to_owned())));
        self.get("/v1/tokens", &query).await
    }

    /// Makes a token good no more.
    pub async fn revoke_token(&self, id: &str) -> Answer<()> {
        self.delete(&format!("/v1/tokens/{id}"), &[]).await
    }
}

/// The path of a host name, of which only a wildcard's star and what is no name at all need to be encoded.
fn of_hostname(app: &AppName, hostname: &str, rest: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let encoded: String = hostname
        .bytes()
        .map(|byte| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    format!("/v1/apps/{app}/certificates/{encoded}{rest}")
}

fn of_app(app: Option<&AppName>) -> Vec<(&'static str, String)> {
    app.map(|app| ("app", app.to_string())).into_iter().collect()
}
