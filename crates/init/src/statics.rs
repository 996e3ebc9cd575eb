//! The file server of a guest: answers for files that the app need not be asked for.
//!
//! ```text
//!   edge ─▶ the guest's host-local address, port 10875 ─▶ path below a prefix? ─▶ a plain file, no link on the way? ─▶ file
//!                                                              └ no ─▶ 404, and the edge asks the app
//! ```
//!
//! It is a process of its own that has given up init's rights for those of the app's user, so what the app could not read is
//! not served. A connection has a thread; beyond [`MAX_CONNECTIONS`] they are refused, and the app answers.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use guest::{BootFailure, STATICS_PORT, spec};
use nix::{
    sys::signal::{SigSet, SigmaskHow, sigprocmask},
    unistd::{ForkResult, Gid, Uid, fork, setgid, setgroups, setsid, setuid},
};

use crate::{
    credentials::Credentials,
    failure::{OrFailure, failure},
};

mod kinds;
mod request;

use request::{Answer, Request, Stamp};

const MAX_CONNECTIONS: usize = 64;
/// The longest request that is read, up to its empty line, in bytes.
const MAX_HEAD_BYTES: u64 = 32 * 1024;
/// How long a client may be silent, or not take what it is sent.
const PATIENCE: Duration = Duration::from_secs(60);
const STACK_BYTES: usize = 128 * 1024;

/// Starts serving directories, if there are any, under the address by which the host reaches the guest.
pub fn start(statics: &[spec::Static], network: &spec::Network, user: &Credentials) -> Result<(), BootFailure> {
    if statics.is_empty() {
        return Ok(());
    }
    let addresses = network.interface.iter().flat_map(|interface| &interface.addresses);
    let own = addresses.map(|address| address.ip).find(IpAddr::is_ipv4);
    let own = own.ok_or_else(|| failure("statics", "the guest has no address that its host reaches"))?;
    let listener = TcpListener::bind(SocketAddr::new(own, STATICS_PORT)).or_failure("statics", "listening")?;
    // SAFETY: init has one thread, so the child is whole.
    match unsafe { fork() }.or_failure("statics", "starting the file server")? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            let served = become_server(listener.as_raw_fd(), user).map(|()| serve(&listener, statics.into()));
            // SAFETY: this ends the process without running what init has registered for its own end.
            unsafe { libc::_exit(i32::from(served.is_err())) }
        }
    }
}

/// Gives up what only init may hold and do.
fn become_server(listener: i32, user: &Credentials) -> nix::Result<()> {
    setsid()?;
    for (first, last) in [(3, listener - 1), (listener + 1, i32::MAX)] {
        // SAFETY: this closes descriptors of init that nothing in this process uses.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
    let groups = [user.gid].iter().chain(&user.groups).copied().map(Gid::from_raw).collect::<Vec<_>>();
    setgroups(&groups)?;
    setgid(Gid::from_raw(user.gid))?;
    setuid(Uid::from_raw(user.uid))?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

fn serve(listener: &TcpListener, statics: Arc<[spec::Static]>) {
    let open = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming().flatten() {
        if open.fetch_add(1, Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Relaxed);
            continue;
        }
        let (statics, counted) = (statics.clone(), open.clone());
        let converse = move || {
            let _ = converse(&connection, &statics);
            counted.fetch_sub(1, Relaxed);
        };
        if thread::Builder::new().stack_size(STACK_BYTES).spawn(converse).is_err() {
            open.fetch_sub(1, Relaxed);
        }
    }
}

/// Answers the requests of a connection until it ends.
fn converse(connection: &TcpStream, statics: &[spec::Static]) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    while let Some(head) = read_head(&mut reader)? {
        let Some(request) = Request::parse(&head) else { return Ok(()) };
        let found = request.path.as_deref().and_then(|path| find(statics, path));
        let stamp = found.as_ref().map(|(_, stamp)| stamp);
        let answer = Answer::to(&request, stamp);
        let mut writer = connection;
        writer.write_all(answer.head().as_bytes())?;
        if let (Some((mut file, _)), Some(range)) = (found, answer.body(&request)) {
            file.seek(SeekFrom::Start(range.start))?;
            io::copy(&mut file.take(range.end - range.start), &mut writer)?;
        }
        if request.is_last {
            break;
        }
    }
    Ok(())
}

/// A request up to its empty line; none at the end of the connection.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut bounded = reader.take(MAX_HEAD_BYTES);
    while bounded.read_until(b'\n', &mut head)? > 0 {
        if head.ends_with(b"\r\n\r\n") {
            return Ok(String::from_utf8(head).ok());
        }
    }
    Ok(None)
}

/// The file that a decoded path means, if it is a plain one and no symbolic link leads there.
fn find(statics: &[spec::Static], path: &str) -> Option<(File, Stamp)> {
    let (directory, rest) =
        statics.iter().find_map(|served| Some((&served.guest_path, below(path, &served.url_prefix)?)))?;
    let file = open_beneath(Path::new(directory), rest).ok()?;
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let stamp = Stamp {
        length: metadata.len(),
        modified_s: u64::try_from(metadata.mtime()).unwrap_or(0),
        modified_ns: metadata.mtime_nsec().unsigned_abs(),
        content_type: kinds::of(rest),
    };
    Some((file, stamp))
}

/// What follows a prefix that ends where a part of the path does; none if nothing does.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'))?.strip_prefix('/')?;
    (!rest.is_empty()).then_some(rest)
}

/// Opens a file below a directory (openat2(2)). Neither `..` nor a link leads out of it, or anywhere.
fn open_beneath(directory: &Path, path: &str) -> io::Result<File> {
    let root = File::open(directory)?;
    let path = CString::new(Path::new(path).as_os_str().as_bytes())?;
    // SAFETY: a structure of numbers, for which zeros are valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    // Not to block on what is no file at all.
    how.flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the path is a C string and the structure has the size that is told.
    let opened = unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &how, std::mem::size_of::<libc::open_how>())
    };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(opened as i32) }.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn served(directory: &Path) -> Vec<spec::Static> {
        vec![spec::Static { guest_path: directory.to_string_lossy().into(), url_prefix: "/assets/".into() }]
    }

    #[test]
    fn only_plain_files_below_the_directory_are_found() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("public");
        fs::create_dir_all(directory.join("css")).unwrap();
        fs::write(directory.join("css/site.css"), "a {}").unwrap();
        fs::write(root.path().join("secret"), "secret").unwrap();
        symlink("../secret", directory.join("out")).unwrap();
        symlink("css/site.css", directory.join("within")).unwrap();
        symlink("css", directory.join("styles")).unwrap();
        let statics = served(&directory);
        let (_, stamp) = find(&statics, "/assets/css/site.css").unwrap();
        assert_eq!((stamp.length, stamp.content_type), (4, "text/css; charset=utf-8"));
        for path in [
            "/assets/css",
            "/assets/",
            "/assets",
            "/assetscss/site.css",
            "/assets/none",
            "/assets/../secret",
            "/assets/css/../../secret",
            "/assets//etc/passwd",
            "/assets/out",
            "/assets/within",
            "/assets/styles/site.css",
            "/secret",
        ] {
            assert!(find(&statics, path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_conversation_goes_on_until_the_client_ends_it() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.txt"), "0123456789").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let statics: Arc<[spec::Static]> = served(root.path()).into();
        thread::spawn(move || serve(&listener, statics));
        let mut client = TcpStream::connect(address).unwrap();
        client
            .write_all(
                b"GET /assets/a.txt HTTP/1.1\r\nrange: bytes=2-4\r\n\r\nHEAD /assets/a.txt HTTP/1.1\r\n\r\n\
                  GET /assets/b.txt HTTP/1.1\r\nconnection: close\r\n\r\n",
            )
            .unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        let statuses: Vec<_> = said.lines().filter(|line| line.contains("HTTP/1.1 ")).collect();
        assert_eq!(
            statuses,
            ["HTTP/1.1 206 Partial Content", "234HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"],
            "{said}"
        );
    }
}
