//! Who gets how much of the edge, so that nobody's flood is felt by others.
//!
//! ```text
//!  connection ─▶ source: places, rate ─▶ [TLS: rate of its range, of the server name] ─▶ app: places ─▶ requests: places
//!                 │ closed at once          │ PT01, PT02: an alert                        │ PL05       │ PL06
//!                 └ counted                 └ told in the app's log, counted ─────────────┴────────────┘
//! ```
//!
//! - **Places** are shared ([`share`]): one source, range or app may take as many as it leaves free. Alone it gets half of
//!   all, beside another flood a third; whoever comes new always finds some.
//! - **Rates** are meters of one number each ([`rate`]), kept in tables whose memory does not grow ([`table`]).
//! - **Slow peers** are waited for with a patience that they use up ([`pace`]): for the body of a request ([`paced`]), for
//!   a reader of answers ([`guarded`]). One answer among many of a connection, and what asks for nothing over HTTP/2, are
//!   bounded where they are known (`http::multiplex`, `http2`).
//! - **Who counts as one** ([`source`]): a *source* is an IPv4 address or an IPv6 /64, what one customer of a network has;
//!   a *range* is an IPv4 /24 or an IPv6 /48, what one can get hold of at a time.

mod admission;
mod guarded;
mod pace;
mod paced;
mod rate;
mod share;
mod source;
mod table;

use std::{net::IpAddr, sync::Arc};

use tokio::time::Instant;

use self::table::RateTable;
pub use self::{
    admission::{Admission, Admitted},
    guarded::Guarded,
    pace::{Pace, Patience},
    paced::{AnswerBegun, Paced, TooSlow},
    rate::{Meter, Rate},
    share::{Place, Shares},
    source::{Network, source_of},
};
use crate::{
    Bounds, Refusal, Subnet,
    account::{Connection, Counter},
    journal::Journal,
    machine::AppState,
};

/// What is shared among apps, and what is counted of those who get nothing.
pub struct Limits {
    /// Places for connections, in all and of each source.
    pub admission: Arc<Admission>,
    connections: Arc<Shares>,
    requests: Arc<Shares>,
    connections_of_range: RateTable<Network>,
    handshakes_of_range: RateTable<Network>,
    handshakes_of_name: RateTable<str>,
    unlimited: Vec<Subnet>,
    /// Connections that were closed because there was no place for them.
    pub dropped: Counter,
    /// Connections that were closed because too many came in a short time.
    pub connections_limited: Counter,
    /// Handshakes that were refused because too many came in a short time.
    pub handshakes_limited: Counter,
}

impl Limits {
    /// As the bounds say.
    pub fn new(bounds: &Bounds) -> Self {
        Self {
            admission: Admission::new(
                bounds.connections,
                bounds.connections_per_source,
                bounds.unlimited_sources.clone(),
            ),
            connections: Shares::new(bounds.connections, bounds.connections_per_app),
            requests: Shares::new(bounds.requests, bounds.requests_per_app),
            connections_of_range: RateTable::new(bounds.connection_rate_per_range),
            handshakes_of_range: RateTable::new(bounds.handshake_rate_per_range),
            handshakes_of_name: RateTable::new(bounds.handshake_rate_per_name),
            unlimited: bounds.unlimited_sources.clone(),
            dropped: Counter::default(),
            connections_limited: Counter::default(),
            handshakes_limited: Counter::default(),
        }
    }

    /// Lets a connection in, if there is a place for it and its range does not open too many.
    pub fn admit(&self, source: IpAddr) -> Option<Admitted> {
        let free = self.is_unlimited(source);
        if !free && !self.connections_of_range.take(&Network::range_of(source), Instant::now()) {
            self.connections_limited.one();
            return None;
        }
        let admitted = self.admission.admit(source);
        if admitted.is_none() {
            self.dropped.one();
        }
        admitted
    }

    /// Whether another handshake may be carried out, before it costs anything.
    pub fn shake_hands(&self, source: IpAddr, name: &str) -> Result<(), Refusal> {
        let (now, range) = (Instant::now(), Network::range_of(source));
        if !self.is_unlimited(source) && !self.handshakes_of_range.take(&range, now) {
            self.handshakes_limited.one();
            return Err(Refusal::HandshakesOfRange { name: name.to_owned(), range: range.to_string() });
        }
        if !self.handshakes_of_name.take(name, now) {
            self.handshakes_limited.one();
            return Err(Refusal::HandshakesOfName { name: name.to_owned() });
        }
        Ok(())
    }

    /// Whether an app may have another connection, before it costs anything.
    pub fn expect_room(&self, app: &AppState) -> Result<(), Refusal> {
        if self.connections.has_room(&app.connections) {
            return Ok(());
        }
        app.metrics().dropped.one();
        Err(Refusal::TooManyConnections { app: app.name.clone() })
    }

    /// Gives a connection a place among those of an app, unless it has one already.
    pub fn enter(&self, connection: &Connection, app: &Arc<AppState>) -> Result<(), Refusal> {
        if connection.app().is_some() {
            return Ok(());
        }
        let Some(place) = self.connections.take(&app.connections) else {
            app.metrics().dropped.one();
            return Err(Refusal::TooManyConnections { app: app.name.clone() });
        };
        connection.is_for(app, place);
        Ok(())
    }

    /// A place for a request among those of an app.
    pub fn begin(&self, app: &AppState) -> Result<Place, Refusal> {
        let place = self.requests.take(&app.requests);
        place.ok_or_else(|| Refusal::TooManyRequests { app: app.name.clone() })
    }

    /// A client's connection was ended because it was abused.
    pub fn abused(&self, journal: &Journal, connection: &Connection, refusal: &Refusal) {
        let Some(app) = connection.app() else { return self.dropped.one() };
        app.metrics().dropped.one();
        journal.refused(app, refusal, &format!("(connection from {} to port {})", connection.peer, connection.port));
    }

    /// Whether a source stands for many, such as a load balancer in front of this host.
    fn is_unlimited(&self, source: IpAddr) -> bool {
        self.unlimited.iter().any(|network| network.has(source.to_canonical()))
    }
}
