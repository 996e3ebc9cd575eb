//! Connections whose bytes pass as they are.

use std::sync::Arc;

use model::AppName;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::TcpStream,
};

use crate::{
    Refusal,
    account::Counted,
    choose::{Chosen, Search},
    context::Context,
    http::Client,
};

/// Joins a client's connection with one to a machine of the app, both ways, each direction ending by itself
/// (half-close), until both have ended.
pub async fn carry(context: Arc<Context>, app: AppName, io: impl AsyncRead + AsyncWrite + Unpin, client: Client) {
    let _entered = context.connections.enter(&client.connection);
    if let Some(app) = context.routing.load().app(app.as_str()) {
        client.connection.is_for(&app.state);
    }
    let mut io = Counted::new(io, client.connection.clone());
    let carried = async {
        match connect(&context, &app, client.port).await {
            Ok((mut machine, chosen)) => {
                if let Err(error) = copy_bidirectional(&mut io, &mut machine).await {
                    tracing::debug!(%app, peer = %client.peer, "a connection ended: {error}");
                }
                chosen.lease.target.machine.metrics().disconnects.one();
            }
            Err(refusal) => tell(&context, &app, &refusal, &client),
        }
    };
    tokio::select! {
        () = carried => {}
        () = context.aborting.cancelled() => {}
    }
}

/// A connection to a machine, another one if the first cannot be reached.
async fn connect(context: &Context, app: &AppName, port: u16) -> Result<(TcpStream, Chosen), Refusal> {
    let mut search = Search::new(context, app, port);
    loop {
        let chosen = search.next().await?;
        match context.dialer.connect(&chosen.lease.target, None).await {
            Ok(stream) => {
                chosen.lease.target.worked();
                return Ok((stream, chosen));
            }
            Err(cause) => search.failed(&chosen.lease, cause).await?,
        }
    }
}

fn tell(context: &Context, app: &AppName, refusal: &Refusal, client: &Client) {
    if let Some(app) = context.routing.load().app(app.as_str()) {
        context.journal.refused(&app.state, refusal, &format!("(connection to port {})", client.port));
    }
}
