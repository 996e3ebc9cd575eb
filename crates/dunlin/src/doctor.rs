//! `dunlin doctor`: whether this host can run the platform, and what to do where it cannot.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;
use kit::report::Report;
use node::{
    kernel::{GuestKernel, KernelSource},
    vmm::{self, Driver, VmUser},
};
use serde::Serialize;

use crate::host;

/// What to look at.
#[derive(Debug, Args)]
pub struct DoctorOptions {
    /// The platform's data directory
    #[arg(long, env = "DUNLIN_DATA_DIR", default_value = host::DATA_DIRECTORY)]
    data_dir: PathBuf,
}

/// How a look went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Warning,
    Failure,
}

/// One look at the host.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    health: Health,
    /// What was seen.
    seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, health: Health::Ok, seen: seen.into(), remedy: None }
    }

    fn warning(check: &'static str, seen: impl Into<String>, remedy: &str) -> Self {
        Self { check, health: Health::Warning, seen: seen.into(), remedy: Some(remedy.into()) }
    }

    fn failure(check: &'static str, seen: impl Into<String>, remedy: &str) -> Self {
        Self { check, health: Health::Failure, seen: seen.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at everything and prints what it finds. Fails if something keeps the platform from running.
pub async fn run(options: &DoctorOptions, json: bool) -> Result<ExitCode> {
    let mut findings = vec![root()];
    findings.extend(host::TOOLS.iter().map(tool));
    findings.push(isolation(&options.data_dir).await);
    findings.extend([memory(), disk(&options.data_dir), cgroups()]);
    findings
        .extend([("port 80", 80), ("port 443", 443), ("port 4280", 4280)].map(|(check, number)| port(check, number)));
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(print);
    }
    let failed = findings.iter().any(|finding| finding.health == Health::Failure);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(finding: &Finding) {
    let mark = match finding.health {
        Health::Ok => "ok     ",
        Health::Warning => "warning",
        Health::Failure => "FAILURE",
    };
    println!("{mark}  {:<20} {}", finding.check, finding.seen);
    if let Some(remedy) = &finding.remedy {
        println!("{:<30}→ {remedy}", "");
    }
}

fn root() -> Finding {
    if host::is_root() {
        Finding::ok("root", "this process may make taps and cgroups")
    } else {
        Finding::warning(
            "root",
            "not root: what needs it was not looked at",
            "run `sudo dunlin doctor` for the whole truth",
        )
    }
}

fn tool(tool: &host::Tool) -> Finding {
    match host::find(tool.program) {
        Some(path) => Finding::ok(tool.program, path.display().to_string()),
        None => Finding::failure(tool.program, format!("missing ({})", tool.purpose), "run `dunlin setup`"),
    }
}

/// Boots a small guest: `/dev/kvm` being there proves nothing.
async fn isolation(data: &Path) -> Finding {
    const CHECK: &str = "isolation";
    let kernel = match GuestKernel::prepare(&KernelSource::Auto, data, node::INIT) {
        Ok(kernel) => kernel,
        Err(error) => return Finding::failure(CHECK, Report(&error).to_string(), "run `dunlin setup`"),
    };
    match vmm::choose(Driver::Auto, &kernel, data, VmUser { uid: node::FIRST_UID, gid: node::FIRST_UID }).await {
        Ok(choice) if choice.vmm.isolation() == model::machine::Isolation::QemuTcg => Finding::warning(
            CHECK,
            format!("{}, Linux {}", choice.vmm.isolation(), kernel.release),
            &format!("it works, but slowly: {}", choice.why),
        ),
        Ok(choice) => {
            Finding::ok(CHECK, format!("{}, Linux {}: {}", choice.vmm.isolation(), kernel.release, choice.why))
        }
        Err(error) => {
            Finding::failure(CHECK, Report(&error).to_string(), "see the message; `dunlin setup` mends what is missing")
        }
    }
}

/// Less than this and no machine of the smallest size fits beside the platform, in MiB.
const LEAST_MEMORY_MB: u64 = 512;

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0);
    let seen = format!("{} MiB available", kib / 1024);
    if kib / 1024 >= LEAST_MEMORY_MB {
        Finding::ok("memory", seen)
    } else {
        Finding::warning("memory", seen, "a machine of the smallest size takes 256 MiB and its VMM some more")
    }
}

/// Less than this and images may not fit, in GiB.
const LEAST_DISK_GB: u64 = 5;

fn disk(data: &Path) -> Finding {
    let existing = data.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let free = rustix::fs::statvfs(existing).map_or(0, |stat| stat.f_bavail * stat.f_frsize) >> 30;
    let seen = format!("{free} GiB free below {}", existing.display());
    if free >= LEAST_DISK_GB {
        Finding::ok("disk", seen)
    } else {
        Finding::warning(
            "disk",
            seen,
            "images, writable layers and volumes need room; choose another --data-dir or free some",
        )
    }
}

fn cgroups() -> Finding {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let first_version = Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists();
    match (controllers.contains("memory") && controllers.contains("cpu"), first_version) {
        (true, _) => Finding::ok("cgroups", "version 2 with memory and cpu"),
        (false, true) => Finding::ok("cgroups", "version 1"),
        (false, false) => Finding::warning(
            "cgroups",
            "no memory and cpu controllers",
            "machines run, but one can take the host's CPU time and memory from the others",
        ),
    }
}

fn port(check: &'static str, number: u16) -> Finding {
    match TcpListener::bind(("0.0.0.0", number)) {
        Ok(_) => Finding::ok(check, "free"),
        Err(error) => Finding::warning(
            check,
            format!("{error}"),
            "if that is not `dunlin serve` itself, stop the program or choose other ports (`dunlin serve --help`)",
        ),
    }
}
