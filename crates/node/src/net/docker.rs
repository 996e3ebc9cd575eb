//! Living beside Docker on one host.
//!
//! Docker sets the policy of the host's `FORWARD` chains to drop, which would end our guests' packets too: a packet
//! passes only if every table lets it pass. The chain `DOCKER-USER` is where Docker leaves room for others' rules. Ours
//! say that what comes from or goes to our taps is not Docker's to judge; [`super::firewall`] still does.
//!
//! The rules go in by Docker's own tool, `iptables`, since rules of another make would confuse it.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

const TOOLS: [&str; 2] = ["iptables", "ip6tables"];
const CHAIN: &str = "DOCKER-USER";
const PATIENCE: Duration = Duration::from_secs(10);

/// Lets packets of the taps whose names begin so pass Docker's chains, where there are any.
pub async fn make_way(tap_prefix: &str) {
    for tool in TOOLS {
        for rule in rules(tap_prefix) {
            let there = run(tool, "-C", &rule).await;
            if !there && run(tool, "-I", &rule).await {
                tracing::info!(tool, ?rule, "let our taps pass Docker's firewall");
            }
        }
    }
}

/// Takes the rules of [`make_way`] back.
pub async fn give_way_back(tap_prefix: &str) {
    for tool in TOOLS {
        for rule in rules(tap_prefix) {
            run(tool, "-D", &rule).await;
        }
    }
}

fn rules(tap_prefix: &str) -> [[String; 2]; 2] {
    ["-i", "-o"].map(|direction| [direction.to_owned(), format!("{tap_prefix}+")])
}

/// Whether it could be done; without the tool or the chain it cannot, and need not.
async fn run(tool: &str, action: &str, rule: &[String; 2]) -> bool {
    let mut command = Command::new(tool);
    command.args(["-w", "5", action, CHAIN]).args(rule).args(["-j", "ACCEPT"]);
    let run = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).status();
    timeout(PATIENCE, run).await.is_ok_and(|status| status.is_ok_and(|status| status.success()))
}
