//! The configuration file of a new app, with comments that explain it.

use std::fmt::Write as _;

use model::{AppName, Region};

/// What a new app's configuration file says.
#[derive(Debug, Clone)]
pub struct NewApp {
    /// The app.
    pub app: AppName,
    /// Where its machines go.
    pub region: Region,
    /// The port it listens on.
    pub internal_port: u16,
    /// The Dockerfile, if it is not `Dockerfile` beside the configuration file.
    pub dockerfile: Option<String>,
    /// An image to run, instead of one to be built.
    pub image: Option<String>,
    /// The directory that the image declares as a volume, if it does.
    pub volume: Option<String>,
}

/// Writes the configuration file of a new app.
pub fn render_new(new: &NewApp) -> String {
    let mut text = format!(
        "# How {name} runs. `dunlin config validate` checks this file, `dunlin deploy` puts it into effect.\n\n\
         app = {app}\n\
         # Where its machines run.\n\
         primary_region = {region}\n",
        name = new.app,
        app = quoted(new.app.as_str()),
        region = quoted(new.region.as_str()),
    );
    build(&mut text, new);
    let _ = write!(
        text,
        "\n# Requests for the app's address, http and https, go to this port of a machine. The app must listen on\n\
         # 0.0.0.0 (or ::), not on 127.0.0.1.\n\
         [http_service]\n\
         internal_port = {port}\n\
         # Answer plain http with a redirect to https.\n\
         force_https = false\n\
         # A machine that has nothing to do for a while is stopped (or suspended, or kept on: \"suspend\", \"off\"); a request\n\
         # starts it again.\n\
         auto_stop_machines = \"stop\"\n\
         auto_start_machines = true\n\
         # So many keep running in each region all the same.\n\
         min_machines_running = 0\n\n\
         # A machine gets requests only while this answers with a status from 200 to 299.\n\
         # [[http_service.checks]]\n\
         # path = \"/\"\n\
         # interval = \"15s\"\n\
         # timeout = \"2s\"\n\
         # grace_period = \"5s\"\n\n\
         # The size of each machine.\n\
         [[vm]]\n\
         size = \"shared-cpu-1x\"\n\
         memory = \"256mb\"\n\n\
         # Environment of the app. Secrets do not belong here: `dunlin secrets set NAME=VALUE`.\n\
         # [env]\n\
         # LOG_LEVEL = \"info\"\n",
        port = new.internal_port,
    );
    mount(&mut text, new);
    text
}

fn build(text: &mut String, new: &NewApp) {
    let Some((key, value)) =
        new.image.as_ref().map(|image| ("image", image)).or(new.dockerfile.as_ref().map(|path| ("dockerfile", path)))
    else {
        return;
    };
    let _ = write!(text, "\n# What the machines run.\n[build]\n{key} = {}\n", quoted(value));
}

fn mount(text: &mut String, new: &NewApp) {
    if let Some(directory) = &new.volume {
        let _ = write!(
            text,
            "\n# A directory that outlives the machine. The image declares it as a volume.\n\
             [[mounts]]\nsource = \"data\"\ndestination = {}\n",
            quoted(directory)
        );
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}
