//! What stands behind the proxies: nginx for HTTP, threads of ours for bytes and datagrams.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::Path,
    process::{Child, Command},
    thread,
};

use anyhow::{Context, Result};

use crate::load;

/// Its address; the proxies listen on another one, since a datagram keeps its port.
pub const IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Where HTTP is answered.
pub const HTTP: u16 = 18080;
/// Where bytes are poured out: as many MiB as the first byte of a connection says.
pub const BYTES: u16 = 18081;
/// Where datagrams are sent back.
pub const UDP: u16 = 18082;

/// The running origin. Dropping it ends it.
pub struct Origin(Child);

impl Origin {
    /// Starts it; its files lie below `scratch`.
    pub fn start(scratch: &Path) -> Result<Self> {
        let directory = scratch.join("origin");
        fs::create_dir_all(directory.join("www"))?;
        fs::write(directory.join("www/small"), [b'x'; 1024])?;
        fs::write(directory.join("www/big"), vec![b'x'; 1 << 20])?;
        fs::write(directory.join("nginx.conf"), config(&directory))?;
        let nginx = Command::new("taskset")
            .args(["-c", "1", "nginx", "-e", "stderr", "-c"])
            .arg(directory.join("nginx.conf"))
            .spawn()
            .context("nginx answers as the origin, and it is not here")?;
        let origin = Self(nginx);
        load::wait_for((IP, HTTP).into())?;
        pour(TcpListener::bind((IP, BYTES))?);
        echo(UdpSocket::bind((IP, UDP))?);
        Ok(origin)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        load::end(&mut self.0);
    }
}

fn config(directory: &Path) -> String {
    format!(
        "daemon off; master_process off; worker_rlimit_nofile 65536; pid {d}/pid; error_log /dev/null;
events {{ worker_connections 40000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600; sendfile on; tcp_nopush off;
  open_file_cache max=10; default_type application/octet-stream;
  server {{ listen {IP}:{HTTP} backlog=4096; root {d}/www; }}
}}\n",
        d = directory.display()
    )
}

fn pour(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || -> std::io::Result<()> {
                let mut stream = stream?;
                let mut wanted = [0];
                stream.read_exact(&mut wanted)?;
                let chunk = vec![b'x'; 1 << 20];
                (0..wanted[0]).try_for_each(|_| stream.write_all(&chunk))
            });
        }
    });
}

fn echo(socket: UdpSocket) {
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}
