//! The rules of the house that a machine can check. Each finding names the file, the line and the rule.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::run;

/// Longest source file, in lines: a longer one holds more than one thing.
const MAX_FILE_LINES: usize = 800;

/// Words that leave work undone, put together here so that this file does not find itself.
const UNDONE: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
];

/// Rooms that must not know each other: only the binary joins them.
const SIBLINGS: [&str; 9] = ["build", "certs", "control", "edge", "images", "logs", "names", "node", "catalog"];

/// Checks everything and fails with all findings at once.
pub fn run() -> Result<()> {
    let files = tracked_files()?;
    let mut findings = Vec::new();
    for file in &files {
        let Ok(text) = fs::read_to_string(run::root().join(file)) else { continue };
        check_text(file, &text, &mut findings);
        if file.extension().is_some_and(|extension| extension == "rs") {
            check_source(file, &text, &mut findings);
        }
    }
    check_rooms(&mut findings)?;
    check_links(&files, &mut findings);
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    ensure!(findings.is_empty(), "tidy found {} things to mend", findings.len());
    println!("tidy: {} files are in order", files.len());
    Ok(())
}

fn tracked_files() -> Result<Vec<PathBuf>> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(run::root())
        .output()?;
    ensure!(listed.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout)?;
    Ok(names.lines().map(PathBuf::from).filter(|file| run::root().join(file).is_file()).collect())
}

fn check_text(file: &Path, text: &str, findings: &mut Vec<String>) {
    let generated = file.ends_with("Cargo.lock") || file.starts_with("docs/openapi.json");
    for (index, line) in text.lines().enumerate() {
        let at = format!("{}:{}", file.display(), index + 1);
        if !generated && line.ends_with([' ', '\t']) && file.extension().is_none_or(|extension| extension != "md") {
            findings.push(format!("{at}: white space at the end of the line"));
        }
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
            findings.push(format!("{at}: a merge left its marks"));
        }
        if let Some(word) = UNDONE.iter().find(|word| !generated && line.contains(**word)) {
            findings.push(format!("{at}: {word}: finish it, or open an issue and say nothing here"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') && !generated {
        findings.push(format!("{}: no line end at the end of the file", file.display()));
    }
}

fn check_source(file: &Path, text: &str, findings: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > MAX_FILE_LINES {
        findings
            .push(format!("{}: {lines} lines; more than {MAX_FILE_LINES} hold more than one thing", file.display()));
    }
    if !text.starts_with("//!") && !text.starts_with("#!") {
        findings.push(format!("{}: a file begins with //! and what it is", file.display()));
    }
    if file.file_stem().is_some_and(|stem| stem == "utils" || stem == "util" || stem == "helpers") {
        findings.push(format!("{}: name it after what it holds", file.display()));
    }
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("#[ignore") {
            findings.push(format!(
                "{}:{}: an ignored test shows nothing; skip by name instead",
                file.display(),
                index + 1
            ));
        }
    }
}

/// Every room stands in the map, has a manifest that takes the house's lints, and knows no sibling.
fn check_rooms(findings: &mut Vec<String>) -> Result<()> {
    let map = fs::read_to_string(run::root().join("ARCHITECTURE.md")).unwrap_or_default();
    for entry in fs::read_dir(run::root().join("crates"))? {
        let room = entry?.file_name().to_string_lossy().into_owned();
        let manifest = fs::read_to_string(run::root().join("crates").join(&room).join("Cargo.toml"))?;
        if !map.contains(&format!("{room}/")) {
            findings.push(format!("ARCHITECTURE.md: the map lacks crates/{room}/"));
        }
        if !manifest.contains("[lints]\nworkspace = true") {
            findings.push(format!("crates/{room}/Cargo.toml: take the lints of the workspace"));
        }
        if room != "dunlin" && SIBLINGS.contains(&room.as_str()) {
            check_siblings(&room, &manifest, findings);
        }
    }
    Ok(())
}

fn check_siblings(room: &str, manifest: &str, findings: &mut Vec<String>) {
    // The catalog is the edge's picture of the world, not a sibling of it.
    let allowed = |sibling: &str| sibling == room || (room == "edge" && sibling == "catalog");
    let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
    for sibling in SIBLINGS.iter().filter(|sibling| !allowed(sibling)) {
        if dependencies
            .lines()
            .any(|line| line.starts_with(&format!("{sibling}.")) || line.starts_with(&format!("{sibling} ")))
        {
            findings
                .push(format!("crates/{room}/Cargo.toml: {room} must not know {sibling}; join them in crates/dunlin"));
        }
    }
}

/// Relative links of the documents lead somewhere.
fn check_links(files: &[PathBuf], findings: &mut Vec<String>) {
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(run::root().join(file)).unwrap_or_default();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            let outside = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            let folder = file.parent().unwrap_or(Path::new(""));
            if !outside && !run::root().join(folder).join(path).exists() {
                findings.push(format!("{}: the link to {path} leads nowhere", file.display()));
            }
        }
    }
}
