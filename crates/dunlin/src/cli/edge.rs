//! `dunlin edge`: what the proxy does at this moment, and a proxy by itself.

use api::public::edge::{EdgeApp, EdgeConnection, EdgeLeftOut, EdgeMachine, EdgePort};
use clap::Subcommand;

use super::{context::Context, exit::Failure, output::table};
use crate::serve::{self, EdgeServeOptions};

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum Edge {
    /// Show what leads where, and why a machine is chosen or not
    Routes,
    /// Show the live connections of clients
    #[command(visible_alias = "conns")]
    Connections,
    /// Run an edge by itself, that follows the platform's catalog (with the administrator's token)
    Serve(Box<EdgeServeOptions>),
}

/// Looks at it: at one app where one was named, else at all that the token is good for.
pub async fn run(context: &Context, command: Edge) -> Result<(), Failure> {
    let client = context.client()?;
    let app = context.app_override()?;
    match command {
        Edge::Routes => {
            let routes = client.edge_routes(app.as_ref()).await?;
            let rows = routes.apps.iter().flat_map(route_rows);
            let headings = ["APP", "PORT", "HANDLERS", "MACHINE", "REGION", "LOAD", "WHY"];
            context.out.data(&routes, || {
                let mut text = table(headings, rows);
                text.extend(routes.left_out.iter().map(left_out));
                text
            })
        }
        Edge::Connections => {
            let live = client.edge_connections(app.as_ref()).await?;
            let headings = ["NUMBER", "CLIENT", "PORT", "TLS", "APP", "AGE", "REQUESTS", "IN", "OUT"];
            context.out.data(&live, || table(headings, live.connections.iter().map(connection_row)))
        }
        Edge::Serve(options) => {
            let ended = serve::run_edge(client, *options).await;
            ended.map_err(|error| Failure::other(format!("{error:#}")))
        }
    }
}

fn route_rows(app: &EdgeApp) -> Vec<[String; 7]> {
    let rows = app.ports.iter().flat_map(|port| port.machines.iter().map(move |machine| (port, machine)));
    rows.map(|(port, machine)| route_row(app, port, machine)).collect()
}

fn route_row(app: &EdgeApp, port: &EdgePort, machine: &EdgeMachine) -> [String; 7] {
    let limit = machine.hard_limit.map_or_else(String::new, |limit| format!(", {limit} at most"));
    let load = format!("{} ({} soft{limit})", machine.load, machine.soft_limit);
    [
        app.name.to_string(),
        port.port.to_string(),
        port.handling.clone(),
        machine.id.to_string(),
        machine
            .round_trip_ms
            .map_or_else(|| machine.region.to_string(), |ms| format!("{} ({ms:.1} ms)", machine.region)),
        load,
        machine.why.clone(),
    ]
}

fn left_out(left_out: &EdgeLeftOut) -> String {
    let app = left_out.app.as_ref().map_or_else(String::new, |app| format!("{app}: "));
    format!("\nleft out: {app}{}", left_out.reason)
}

fn connection_row(connection: &EdgeConnection) -> [String; 9] {
    [
        connection.number.to_string(),
        connection.client.to_string(),
        connection.port.to_string(),
        if connection.tls { "yes" } else { "no" }.to_owned(),
        connection.app.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        format!("{:.1}s", connection.age_ms as f64 / 1e3),
        connection.requests.to_string(),
        connection.bytes_in.to_string(),
        connection.bytes_out.to_string(),
    ]
}
