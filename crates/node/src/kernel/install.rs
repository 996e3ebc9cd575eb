//! Fetches the distribution's kernel for virtual machines, with the distribution's own programs.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{KernelError, find, io_error};

/// What distributions call the package that depends on the newest kernel for virtual machines, and the words that
/// the packages to fetch begin with.
const DISTRIBUTIONS: [(&str, &str, &[&str]); 2] = [
    ("ubuntu", "linux-image-virtual", &["linux-image-", "linux-modules-"]),
    ("debian", "linux-image-cloud-amd64", &["linux-image-"]),
];

/// The longest line of a program's talk that is passed on, in bytes.
const MAX_LINE_BYTES: usize = 1000;

/// Fetches the distribution's cloud kernel package with `apt-get` and unpacks it below `<data>/kernel/pkg`: nothing is
/// installed. Each line of progress goes to `progress`. Returns the names of the packages. Blocks, for as long as a
/// download takes.
///
/// # Errors
/// The distribution is not one that is known, or its programs failed; the error says what they printed.
pub fn install(data: &Path, progress: &mut dyn FnMut(&str)) -> Result<Vec<String>, KernelError> {
    let (meta, prefixes) = distribution()?;
    let packages = match packages_of(meta, prefixes) {
        Ok(packages) if !packages.is_empty() => packages,
        _ => {
            run(Command::new("apt-get").arg("update"), progress)?;
            packages_of(meta, prefixes)?
        }
    };
    if packages.is_empty() {
        return Err(KernelError::Missing(format!("apt-cache knows no package {meta}; check /etc/apt/sources.list")));
    }
    let target = find::package_directory(data);
    let fresh = target.with_extension("new");
    let unpacked = fetch_and_unpack(&packages, &fresh, progress).and_then(|()| put_in_place(&fresh, &target));
    if unpacked.is_err() {
        let _ = fs::remove_dir_all(&fresh);
    }
    unpacked.map(|()| packages)
}

/// The package that stands for the newest kernel here.
fn distribution() -> Result<(&'static str, &'static [&'static str]), KernelError> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let words = |key: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        value.trim_matches('"').split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let names = [words("ID="), words("ID_LIKE=")].concat();
    let known = |id: &&str| names.iter().any(|name| name == id);
    let found = DISTRIBUTIONS.iter().find(|(id, _, _)| known(id)).filter(|_| cfg!(target_arch = "x86_64"));
    let (_, meta, prefixes) = found.ok_or_else(|| {
        KernelError::Missing(
            "kernels are fetched on Debian and Ubuntu for x86-64 only; elsewhere give the path of one".into(),
        )
    })?;
    Ok((meta, prefixes))
}

/// The versioned packages that a package leads to.
fn packages_of(meta: &str, prefixes: &[&str]) -> Result<Vec<String>, KernelError> {
    let mut found: Vec<String> = Vec::new();
    let mut pending = vec![meta.to_owned()];
    while let Some(package) = pending.pop() {
        for dependency in dependencies(&package)? {
            let wanted = prefixes.iter().any(|prefix| dependency.starts_with(prefix));
            let versioned = dependency.contains(|c: char| c.is_ascii_digit()) && dependency.contains('.');
            if wanted && versioned && !found.contains(&dependency) {
                pending.push(dependency.clone());
                found.push(dependency);
            }
        }
    }
    Ok(found)
}

fn dependencies(package: &str) -> Result<Vec<String>, KernelError> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--important", package]).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|error| failed(&command, error.to_string()))?;
    if !output.status.success() {
        return Err(failed(&command, String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned)).collect())
}

fn fetch_and_unpack(packages: &[String], fresh: &Path, progress: &mut dyn FnMut(&str)) -> Result<(), KernelError> {
    let _ = fs::remove_dir_all(fresh);
    let archives = fresh.join("archives");
    fs::create_dir_all(&archives).map_err(|source| io_error("make", &archives, source))?;
    // Fetched as root on purpose: the directory is closed to apt's own user.
    let sandbox = "APT::Sandbox::User=root";
    run(Command::new("apt-get").args(["-o", sandbox, "download"]).args(packages).current_dir(&archives), progress)?;
    for archive in list(&archives)? {
        progress(&format!("Unpacking {}", archive.file_name().unwrap_or_default().to_string_lossy()));
        run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(fresh), progress)?;
    }
    fs::remove_dir_all(&archives).map_err(|source| io_error("remove", &archives, source))
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = fs::read_dir(directory).map_err(|source| io_error("list", directory, source))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// Replaces `target` by `fresh`, on the disk before it can be seen.
fn put_in_place(fresh: &Path, target: &Path) -> Result<(), KernelError> {
    let _ = fs::remove_dir_all(target);
    File::open(fresh)
        .and_then(|directory| Ok(rustix::fs::syncfs(directory)?))
        .and_then(|()| fs::rename(fresh, target))
        .and_then(|()| kit::durable::sync_directory_of(target))
        .map_err(|source| io_error("put in place", target, source))
}

/// Runs a program and passes each line that it prints on.
fn run(command: &mut Command, progress: &mut dyn FnMut(&str)) -> Result<(), KernelError> {
    let (reader, writer) = std::io::pipe().map_err(|error| failed(command, error.to_string()))?;
    let stderr = writer.try_clone().map_err(|error| failed(command, error.to_string()))?;
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(stderr).spawn();
    // The command holds the pipe's other end until it gets new ones, and the pipe must end with the program.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.map_err(|error| failed(command, error.to_string()))?;
    let mut last = String::new();
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        last = String::from_utf8_lossy(&line[..line.len().min(MAX_LINE_BYTES)]).into_owned();
        progress(&last);
    }
    let status = child.wait().map_err(|error| failed(command, error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(command, format!("{status}: {last}"))) }
}

fn failed(command: &Command, output: String) -> KernelError {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    KernelError::Command { command: words.join(" "), output }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{GuestKernel, KernelSource};

    #[test]
    fn the_distributions_kernel_is_fetched_and_made_bootable() {
        let name = "the_distributions_kernel_is_fetched_and_made_bootable";
        if std::env::var_os("DUNLIN_TEST_DOWNLOADS").is_none() {
            eprintln!("skipped: {name}: DUNLIN_TEST_DOWNLOADS is not set, so nothing is downloaded");
            return;
        }
        let data = tempfile::tempdir().unwrap();
        let mut lines = Vec::new();
        for _ in 0..2 {
            let packages = install(data.path(), &mut |line| lines.push(line.to_owned())).unwrap();
            let kernel = GuestKernel::prepare(&KernelSource::Auto, data.path(), b"init").unwrap();
            assert!(packages.iter().any(|package| package.ends_with(&kernel.release)), "{packages:?}");
        }
        assert!(lines.iter().any(|line| line.starts_with("Unpacking linux-image")), "{lines:?}");
        let left = fs::read_dir(data.path().join("kernel")).unwrap().count();
        assert_eq!(left, 2, "more is left than the package and what was made of it");
    }

    #[test]
    fn a_program_that_fails_or_is_missing_is_told_with_its_last_words() {
        let mut heard = Vec::new();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = run(&mut shell, &mut |line| heard.push(line.to_owned())).unwrap_err().to_string();
        assert_eq!(heard, ["one", "two"]);
        assert!(error.contains("sh -c") && error.ends_with("exit status: 3: two"), "{error}");
        let error = run(&mut Command::new("no-such-program"), &mut |_| {}).unwrap_err().to_string();
        assert!(error.starts_with("no-such-program failed: No such file"), "{error}");
    }
}
