//! Counters as Prometheus reads them (text format, version 0.0.4). The names are those that dashboards of the field use.

use std::{collections::BTreeSet, fmt::Write};

use model::AppName;

use super::{
    AppMetrics, MachineMetrics,
    metrics::{BOUNDS_S, ByStatus, Histogram},
};
use crate::{context::Context, limits::Limits, machine::Machine, routing::App};

/// Everything that was counted for some apps; of every one, and of what belongs to none, without them.
pub fn render(context: &Context, visible: Option<&BTreeSet<AppName>>) -> String {
    let routing = context.routing.load();
    let counted = routing.apps().filter(|app| app.state.counted().is_some());
    let mut apps: Vec<_> = counted.filter(|app| visible.is_none_or(|names| names.contains(&app.route.name))).collect();
    apps.sort_by(|a, b| a.route.name.cmp(&b.route.name));
    let mut page = Page { text: String::new(), region: context.region.to_string() };
    page.edge(context, &apps);
    page.refused(&apps, visible.is_none().then_some(&context.limits));
    if visible.is_none() {
        page.handshakes(context);
    }
    page.machines(&apps, |id| routing.machine(id).cloned());
    page.text
}

struct Page {
    text: String,
    region: String,
}

impl Page {
    /// What was counted at the edge, by app.
    fn edge(&mut self, context: &Context, apps: &[&std::sync::Arc<App>]) {
        let counted = || apps.iter().filter_map(|app| Some((app.route.name.as_str(), app.state.counted()?)));
        self.head("fly_edge_http_responses_count", "counter", "Answers to clients.");
        for (app, metrics) in counted() {
            self.statuses("fly_edge_http_responses_count", &[("app", app)], &metrics.responses);
        }
        self.head("fly_edge_http_response_time_seconds", "histogram", "From a request to the header of its answer.");
        for (app, metrics) in counted() {
            self.times("fly_edge_http_response_time_seconds", &[("app", app)], &metrics.responses);
        }
        let live = live_bytes(context);
        let number = |app: &str, live: &[(String, u64, u64)], out: bool| {
            live.iter().filter(|(it, ..)| it == app).map(|(_, i, o)| if out { *o } else { *i }).sum::<u64>()
        };
        for (name, help, value) in [
            ("fly_edge_tcp_connects_count", "Connections of clients.", 0),
            ("fly_edge_tcp_disconnects_count", "Connections of clients that ended.", 1),
            ("fly_edge_data_in", "Bytes from clients.", 2),
            ("fly_edge_data_out", "Bytes to clients.", 3),
        ] {
            self.head(name, "counter", help);
            for (app, metrics) in counted() {
                let AppMetrics { connects, disconnects, data_in, data_out, .. } = metrics;
                let value = match value {
                    0 => connects.get(),
                    1 => disconnects.get(),
                    2 => data_in.get() + number(app, &live, false),
                    _ => data_out.get() + number(app, &live, true),
                };
                self.line(name, &[("app", app)], value as f64);
            }
        }
    }

    /// What was refused because it was too much: by app where that is known, in all for those who may see all.
    fn refused(&mut self, apps: &[&std::sync::Arc<App>], overall: Option<&Limits>) {
        let (dropped, limited) = ("fly_edge_tcp_connections_drop_count", "fly_edge_tcp_rate_limited_count");
        let counted = || apps.iter().filter_map(|app| Some((app.route.name.as_str(), app.state.counted()?)));
        self.head(dropped, "counter", "Connections of clients for which there was no place.");
        for (app, metrics) in counted() {
            self.line(dropped, &[("app", app)], metrics.dropped.get() as f64);
        }
        if let Some(limits) = overall {
            self.line(dropped, &[("app", "")], limits.dropped.get() as f64);
        }
        self.head(limited, "counter", "Connections and TLS handshakes that came too fast.");
        for (app, metrics) in counted() {
            self.line(limited, &[("app", app), ("type", "tls")], metrics.handshakes_limited.get() as f64);
        }
        if let Some(limits) = overall {
            self.line(limited, &[("app", ""), ("type", "tls")], limits.handshakes_limited.get() as f64);
            self.line(limited, &[("app", ""), ("type", "connections")], limits.connections_limited.get() as f64);
        }
    }

    fn handshakes(&mut self, context: &Context) {
        let (time, errors) = ("fly_edge_tls_handshake_time_seconds", "fly_edge_tls_handshake_errors");
        self.head(time, "histogram", "How long TLS handshakes took.");
        for (version, histogram) in context.handshakes.times() {
            self.histogram(time, &[("version", version)], histogram);
        }
        self.head(errors, "counter", "TLS handshakes that failed.");
        for (name, count) in context.handshakes.errors() {
            self.line(errors, &[("servername", &name)], count as f64);
        }
    }

    /// What was counted at the last hop, by machine.
    fn machines(
        &mut self,
        apps: &[&std::sync::Arc<App>],
        live: impl Fn(&model::MachineId) -> Option<std::sync::Arc<Machine>>,
    ) {
        let machines: Vec<_> = apps
            .iter()
            .flat_map(|app| app.route.machines.iter().map(|machine| (app.route.name.as_str(), machine)))
            .filter_map(|(app, machine)| Some((app, live(&machine.id)?)))
            .filter(|(_, machine)| machine.counted().is_some())
            .collect();
        self.head("fly_app_concurrency", "gauge", "Requests and connections under way.");
        for (app, machine) in &machines {
            let labels = [("app", *app), ("instance", machine.id.as_str())];
            self.line("fly_app_concurrency", &labels, machine.under_way() as f64);
        }
        type Write = fn(&mut Page, &str, &[(&str, &str)], &MachineMetrics);
        let families: [(&str, &str, &str, Write); 5] = [
            ("fly_app_http_responses_count", "counter", "Answers of machines.", |page, name, labels, it| {
                page.statuses(name, labels, &it.responses);
            }),
            ("fly_app_http_response_time_seconds", "histogram", "How long machines took.", |page, name, labels, it| {
                page.times(name, labels, &it.responses);
            }),
            ("fly_app_connect_time_seconds", "histogram", "How long connecting took.", |page, name, labels, it| {
                page.histogram(name, labels, &it.connect_time);
            }),
            ("fly_app_tcp_connects_count", "counter", "Connections to machines.", |page, name, labels, it| {
                page.line(name, labels, it.connects.get() as f64);
            }),
            (
                "fly_app_tcp_disconnects_count",
                "counter",
                "Connections to machines that ended.",
                |page, name, labels, it| {
                    page.line(name, labels, it.disconnects.get() as f64);
                },
            ),
        ];
        for (name, kind, help, write) in families {
            self.head(name, kind, help);
            for (app, machine) in &machines {
                let labels = [("app", *app), ("instance", machine.id.as_str())];
                machine.counted().into_iter().for_each(|metrics| write(self, name, &labels, metrics));
            }
        }
    }

    fn statuses(&mut self, name: &str, labels: &[(&str, &str)], responses: &ByStatus) {
        for (status, responses) in responses.all() {
            let count = responses.time.classes().iter().sum::<u64>();
            self.line(name, &with(labels, ("status", &status.to_string())), count as f64);
        }
    }

    fn times(&mut self, name: &str, labels: &[(&str, &str)], responses: &ByStatus) {
        for (status, responses) in responses.all() {
            self.histogram(name, &with(labels, ("status", &status.to_string())), &responses.time);
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut count = 0;
        for (class, more) in histogram.classes().into_iter().enumerate() {
            count += more;
            let bound = BOUNDS_S.get(class).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            self.line(&format!("{name}_bucket"), &with(labels, ("le", &bound)), count as f64);
        }
        self.line(&format!("{name}_sum"), labels, histogram.sum_s());
        self.line(&format!("{name}_count"), labels, count as f64);
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.text, "{name}{{region=\"{}\"", escape(&self.region));
        for (key, text) in labels {
            let _ = write!(self.text, ",{key}=\"{}\"", escape(text));
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

fn with<'a>(labels: &[(&'a str, &'a str)], more: (&'a str, &'a str)) -> Vec<(&'a str, &'a str)> {
    labels.iter().copied().chain([more]).collect()
}

/// What live connections have carried: it is added to their app's counters when they end.
fn live_bytes(context: &Context) -> Vec<(String, u64, u64)> {
    let live = context.connections.all();
    let bytes = live.iter().filter_map(|connection| {
        let (bytes_in, bytes_out) = connection.bytes();
        Some((connection.app()?.name.to_string(), bytes_in, bytes_out))
    });
    bytes.collect()
}

/// A label's value cannot end its quotes or its line.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
