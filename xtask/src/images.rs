//! Images for the scenarios, made of real programs from Debian packages: a base layer by `debootstrap`, and on it one
//! layer per program, caught with overlayfs. The result is one OCI image layout per program, kept between runs.

use std::{
    fs::{self, File},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{hello, run};

/// One program of the scenarios.
struct Recipe {
    name: &'static str,
    packages: &'static [&'static str],
    /// Path, permission bits, content.
    files: &'static [(&'static str, u32, &'static str)],
    entrypoint: &'static [&'static str],
    user: &'static str,
    port: u16,
}

/// Grows when a recipe changes, so that kept images are made anew.
const EDITION: u32 = 3;

/// Their names.
pub const NAMES: [&str; 5] = ["nginx", "redis", "postgres", "flask", "node"];

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "nginx",
        packages: &["nginx-light"],
        files: &[("/var/www/html/index.html", 0o644, "served by nginx\n")],
        entrypoint: &["nginx", "-g", "daemon off;"],
        user: "",
        port: 80,
    },
    Recipe {
        name: "redis",
        packages: &["redis-server"],
        files: &[],
        entrypoint: &["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp"],
        user: "redis:redis",
        port: 6379,
    },
    Recipe {
        name: "postgres",
        packages: &["postgresql-15"],
        files: &[("/usr/local/bin/run-postgres", 0o755, RUN_POSTGRES)],
        entrypoint: &["/usr/local/bin/run-postgres"],
        user: "postgres",
        port: 5432,
    },
    Recipe {
        name: "flask",
        packages: &["python3-flask"],
        files: &[("/srv/app.py", 0o644, FLASK_APP)],
        entrypoint: &["python3", "/srv/app.py"],
        user: "www-data",
        port: 5000,
    },
    Recipe {
        name: "node",
        packages: &["nodejs"],
        files: &[("/srv/app.js", 0o644, NODE_APP)],
        entrypoint: &["node", "/srv/app.js"],
        user: "1000:1000",
        port: 3000,
    },
];

const RUN_POSTGRES: &str = r#"#!/bin/sh
# The mount point belongs to the user of the image; a directory below it keeps lost+found out of the way.
set -e
export PGDATA=/data/main PATH=/usr/lib/postgresql/15/bin:$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --auth=trust --encoding=UTF8 --locale=C --no-sync
  echo "host all all all trust" >> "$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
"#;

const FLASK_APP: &str = r#"import os, signal, sys
from flask import Flask
app = Flask(__name__)

@app.get("/")
def index():
    return "flask on python " + sys.version.split()[0] + " " + os.environ.get("GREETING", "") + "\n"

signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
app.run(host="0.0.0.0", port=5000, threaded=True)
"#;

const NODE_APP: &str = r#"const server = require("http").createServer((request, response) => {
  response.end("node " + process.version + " " + (process.env.GREETING || "") + "\n");
});
server.listen(3000, "0.0.0.0", () => console.log("listening on 3000"));
process.on("SIGINT", () => server.close(() => process.exit(0)));
"#;

/// Where the layouts lie: one directory per program.
pub fn directory() -> PathBuf {
    run::target().join("e2e-images")
}

/// Makes every layout that is missing. What cannot be made is told; its scenario then skips.
pub fn make() -> Result<()> {
    hello::pack()?;
    if !nix::unistd::geteuid().is_root() || !run::is_on_path("debootstrap") {
        println!("images: debootstrap and root are needed for the images of Debian packages");
        return Ok(());
    }
    let edition = directory().join("edition");
    if fs::read_to_string(&edition).ok() != Some(EDITION.to_string()) {
        let _ = fs::remove_dir_all(directory());
        fs::create_dir_all(directory())?;
        fs::write(&edition, EDITION.to_string())?;
    }
    for recipe in RECIPES.iter().filter(|recipe| !directory().join(recipe.name).exists()) {
        println!("images: making {}", recipe.name);
        if let Err(error) = make_one(recipe) {
            println!("images: {} could not be made: {error:#}", recipe.name);
        }
    }
    Ok(())
}

fn make_one(recipe: &Recipe) -> Result<()> {
    let work = directory().join("work");
    let base = base(&work)?;
    let [upper, scratch, merged] = ["upper", "scratch", "merged"].map(|name| work.join(name));
    for directory in [&upper, &scratch, &merged] {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory)?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", base.display(), upper.display(), scratch.display());
    run::succeed(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged))?;
    let installed = install(recipe, &merged);
    run::succeed(Command::new("umount").arg(&merged))?;
    installed?;
    write_whiteouts(&upper)?;
    write_layout(recipe, &base, &upper, &work)
}

/// The base system, unpacked once.
fn base(work: &Path) -> Result<PathBuf> {
    let base = work.join("base");
    if !base.join("etc/debian_version").exists() || !work.join("base.done").exists() {
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(work)?;
        let log = File::create(work.join("debootstrap.log"))?;
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", "bookworm"]).arg(&base).stdout(log.try_clone()?).stderr(log);
        run::succeed(&mut debootstrap)?;
        fs::write(base.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(base.join("usr/sbin/policy-rc.d"), fs::Permissions::from_mode(0o755))?;
        fs::write(work.join("base.done"), "")?;
    }
    Ok(base)
}

fn install(recipe: &Recipe, root: &Path) -> Result<()> {
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf"))?;
    let mut apt = Command::new("chroot");
    apt.arg(root).args([
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
    ]);
    let output = apt.args(recipe.packages).stdin(Stdio::null()).output()?;
    let status = output.status;
    ensure!(
        status.success(),
        "apt-get ended with {status} {:?}: {}",
        status.signal(),
        String::from_utf8_lossy(&output.stderr)
    );
    run::succeed(Command::new("chroot").arg(root).args(["apt-get", "clean"]))?;
    for (path, mode, content) in recipe.files {
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().context("a file lies in a directory")?)?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
    }
    Ok(())
}

/// Overlayfs marks a removed file with a character device 0/0; a layer with an empty file `.wh.NAME`.
fn write_whiteouts(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            write_whiteouts(&entry.path())?;
        } else if kind.is_char_device() && entry.metadata()?.rdev() == 0 {
            fs::remove_file(entry.path())?;
            let name = format!(".wh.{}", entry.file_name().to_string_lossy());
            fs::write(directory.join(name), "")?;
        }
    }
    Ok(())
}

fn write_layout(recipe: &Recipe, base: &Path, upper: &Path, work: &Path) -> Result<()> {
    let layout = work.join("layout");
    let _ = fs::remove_dir_all(&layout);
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for tree in [base, upper] {
        let (layer, diff_id) = layer(&layout, tree, work)?;
        layers.push(layer);
        diff_ids.push(diff_id);
    }
    let config = json!({
        "architecture": hello::architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": recipe.entrypoint,
            "User": recipe.user,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "ExposedPorts": {format!("{}/tcp", recipe.port): {}},
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    hello::write_image(&layout, &config, &layers)?;
    fs::rename(&layout, directory().join(recipe.name))?;
    Ok(())
}

/// Packs a tree as a compressed layer and returns its descriptor and the digest of the uncompressed archive.
fn layer(layout: &Path, tree: &Path, work: &Path) -> Result<(Value, String)> {
    let archive = work.join("layer.tar");
    let mut tar = Command::new("tar");
    tar.args([
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--xattrs-exclude=trusted.overlay.*",
        "--sort=name",
        "--create",
        "--file",
    ]);
    tar.arg(&archive).arg("--directory").arg(tree).arg(".");
    run::succeed(tar.stderr(Stdio::null()))?;
    let diff_id = digest(&archive)?;
    run::succeed(Command::new("gzip").args(["--force", "--fast", "--no-name"]).arg(&archive))?;
    let packed = archive.with_extension("tar.gz");
    let digest = digest(&packed)?;
    let size = fs::metadata(&packed)?.len();
    fs::rename(&packed, layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))?;
    Ok((json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size}), diff_id))
}

fn digest(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut HashWriter(&mut hasher))?;
    Ok(format!("sha256:{}", hex::encode(hasher.finalize())))
}

/// Feeds what is written to a hash.
struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
