//! A program's environment, and the file that a command's name means in it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::credentials::Credentials;

/// Where commands are looked for unless the environment says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names and values.
pub type Environment = BTreeMap<String, String>;

/// The environment that `lines` of `NAME=value` make on top of `base`, with `PATH` and `HOME` if they are missing.
pub fn build(base: Environment, lines: &[String], user: &Credentials) -> Environment {
    let mut env = base;
    let pairs = lines.iter().filter_map(|line| line.split_once('=')).filter(|(name, _)| !name.is_empty());
    env.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    env.entry("HOME".into()).or_insert_with(|| user.home.clone());
    env
}

/// Says what kind of terminal there is, unless the environment does.
pub fn name_terminal(env: &mut Environment) {
    env.entry("TERM".into()).or_insert_with(|| "xterm".into());
}

/// Why a command cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotRun {
    /// Why, in words.
    pub reason: String,
    /// The status as a shell would give it: 127 where there is no such file, 126 otherwise.
    pub exit_code: i32,
}

/// The file that a command means: a path relative to `working_dir` if it holds a slash, else the first of that
/// name in `PATH` that is executable.
pub fn find_command(command: &str, env: &Environment, working_dir: &Path) -> Result<PathBuf, CannotRun> {
    if command.is_empty() {
        return Err(CannotRun { reason: "the command is empty".into(), exit_code: 127 });
    }
    if command.contains('/') {
        return check(working_dir.join(command));
    }
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let candidates = path.split(':').map(|directory| working_dir.join(directory).join(command));
    let mut found = candidates.map(check).filter(|result| !matches!(result, Err(error) if error.exit_code == 127));
    let first = found.next();
    let runnable = first.iter().find(|result| result.is_ok()).cloned().or_else(|| found.find(Result::is_ok));
    runnable.or(first).unwrap_or_else(|| {
        Err(CannotRun { reason: format!("there is no {command:?} in the image's PATH ({path})"), exit_code: 127 })
    })
}

fn check(path: PathBuf) -> Result<PathBuf, CannotRun> {
    let cannot = |reason, exit_code| Err(CannotRun { reason, exit_code });
    match fs::metadata(&path) {
        Err(error) => cannot(format!("{}: {error}", path.display()), 127),
        Ok(file) if file.is_dir() => cannot(format!("{} is a directory", path.display()), 126),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => {
            cannot(format!("{} is not executable", path.display()), 126)
        }
        Ok(_) => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Credentials {
        Credentials { uid: 1, gid: 1, groups: vec![], home: "/home/me".into() }
    }

    fn file(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn later_lines_win_and_defaults_fill_the_gaps() {
        let lines = ["A=1", "A=2=3", "junk", "=x", "EMPTY="].map(str::to_owned);
        let env = build(Environment::new(), &lines, &user());
        let expected = [("A", "2=3"), ("EMPTY", ""), ("HOME", "/home/me"), ("PATH", DEFAULT_PATH)];
        assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(build(env, &["HOME=/x".to_owned()], &user())["HOME"], "/x");
    }

    #[test]
    fn a_command_is_the_first_executable_of_its_name() {
        let root = tempfile::tempdir().unwrap();
        file(&root.path().join("a/tool"), 0o644);
        file(&root.path().join("b/tool"), 0o755);
        file(&root.path().join("b/data"), 0o600);
        let path = format!("{0}/none:{0}/a:{0}/b", root.path().display());
        let env = Environment::from([("PATH".to_owned(), path)]);
        let find = |command: &str| find_command(command, &env, root.path());

        assert_eq!(find("tool"), Ok(root.path().join("b/tool")));
        assert_eq!(find("b/tool"), Ok(root.path().join("b/tool")));
        assert_eq!(find("./b/../b/tool").map(|path| path.exists()), Ok(true));
        for (command, exit_code) in
            [("data", 126), ("a/tool", 126), ("none", 127), ("/none/x", 127), ("./a", 126), ("", 127)]
        {
            assert_eq!(find(command).unwrap_err().exit_code, exit_code, "{command}");
        }
    }
}
