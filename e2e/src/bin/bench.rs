//! The promised figures, each beside what it is compared with, in one run. `cargo xtask bench` starts it in a network
//! namespace of its own; nothing is asserted.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use e2e::{Options, Platform, eventually, http, image, obstacle, platform::finish, target};

const ROUNDS: usize = 5;
const CONFIG: &str = "[http_service]\ninternal_port = 8080\n";

fn main() {
    if let Some(obstacle) = obstacle(&["hello", "postgres"]) {
        eprintln!("bench: {obstacle}");
        return;
    }
    let platform = Platform::start(Options::default());
    println!("init: {} bytes", init_bytes());
    println!("dunlin serve at rest: {} MiB resident", resident_mib(platform.pid().unwrap_or_default()));
    start_to_first_byte(&platform);
    println!("dunlin serve after that, one machine: {} MiB resident", resident_mib(platform.pid().unwrap_or_default()));
    drop(platform);
    root_filesystem();
}

/// The size of the init that was built last.
fn init_bytes() -> u64 {
    let build = fs::read_dir(target().join("debug/build")).into_iter().flatten().flatten();
    let inits = build.map(|entry| entry.path().join("out/init")).filter_map(|path| path.metadata().ok());
    inits.max_by_key(|init| init.modified().ok()).map_or(0, |init| init.len())
}

fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// From asking the API for a start to the first byte of an answer through the edge, next to a bare boot of the same
/// kernel with the same app as its init, under the same VMM with the same machine, in turns: a start from a template,
/// as all but the first of a shape are, and a start with the kernel.
fn start_to_first_byte(platform: &Platform) {
    platform.deploy("hello", CONFIG, &image("hello"));
    let machine = platform.machines("hello")[0]["id"].as_str().unwrap_or_default().to_owned();
    let bare = Bare::like(&vmm_of(&machine), platform.scratch());
    let templates = platform.data().join("kernel/templates");
    let (mut resumed, mut booted, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        eventually("there is a template", || template_in(&templates));
        resumed.push(start(platform, &machine));
        alone.push(bare.boot());
        fs::remove_dir_all(&templates).expect("templates can be removed");
        booted.push(start(platform, &machine));
    }
    let (resumed, booted, alone) = (median(&mut resumed), median(&mut booted), median(&mut alone));
    let ratio = |time: Duration| time.as_secs_f64() / alone.as_secs_f64();
    println!("bare boot of the same kernel to the same app: {:.2} s", alone.as_secs_f64());
    for (name, time) in [("from a template", resumed), ("with the kernel", booted)] {
        println!("machine start to first byte, {name}: {:.2} s, ratio {:.2}", time.as_secs_f64(), ratio(time));
    }
}

/// Whether a template is complete: one that is being made has an extension.
fn template_in(templates: &Path) -> bool {
    let places = fs::read_dir(templates).into_iter().flatten().flatten();
    let mut files = places.flat_map(|place| fs::read_dir(place.path()).into_iter().flatten().flatten());
    files.any(|file| file.path().extension().is_none())
}

/// Stops the machine, starts it and returns how long it took until its app answered.
fn start(platform: &Platform, machine: &str) -> Duration {
    platform.ok(["machine", "stop", machine, "-a", "hello"]);
    let path = format!("/v1/apps/hello/machines/{machine}/start");
    thread::scope(|scope| {
        let began = Instant::now();
        scope.spawn(|| http::post(platform.api_port(), &path, platform.token()));
        // The edge holds the request until the machine is ready, once it has heard that one is coming.
        while platform.get("hello", "/").is_none() {
            thread::sleep(Duration::from_millis(2));
        }
        began.elapsed()
    })
}

fn vmm_of(machine: &str) -> u32 {
    let found = finish(Command::new("pgrep").args(["-f", &format!("dunlin-{machine}")])).stdout;
    found.lines().next().and_then(|pid| pid.parse().ok()).expect("the machine runs under QEMU")
}

/// QEMU with the machine, the processor and the kernel of a running VMM, and an app as the only thing in it.
struct Bare {
    arguments: Vec<String>,
}

impl Bare {
    fn like(vmm: &u32, scratch: &Path) -> Self {
        let text = fs::read(format!("/proc/{vmm}/cmdline")).expect("the VMM runs");
        let words: Vec<_> =
            text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let mut arguments = vec![words[0].clone()];
        for name in ["-machine", "-accel", "-cpu", "-smp", "-m", "-append"] {
            if let Some(index) = words.iter().position(|word| word == name) {
                arguments.extend([name.to_owned(), words[index + 1].clone()]);
            }
        }
        let kernel = words.iter().position(|word| word == "-kernel").map(|index| words[index + 1].clone());
        let kernel = kernel.expect("it boots a kernel").replace("/self/", &format!("/{vmm}/"));
        let kernel = fs::canonicalize(kernel).expect("the kernel is a file");
        arguments.extend(["-kernel".into(), kernel.display().to_string()]);
        arguments.extend(["-initrd".into(), initramfs(scratch).display().to_string()]);
        let rest = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"];
        arguments.extend(rest.map(str::to_owned));
        Self { arguments }
    }

    /// From the launch to the app's first line.
    fn boot(&self) -> Duration {
        let began = Instant::now();
        let mut qemu = Command::new(&self.arguments[0]);
        qemu.args(&self.arguments[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = qemu.spawn().expect("QEMU starts");
        wait_for_line(&mut child, "hello listens on");
        let took = began.elapsed();
        let _ = child.kill();
        let _ = child.wait();
        took
    }
}

fn wait_for_line(child: &mut Child, text: &str) {
    let output = BufReader::new(child.stdout.take().expect("its output is piped"));
    let found = output.split(b'\n').map_while(Result::ok).any(|line| String::from_utf8_lossy(&line).contains(text));
    assert!(found, "the guest ended without saying {text:?}");
}

/// An initial file system that holds the app as its init.
fn initramfs(scratch: &Path) -> PathBuf {
    let tree = scratch.join("bare");
    fs::create_dir_all(&tree).expect("a directory can be made");
    let app = target().join(format!("{}-unknown-linux-gnu/release/hello", std::env::consts::ARCH));
    fs::copy(app, tree.join("init")).expect("the example is built");
    let archive = scratch.join("bare.cpio");
    let script = "cd \"$1\" && echo init | cpio --quiet --create --format=newc > \"$2\"";
    let packed = Command::new("sh").args(["-c", script, "sh"]).arg(&tree).arg(&archive).status();
    assert!(packed.is_ok_and(|status| status.success()), "cpio packs");
    archive
}

/// An image to a root filesystem, next to `umoci unpack` and `mkfs.ext4 -d`.
fn root_filesystem() {
    let scratch = tempfile::tempdir_in(target()).expect("a directory can be made");
    let layout = image("postgres");
    let ours = target().join("release/examples/rootfs_bench");
    if !ours.is_file() {
        println!("root filesystem: rootfs_bench is not built");
        return;
    }
    let began = Instant::now();
    let told = finish(Command::new(ours).arg(&layout).arg(scratch.path().join("ours")));
    let us = began.elapsed();
    let began = Instant::now();
    let bundle = scratch.path().join("bundle");
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--image"]).arg(format!("{}:latest", layout.display())).arg(&bundle);
    let unpacked = finish(&mut umoci);
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-d"]).arg(bundle.join("rootfs")).arg(scratch.path().join("theirs.ext4")).arg("2G");
    let made = finish(&mut mkfs);
    let them = began.elapsed();
    if unpacked.code != 0 || made.code != 0 {
        println!("root filesystem: umoci or mkfs.ext4 failed: {}{}", unpacked.stderr, made.stderr);
        return;
    }
    println!("root filesystem of the postgres image: {}", told.stdout.trim());
    println!(
        "  {:.2} s, umoci unpack and mkfs.ext4 {:.2} s, ratio {:.2}",
        us.as_secs_f64(),
        them.as_secs_f64(),
        us.as_secs_f64() / them.as_secs_f64()
    );
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
