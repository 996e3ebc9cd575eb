//! Files that a machine serves beside its program: its file server is asked first, and the program where that has none.
//!
//! ```text
//!   GET or HEAD below a prefix ─▶ the machine's file server ─ 404, refused, silent ─▶ the program
//!                                        └ anything else ─▶ the client
//! ```

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use model::machine::{STATICS_PORT, Static};
use tokio::time::timeout;

use crate::{choose::Chosen, context::Context, replay::Head, upstream::Answered};

/// How long the file server may take until the header of its answer is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a request may be for one of the machine's files.
pub fn may_have(chosen: &Chosen, head: &Head) -> bool {
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    let below = |prefix: &String| Static::holds(prefix, head.uri.path());
    // Those of another host are asked by its worker.
    reads && chosen.lease.target.hop.is_none() && chosen.route.statics.iter().any(below)
}

/// The answer of a machine's file server to a request that may be for a file, if there is one.
pub async fn ask(context: &Context, chosen: &Chosen, head: &Head) -> Option<Answered> {
    let mut asked = head.clone();
    // A body, were there one, is the program's.
    for field in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT] {
        asked.map_mut().remove(field);
    }
    asked.map_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let server = (chosen.route.host_local, STATICS_PORT).into();
    let answered = timeout(PATIENCE, context.dialer.fetch(&chosen.lease.target.machine, server, &asked)).await;
    answered.ok()?.filter(|answered| answered.status != StatusCode::NOT_FOUND)
}
