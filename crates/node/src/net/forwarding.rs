//! The kernel's network settings (`/proc/sys/net`), those of the whole host and those of a tap.
//!
//! Guests need the host to forward. Where it did not before, forwarding is enabled for the whole host, and what was
//! there before is kept in a file until [`restore`] puts it back. An interface that learns its IPv6 routes from
//! router advertisements would stop to do so on a forwarding host; such interfaces are told to go on (`accept_ra` 2).

use std::{collections::BTreeMap, fs, io, path::Path};

use super::NetError;

const SETTINGS: &str = "/proc/sys/net";
const GLOBAL: [&str; 2] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];

/// Settings of a tap, each a wall of its own next to the firewall.
const TAP: [(&str, &str); 11] = [
    ("ipv4/conf/{}/rp_filter", "1"),
    ("ipv4/conf/{}/arp_ignore", "1"),
    ("ipv4/conf/{}/accept_redirects", "0"),
    ("ipv4/conf/{}/send_redirects", "0"),
    ("ipv4/conf/{}/forwarding", "1"),
    ("ipv6/conf/{}/disable_ipv6", "0"),
    // The only address of the tap is the gateway's, and no one else may have it.
    ("ipv6/conf/{}/addr_gen_mode", "1"),
    ("ipv6/conf/{}/accept_dad", "0"),
    ("ipv6/conf/{}/accept_ra", "0"),
    ("ipv6/conf/{}/accept_redirects", "0"),
    ("ipv6/conf/{}/forwarding", "1"),
];

/// Lets the host forward, and keeps the settings that this changes in the file `saved`.
pub fn enable(saved: &Path) -> Result<(), NetError> {
    let mut wanted: Vec<(String, &str)> = listening_for_routers()?.into_iter().map(|path| (path, "2")).collect();
    wanted.extend(GLOBAL.map(|path| (path.to_owned(), "1")));
    let mut before = load(saved)?;
    let known = before.len();
    for (path, value) in &wanted {
        let now = get(path)?;
        if now != *value {
            before.entry(path.clone()).or_insert(now);
        }
    }
    if before.len() > known {
        store(saved, &before)?;
    }
    wanted.iter().try_for_each(|(path, value)| set(path, value))
}

/// Puts the settings back that [`enable`] changed, except those that someone has changed since.
pub fn restore(saved: &Path) -> Result<(), NetError> {
    for (path, value) in load(saved)? {
        let ours = if path.ends_with("accept_ra") { "2" } else { "1" };
        if get(&path).is_ok_and(|now| now == ours) {
            set(&path, &value)?;
        }
    }
    kit::durable::remove(saved).map_err(NetError::io(format!("remove {}", saved.display())))
}

/// Sets up a tap before it is brought up.
pub fn configure_tap(name: &str) -> Result<(), NetError> {
    TAP.iter().try_for_each(|(path, value)| set(&path.replace("{}", name), value))
}

/// The interfaces whose `accept_ra` is 1: routes are accepted as long as the host does not forward.
fn listening_for_routers() -> Result<Vec<String>, NetError> {
    let all = fs::read_dir(format!("{SETTINGS}/ipv6/conf"))
        .map_err(NetError::io("read the host's IPv6 settings (is IPv6 disabled in the kernel?)"))?;
    let names = all.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let paths = names.filter(|name| !name.starts_with("dl") && name != "all" && name != "default" && name != "lo");
    let paths = paths.map(|name| format!("ipv6/conf/{name}/accept_ra"));
    Ok(paths.filter(|path| get(path).is_ok_and(|value| value == "1")).collect())
}

fn get(path: &str) -> Result<String, NetError> {
    let text = fs::read_to_string(format!("{SETTINGS}/{path}")).map_err(NetError::io(format!("read {path}")))?;
    Ok(text.trim().to_owned())
}

fn set(path: &str, value: &str) -> Result<(), NetError> {
    if get(path)? == value {
        return Ok(());
    }
    fs::write(format!("{SETTINGS}/{path}"), value).map_err(NetError::io(format!("set net/{path} to {value}")))
}

fn load(saved: &Path) -> Result<BTreeMap<String, String>, NetError> {
    match fs::read(saved) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| NetError::io(format!("read {}", saved.display()))(io::Error::other(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(NetError::io(format!("read {}", saved.display()))(error)),
    }
}

fn store(saved: &Path, before: &BTreeMap<String, String>) -> Result<(), NetError> {
    let text = serde_json::to_vec(before).expect("a map of texts is JSON");
    kit::durable::write(saved, &text, 0o600).map_err(NetError::io(format!("write {}", saved.display())))
}
