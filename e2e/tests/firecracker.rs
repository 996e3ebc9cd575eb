//! The whole platform on Firecracker: `dunlin serve` in a host in software that offers hardware virtualization.
//!
//! ```text
//!   this test ─▶ QEMU, software ─▶ Linux with KVM ─▶ dunlin serve, dunlin deploy ─▶ jailer ─▶ Firecracker ─▶ hello
//!                                                └─▶ a client ─▶ the edge ─▶ hello
//! ```

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use e2e::{
    emulated::{EmulatedHost, HostKernel, Tree},
    image, obstacle, platform, root, skip, target,
};

const NAME: &str = "the platform on firecracker";
/// Emulation twice over takes its time; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(900);

/// What is done in the host. Each line of `said:` is something that this test looks for.
const SCRIPT: &str = r#"
hostname host; echo '127.0.0.1 localhost hello.dunlin.localhost' > /etc/hosts
give_up() { echo "gave up: $1"; tail -n 40 /root/serve.err; dunlin logs -a hello; poweroff -f; }
dunlin serve --data-dir DATA > /root/serve.out 2> /root/serve.err & serve=$!
until grep -q '^ready' /root/serve.out; do kill -0 $serve || give_up "dunlin serve"; sleep 1; done
head -n 20 /root/serve.out | grep -v token
export DUNLIN_API_TOKEN=$(sed -n 's/.*admin token: *//p' /root/serve.out)
dunlin deploy --config /app/fly.toml --image oci:/app/image || give_up "dunlin deploy"
machine=$(dunlin machine list -a hello --json | grep -o '"id": *"[0-9a-f]*"' | head -n 1 | grep -o '[0-9a-f]\{14\}')
wget -q -O - http://hello.dunlin.localhost/ | sed 's/^/said: /'
grep -l firecracker /proc/[0-9]*/comm | sed 's/.*/said: a firecracker runs/'
dunlin machine restart $machine -a hello || give_up "dunlin machine restart"
until wget -q -O - http://hello.dunlin.localhost/healthz; do sleep 1; done
echo said: it answers after a restart
count() { wget -q -O - http://hello.dunlin.localhost/count; }
count; counted=$(count); dunlin machine suspend $machine -a hello || give_up "dunlin machine suspend"
dunlin machine list -a hello | grep -o suspended | sed 's/^/said: it is /'
! grep -q firecracker /proc/[0-9]*/comm && echo said: nothing of it runs
again=$(count); echo "counted $counted, then $again"; [ "$again" -gt 2 ] && echo said: it goes on
dunlin apps destroy hello --yes && echo said: destroyed
until ! grep -q firecracker /proc/[0-9]*/comm; do sleep 1; done
ls DATA/machines; echo said: nothing runs
kill $serve; wait $serve; echo said: serve ended with $?
"#;

#[test]
fn the_platform_runs_an_app_on_firecracker_in_an_emulated_host() {
    let firecracker = std::env::var_os("DUNLIN_FIRECRACKER").map(PathBuf::from).or_else(|| on_path("firecracker"));
    let Some(firecracker) = firecracker else {
        return skip(NAME, "firecracker is neither in PATH nor named by DUNLIN_FIRECRACKER");
    };
    let beside = Some(firecracker.with_file_name("jailer")).filter(|path| path.is_file());
    let Some(jailer) = beside.or_else(|| on_path("jailer")) else {
        return skip(NAME, "jailer is neither beside firecracker nor in PATH");
    };
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip(NAME, &obstacle);
    }
    for tool in ["cpio", "busybox", "qemu-system-x86_64"] {
        if on_path(tool).is_none() {
            return skip(NAME, &format!("{tool} is not installed"));
        }
    }
    let Some(kernel) = HostKernel::find(&target().join("e2e-data/kernel/pkg")) else {
        return skip(NAME, "the kernel package holds no KVM for AMD");
    };

    let scratch = tempfile::tempdir_in(target()).expect("a directory can be made");
    let tree = furnish(scratch.path().join("tree"), &kernel, &firecracker, &jailer);
    let said = EmulatedHost::start(scratch.path(), &kernel, &tree, 2000, 2048).finish(PATIENCE);
    for line in [
        "isolation: firecracker",
        "said: a firecracker runs",
        "said: app hello",
        "said: it answers after a restart",
        "said: it is suspended",
        "said: nothing of it runs",
        "said: it goes on",
        "said: destroyed",
        "said: nothing runs",
        "said: serve ended with 0",
    ] {
        assert!(said.contains(line), "not {line:?}:\n{said}");
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|place| place.join(program)).find(|program| program.is_file())
}

/// A disk with the platform, what it calls, and an app to deploy. Its data directory has the same name as ours, so that
/// the guest kernel that was made ready here is ready there.
fn furnish(tree: PathBuf, kernel: &HostKernel, firecracker: &Path, jailer: &Path) -> Tree {
    let data = target().join("e2e-data");
    let tree = Tree::new(tree, kernel, &SCRIPT.replace("DATA", &data.to_string_lossy()));
    tree.program(&platform::dunlin(), "usr/bin/dunlin");
    tree.program(firecracker, "usr/bin/firecracker");
    tree.program(jailer, "usr/bin/jailer");
    for (tool, place) in [("nft", "usr/sbin/nft"), ("mke2fs", "usr/sbin/mke2fs")] {
        tree.program(&on_path(tool).unwrap_or_else(|| panic!("{tool} is installed")), place);
    }
    // Whom other registries are believed by: without any such authority the platform does not start.
    let authorities = tree.place("etc/ssl/certs/ca-certificates.crt");
    std::fs::copy("/etc/ssl/certs/ca-certificates.crt", authorities).expect("ca-certificates is installed");
    let below_root = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_string_lossy().into_owned();
    tree.directory(&data.join("kernel"), &below_root(&data.join("kernel")));
    tree.directory(&data.join("kernel/pkg/lib/modules"), "lib/modules");
    tree.index_modules();
    tree.directory(&image("hello"), "app/image");
    std::fs::copy(root().join("examples/hello/fly.toml"), tree.place("app/fly.toml")).expect("it can be copied");
    tree
}
