//! How much the edge takes of everybody, as the command line says it.

use std::num::NonZeroUsize;

use clap::Args;
use edge::{Bounds, Subnet};

/// How many connections, of whom and for whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of the edge")]
pub struct EdgeLimits {
    /// Connections of clients at a time. Beyond them connections are closed as soon as they come
    #[arg(long, value_name = "COUNT", default_value_t = count(Bounds::default().connections))]
    max_connections: NonZeroUsize,
    /// Connections to one app at a time, as long as as many again are free. Beyond them requests are refused with PL05
    #[arg(long, value_name = "COUNT", default_value_t = count(Bounds::default().connections_per_app))]
    max_connections_per_app: NonZeroUsize,
    /// Connections of one source (an IPv4 address, an IPv6 /64) at a time
    #[arg(long, value_name = "COUNT", default_value_t = count(Bounds::default().connections_per_source))]
    max_connections_per_source: NonZeroUsize,
    /// Sources that stand for many clients, such as a load balancer in front of this host that does not say whom it
    /// speaks for: the bounds on one source are not for them. This host itself is always one
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    unlimited_sources: Vec<Subnet>,
}

fn count(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

impl EdgeLimits {
    /// The edge's bounds with these.
    pub fn bounds(&self) -> Bounds {
        let mut bounds = Bounds {
            connections: self.max_connections.get(),
            connections_per_app: self.max_connections_per_app.get(),
            connections_per_source: self.max_connections_per_source.get(),
            ..Bounds::default()
        };
        bounds.unlimited_sources.extend(&self.unlimited_sources);
        bounds
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        limits: EdgeLimits,
    }

    fn bounds(arguments: &[&str]) -> Option<Bounds> {
        let cli = Cli::try_parse_from([&["dunlin"], arguments].concat());
        cli.ok().map(|cli| cli.limits.bounds())
    }

    #[test]
    fn what_the_command_line_says_is_what_the_edge_allows() {
        let said = ["--max-connections=30", "--max-connections-per-app=20", "--max-connections-per-source=10"];
        let bounds_said = bounds(&said).unwrap();
        let Bounds { connections, connections_per_app, connections_per_source, .. } = bounds_said;
        assert_eq!((connections, connections_per_app, connections_per_source), (30, 20, 10));
        let load_balancer = bounds(&["--unlimited-sources=192.0.2.0/24"]).unwrap();
        assert_eq!(load_balancer.unlimited_sources.len(), Bounds::default().unlimited_sources.len() + 1);
        assert_eq!(load_balancer.connections, Bounds::default().connections);
        assert!(bounds(&["--max-connections-per-app=0"]).is_none());
    }
}
