//! `dunlin setup`: installs what virtual machines need on this host, after saying what that is.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use node::kernel::{GuestKernel, KernelError, KernelSource};

use crate::host::{self, Tool};

mod service;

/// What to set up.
#[derive(Debug, Args)]
pub struct SetupOptions {
    /// The platform's data directory; the guest kernel is kept in it
    #[arg(long, env = "DUNLIN_DATA_DIR", default_value = host::DATA_DIRECTORY)]
    data_dir: PathBuf,
    /// Also write a systemd unit that runs the platform, `dunlin.service`
    #[arg(long)]
    service: bool,
    /// Do it without asking
    #[arg(long, short)]
    yes: bool,
}

/// What this host lacks.
struct Missing {
    tools: Vec<&'static Tool>,
    kernel: bool,
}

/// Sets the host up. Running it again does nothing that is done already.
pub fn run(options: &SetupOptions) -> Result<()> {
    let missing = Missing::on_this_host(&options.data_dir)?;
    if options.service {
        service::write(&options.data_dir)?;
    }
    if missing.tools.is_empty() && !missing.kernel {
        eprintln!("This host has everything that virtual machines need.");
        return Ok(());
    }
    missing.announce(&options.data_dir);
    if !options.yes && !agreed()? {
        bail!("nothing was changed");
    }
    ensure!(host::is_root(), "setting up needs root: run it with sudo");
    install_packages(&missing.tools)?;
    if missing.kernel {
        fetch_kernel(&options.data_dir)?;
    }
    eprintln!("Done. Start the platform with `dunlin serve`.");
    Ok(())
}

impl Missing {
    fn on_this_host(data: &Path) -> Result<Self> {
        let tools = host::TOOLS.iter().filter(|tool| host::find(tool.program).is_none()).collect();
        let kernel = match GuestKernel::prepare(&KernelSource::Auto, data, node::INIT) {
            Ok(_) => false,
            Err(KernelError::Missing(_)) => true,
            // A missing decompressor is among the tools; what else is wrong is said once they are there.
            Err(KernelError::Command { .. }) => false,
            Err(error) => return Err(error).context("the guest kernel of this host cannot be used"),
        };
        Ok(Self { tools, kernel })
    }

    fn announce(&self, data: &Path) {
        eprintln!("dunlin setup will");
        for tool in &self.tools {
            eprintln!("  - install the Debian package {} ({})", tool.package, tool.purpose);
        }
        if self.kernel {
            eprintln!(
                "  - download the distribution's cloud kernel package and unpack it below {}",
                data.join("kernel").display()
            );
            eprintln!("    (it becomes the guests' kernel; this host's own kernel and boot loader stay as they are)");
        }
    }
}

/// Asks a person; a program that is not asked must say `--yes`.
fn agreed() -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("not a terminal, so nobody can agree: add --yes");
    }
    eprint!("Go on? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn install_packages(tools: &[&Tool]) -> Result<()> {
    if tools.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = tools.iter().map(|tool| tool.package).collect();
    ensure!(
        host::find("apt-get").is_some(),
        "this is neither Debian nor Ubuntu: install what these packages hold yourself: {}",
        packages.join(", ")
    );
    apt(&["update", "-qq"])?;
    apt(&[["install", "-y", "-qq", "--no-install-recommends"].as_slice(), &packages].concat())
}

fn apt(arguments: &[&str]) -> Result<()> {
    eprintln!("$ apt-get {}", arguments.join(" "));
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(io::stderr());
    let status = command.status().context("apt-get could not be started")?;
    ensure!(status.success(), "apt-get {} ended with {status}; what it said is above", arguments.join(" "));
    Ok(())
}

fn fetch_kernel(data: &Path) -> Result<()> {
    std::fs::create_dir_all(data).with_context(|| format!("{} cannot be made", data.display()))?;
    node::kernel::install(data, &mut |line| eprintln!("  {line}"))?;
    let kernel = GuestKernel::prepare(&KernelSource::Auto, data, node::INIT)?;
    eprintln!("The guest kernel is Linux {}.", kernel.release);
    Ok(())
}
