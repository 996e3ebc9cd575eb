//! Files in the guest: `/etc/hosts` and its like, and those of the spec.
//!
//! What the platform says about names lies in `/run/dunlin` and is mounted over the image's files, so that the
//! image's own stay as they are underneath.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, fchown},
    path::Path,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use guest::{
    BootFailure,
    spec::{File, Network},
};
use nix::mount::{MsFlags, mount};

use crate::{
    credentials::Credentials,
    disks::make_directory,
    failure::{OrFailure, failure},
};

/// Sets the host name and says who is called how.
pub fn set_names(hostname: &str, network: &Network) -> Result<(), BootFailure> {
    if !hostname.is_empty() {
        nix::unistd::sethostname(hostname).or_failure("names", "setting the host name")?;
        overlay_file("hostname", &format!("{hostname}\n"))?;
    }
    overlay_file("hosts", &hosts(network))?;
    if network.nameservers.is_empty() {
        return Ok(());
    }
    overlay_file("resolv.conf", &resolv_conf(network))
}

fn hosts(network: &Network) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                    ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
        .to_owned();
    for entry in &network.hosts {
        let _ = writeln!(text, "{}\t{}", entry.ip, entry.names.join(" "));
    }
    text
}

fn resolv_conf(network: &Network) -> String {
    network.nameservers.iter().fold(String::new(), |text, server| text + &format!("nameserver {server}\n"))
}

fn overlay_file(name: &str, content: &str) -> Result<(), BootFailure> {
    let (source, target) = (Path::new("/run/dunlin").join(name), Path::new("/etc").join(name));
    let overlay = || -> io::Result<()> {
        make_directory(Path::new("/run/dunlin"))?;
        fs::write(&source, content)?;
        make_mount_point(&target)?;
        Ok(mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    };
    overlay().or_failure("names", target.display())
}

/// A regular file, which a link to one is not: what it leads to may not exist, or be elsewhere.
fn make_mount_point(target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Ok(metadata) if metadata.is_symlink() => fs::remove_file(target)?,
        _ => make_directory(target.parent().unwrap_or(target))?,
    }
    fs::write(target, "")
}

/// Writes the spec's files. They belong to the program's user, with the directories made for them.
pub fn write_files(files: &[File], owner: &Credentials) -> Result<(), BootFailure> {
    files.iter().try_for_each(|file| write_file(file, owner))
}

fn write_file(file: &File, owner: &Credentials) -> Result<(), BootFailure> {
    let path = Path::new(&file.path);
    if !path.is_absolute() {
        return Err(failure("files", format_args!("{path:?} is not an absolute path")));
    }
    let content = BASE64_STANDARD.decode(&file.content).or_failure("files", path.display())?;
    let write = || -> io::Result<()> {
        make_directories(path.parent().unwrap_or(path), owner)?;
        let mut options = fs::OpenOptions::new();
        let mut open = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        fchown(&open, Some(owner.uid), Some(owner.gid))?;
        open.set_permissions(fs::Permissions::from_mode(file.mode.unwrap_or(0o644) & 0o7777))?;
        open.write_all(&content)
    };
    write().or_failure("files", path.display())
}

fn make_directories(path: &Path, owner: &Credentials) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    make_directories(path.parent().unwrap_or(path), owner)?;
    make_directory(path)?;
    chown(path, Some(owner.uid), Some(owner.gid))
}

#[cfg(test)]
mod tests {
    use guest::spec::HostEntry;

    use super::*;

    #[test]
    fn names_are_written_as_resolvers_read_them() {
        let network = Network {
            nameservers: vec!["fdaa::3".parse().unwrap(), "10.0.0.1".parse().unwrap()],
            hosts: vec![HostEntry {
                ip: "fdaa::7".parse().unwrap(),
                names: vec!["web".into(), "fly-local-6pn".into()],
            }],
            ..Network::default()
        };
        assert_eq!(resolv_conf(&network), "nameserver fdaa::3\nnameserver 10.0.0.1\n");
        assert!(hosts(&network).starts_with("127.0.0.1\tlocalhost\n"));
        assert!(hosts(&network).ends_with("\nfdaa::7\tweb fly-local-6pn\n"));
    }

    #[test]
    fn a_file_is_written_with_its_mode_and_directories() {
        let root = tempfile::tempdir().unwrap();
        let me = Credentials {
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            groups: vec![],
            home: "/".into(),
        };
        let path = root.path().join("a/b/c");
        let file = File { path: path.to_string_lossy().into(), mode: Some(0o640), content: "aGk=".into() };
        for _ in 0..2 {
            write_files(std::slice::from_ref(&file), &me).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"hi");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);

        for (path, content) in [("relative", "aGk="), (path.to_str().unwrap(), "not base 64")] {
            let bad = File { path: path.into(), content: content.into(), mode: None };
            assert_eq!(write_files(&[bad], &me).unwrap_err().step, "files");
        }
    }
}
