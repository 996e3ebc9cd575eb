//! Which program holds a port, as far as this process may see (proc(5)).

use std::{fs, net::SocketAddr, path::Path};

/// The state of a socket that listens, in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// The program that listens on the port of `address`, in words: `nginx (process 812)`.
pub fn of(address: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let inodes: Vec<String> = tables.flat_map(|table| listening_inodes(&table, address.port())).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds_any(&entry.path(), &inodes).then_some(pid)
    });
    let pid = { processes }.next()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", name.trim()))
}

/// The inodes of the sockets that listen on a port.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = u16::from_str_radix(local_port, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        listens.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn holds_any(process: &Path, inodes: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    { links }.any(|link| {
        let link = link.to_string_lossy();
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.iter().any(|it| it == inode))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_is_found_by_a_port_it_holds() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = super::of(listener.local_addr().unwrap()).unwrap();
        assert!(holder.contains(&format!("(process {})", std::process::id())), "{holder}");
    }
}
