//! One machine on a real virtual machine monitor, from its creation to its end.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use api::internal::{Launch, Node, StopRequest};
use model::machine::{Isolation, MachineState};
use node::{Machinery, StepProbe, kernel::KernelSource, vmm::Driver};
use tokio::runtime::Runtime;

use crate::world::{World, in_own_network, leftovers, machine};

/// What this machine lacks for real guests, if anything.
fn lacks() -> Option<String> {
    for tool in ["qemu-system-x86_64", "busybox", "mke2fs"] {
        let runs = Command::new(tool).arg("--help").stdin(Stdio::null()).output();
        if runs.is_err() {
            return Some(format!("{tool} is not installed"));
        }
    }
    let unnamed = std::env::var_os("DUNLIN_TEST_KERNEL_DIR").is_none();
    unnamed.then(|| "DUNLIN_TEST_KERNEL_DIR does not name a directory with an unpacked kernel package".into())
}

/// A root filesystem with BusyBox and a page to serve, in place of any machine's image.
fn make_image(directory: &Path) {
    let tree = directory.join("tree");
    for part in ["bin", "www", "etc", "data"] {
        fs::create_dir_all(tree.join(part)).unwrap();
    }
    let busybox = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap();
    let busybox = String::from_utf8(busybox.stdout).unwrap();
    fs::copy(busybox.trim(), tree.join("bin/busybox")).unwrap();
    fs::write(tree.join("www/index.html"), "hello from a guest").unwrap();
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    let image = directory.join("real.ext4");
    let made =
        Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg("16M").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn get(address: IpAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, 8080), Duration::from_secs(30)).unwrap();
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_real_guest_serves_is_taken_over_and_goes_without_a_trace() {
    let test = "real::a_real_guest_serves_is_taken_over_and_goes_without_a_trace";
    if let Some(reason) = lacks() {
        return eprintln!("skipped: {test}: {reason}");
    }
    if !in_own_network(test) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    make_image(directory.path());
    let kernels = std::env::var_os("DUNLIN_TEST_KERNEL_DIR").unwrap();
    let machinery = Machinery::Choose { driver: Driver::Qemu, kernel: KernelSource::Directory(kernels.into()) };
    let open = || World::open_on(directory.path(), StepProbe::none(), Duration::from_secs(120), machinery.clone());
    Runtime::new().unwrap().block_on(async {
        let world = open().await;
        eprintln!("{:?}", world.node.isolation());
        let mut spec = machine(77, "/bin/busybox httpd -f -v -p 8080 -h /www");
        spec.config.services = serde_json::from_str(
            r#"[{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}],
                 "checks": [{"type": "http", "path": "/index.html"}]}]"#,
        )
        .unwrap();
        spec.config.mounts = serde_json::from_str(r#"[{"name": "data", "path": "/data"}]"#).unwrap();
        world.node.create(spec.clone(), Launch { start: true, cordoned: false }).await.unwrap();
        let ready = world.until(&spec.id, |machine| machine.is_ready() && !machine.checks.is_empty()).await;
        assert!(matches!(ready.isolation, Some(Isolation::QemuTcg | Isolation::QemuKvm)));
        for address in [IpAddr::from(ready.addresses.host_local), ready.addresses.private.into()] {
            assert!(get(address).ends_with("hello from a guest"));
        }
        let mounts = world.run(&spec.id, &["/bin/busybox", "cat", "/proc/mounts"]).await;
        assert!(mounts.lines().any(|line| line.contains(" /data ext4 ")), "{mounts}");
        let resolver = world.run(&spec.id, &["/bin/busybox", "cat", "/etc/resolv.conf"]).await;
        assert_eq!(resolver.trim(), "nameserver fdaa::3");
        world.run(&spec.id, &["/bin/busybox", "touch", "/data/kept", "/forgotten"]).await;
        world.node.shutdown().await;

        let world = open().await;
        assert!(world.seen(&spec.id).unwrap().is_ready(), "it does not cease to be ready");
        let taken_over = world.until(&spec.id, |machine| machine.is_ready() && !machine.checks.is_empty()).await;
        assert_eq!(taken_over.events, ready.events, "nothing has happened to it");
        world.node.restart(&spec.id, StopRequest::default()).await.unwrap();
        let files = world.run(&spec.id, &["/bin/busybox", "ls", "/", "/data"]).await;
        assert!(files.contains("kept") && !files.contains("forgotten"), "{files}");
        world.node.stop(&spec.id, StopRequest::default()).await.unwrap();
        let stopped = world.seen(&spec.id).unwrap();
        assert_eq!(stopped.state, MachineState::Stopped);
        assert!(stopped.last_exit.as_ref().unwrap().requested_stop);
        world.node.destroy(&spec.id, false).await.unwrap();
        world.node.shutdown_and_stop_all().await.unwrap();
    });
    assert_eq!(leftovers(directory.path()), Vec::<String>::new());
}
