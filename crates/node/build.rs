//! Builds the guest's init and leaves it in `OUT_DIR/init`, for the node to embed.
//!
//! Init is another artifact than the crate being built: a static program, small rather than fast, the same in every
//! profile. So it gets a cargo call of its own, with a target directory of its own and none of the caller's flags.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// What makes a program static and independent of where it is loaded. The C library is linked in.
const RUSTFLAGS: &str = "-Ctarget-feature=+crt-static\x1f-Crelocation-model=static";

const PROFILE: [(&str, &str); 8] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "true"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false"),
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "false"),
];

/// Settings of the caller that belong to the product it builds, not to init.
const NOT_INHERITED: [&str; 9] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_MANIFEST_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "TARGET",
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = manifest.parent().and_then(Path::parent).expect("crates/node lies two below the workspace's root");
    for artifact in ["crates/init", "crates/guest"] {
        for part in ["src", "Cargo.toml"] {
            println!("cargo::rerun-if-changed={}", root.join(artifact).join(part).display());
        }
    }
    for shared in ["Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(shared).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let target = guest_target();
    build(root, &out.join("init-build"), &target);
    let built = out.join("init-build").join(&target).join("release/init");
    std::fs::copy(&built, out.join("init")).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
}

/// The guest has the host's processor, and the C library that a static program can be made of.
fn guest_target() -> String {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    format!("{architecture}-unknown-linux-gnu")
}

fn build(root: &Path, target_dir: &Path, target: &str) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["build", "--release", "--locked", "--package", "init", "--bin", "init"]);
    command.arg("--target").arg(target).arg("--target-dir").arg(target_dir);
    for (name, _) in env::vars_os().filter(|(name, _)| belongs_to_caller(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.envs(PROFILE).env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS);
    let status = command.status().unwrap_or_else(|error| panic!("cannot run cargo for init: {error}"));
    assert!(status.success(), "building crates/init failed ({status}); its errors are above");
}

fn belongs_to_caller(name: &str) -> bool {
    let prefixes = ["CARGO_PROFILE_", "CARGO_BUILD_", "CARGO_TARGET_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_"];
    NOT_INHERITED.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}
