//! The account of one request, from its coming to the end of its answer.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{Method, StatusCode, Version, uri::PathAndQuery};
use tokio::time::Instant;

use super::{Trace, record::Record};
use crate::{
    Refusal,
    http::{Inbound, RequestId},
    journal::Journal,
    limits::Place,
    machine::{AppState, Machine},
};

/// What the record says of a request whose client left before its answer: nginx's status for that.
const CLIENT_LEFT: u16 = 499;

/// What is known of a request so far. Dropping it closes the account: its record is written.
pub struct Account {
    journal: Arc<Journal>,
    id: RequestId,
    trace: Trace,
    client: IpAddr,
    began: Instant,
    method: Method,
    target: Option<PathAndQuery>,
    version: Version,
    host: Option<Arc<str>>,
    app: Option<Arc<AppState>>,
    place: Option<Place>,
    machine: Option<Arc<Machine>>,
    code: Option<&'static str>,
    answer: Option<(StatusCode, Duration)>,
    bytes_out: u64,
}

impl Account {
    /// Opens the account of a request that came at this moment, which from here on is part of a trace. It stands by address, since it is handed
    /// on from the request to the end of its answer.
    pub fn open(
        journal: &Arc<Journal>,
        id: &RequestId,
        client: IpAddr,
        request: &mut Inbound,
        began: Instant,
    ) -> Box<Self> {
        let trace = Trace::take_part(&mut request.fields);
        Box::new(Self {
            journal: journal.clone(),
            id: *id,
            trace,
            client,
            began,
            method: request.method.clone(),
            target: request.uri.path_and_query().cloned(),
            version: request.version,
            host: None,
            app: None,
            place: None,
            machine: None,
            code: None,
            answer: None,
            bytes_out: 0,
        })
    }

    /// Where it stands in its trace.
    pub fn trace(&self) -> Trace {
        self.trace
    }

    /// It is for this app, by this host name.
    pub fn is_for(&mut self, app: &Arc<AppState>, host: &Arc<str>) {
        self.app = Some(app.clone());
        self.host = Some(host.clone());
    }

    /// It has this place among the requests of its app, for as long as the account is open.
    pub fn holds(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// This machine answered.
    pub fn answered_by(&mut self, machine: &Arc<Machine>) {
        self.machine = Some(machine.clone());
    }

    /// It was refused, or broke off.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.failed(refusal.code());
    }

    /// It did not come to a good end, for the reason that this code stands for. The first one counts.
    pub fn failed(&mut self, code: &'static str) {
        self.code.get_or_insert(code);
    }

    /// The header of its answer goes out.
    pub fn answered(&mut self, status: StatusCode) {
        let took = self.began.elapsed();
        self.answer = Some((status, took));
        if let Some(app) = &self.app {
            app.metrics().responses.observe(status.as_u16(), took);
        }
        if let Some(machine) = &self.machine {
            machine.metrics().responses.observe(status.as_u16(), took);
        }
    }

    /// So many bytes of its answer's body went out.
    pub fn went_out(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some(app) = &self.app else { return };
        self.journal.access(app, self.machine.as_ref().map(|machine| &machine.id), |now| {
            // Whoever left before that has no answer: as others write it, too.
            let (status, first_byte) =
                self.answer.map_or((CLIENT_LEFT, Duration::ZERO), |(status, took)| (status.as_u16(), took));
            let code = self.code.or_else(|| self.answer.is_none().then_some("PH06"));
            Record {
                method: &self.method,
                target: self.target.as_ref().map_or("/", PathAndQuery::as_str),
                host: self.host.as_deref().unwrap_or_default(),
                version: self.version,
                client: self.client,
                status,
                code,
                bytes_out: self.bytes_out,
                first_byte,
                total: now.saturating_duration_since(self.began),
                request_id: self.id.as_str(),
                trace_id: self.trace.trace_id(),
            }
        });
    }
}
