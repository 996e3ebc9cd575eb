//! A unit for systemd (systemd.service(5)).
//!
//! Virtual machines lie in control groups of their own, so the platform's end is not theirs. `systemctl reload dunlin` is
//! `dunlin upgrade`: the main process becomes another one, and no request is lost.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::host;

const PATH: &str = "/etc/systemd/system/dunlin.service";

/// Writes the unit. One that is there already is left as it is if it says the same, else kept beside it.
pub fn write(data: &Path) -> Result<()> {
    ensure!(host::is_root(), "writing {PATH} needs root: run it with sudo");
    let program = std::env::current_exe().context("this program cannot be found")?;
    let unit = unit(&program, data);
    if fs::read_to_string(PATH).is_ok_and(|there| there == unit) {
        return Ok(());
    }
    if Path::new(PATH).exists() {
        fs::rename(PATH, format!("{PATH}.old")).with_context(|| format!("{PATH} cannot be kept"))?;
        eprintln!("{PATH} was another one; it is kept as {PATH}.old");
    }
    kit::durable::write(Path::new(PATH), unit.as_bytes(), 0o644)
        .with_context(|| format!("{PATH} cannot be written"))?;
    eprintln!("{PATH} is written. Start the platform with `systemctl daemon-reload && systemctl enable --now dunlin`;");
    eprintln!("after an upgrade of the program, `systemctl reload dunlin` puts it in place of the running one.");
    Ok(())
}

fn unit(program: &Path, data: &Path) -> String {
    let (program, data) = (program.display(), data.display());
    format!(
        "[Unit]
Description=Dunlin, apps as virtual machines
After=network-online.target nftables.service
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} serve --data-dir {data}
ExecReload={program} upgrade --data-dir {data}
KillMode=mixed
TimeoutStartSec=300
TimeoutStopSec=60
Restart=on-failure
RestartSec=2
LimitNOFILE=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_finds_nothing_wrong_with_the_unit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dunlin.service");
        fs::write(&path, unit(Path::new("/bin/true"), Path::new("/var/lib/dunlin"))).unwrap();
        let verified = std::process::Command::new("systemd-analyze").arg("verify").arg(&path).output();
        let Ok(verified) = verified else {
            println!("skipped: systemd_finds_nothing_wrong_with_the_unit: systemd-analyze cannot be run");
            return;
        };
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(!said.contains("dunlin.service"), "{said}");
    }
}
