//! The operator's hook: a program that sets and removes the text records of DNS challenges.
//!
//! ```text
//! HOOK present <record name> <text> <host name>
//! HOOK cleanup <record name> <text> <host name>
//! ```
//!
//! It is run with these arguments, never by a shell. `present` returns once the record can be seen from outside; any
//! exit status but 0 is a failure, and the last line of its standard error says why.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use model::Hostname;
use thiserror::Error;
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

/// How long it may take: records take minutes to reach every name server of some providers.
const DEADLINE: Duration = Duration::from_secs(600);
/// How much of what it says is read.
const MAX_SAID: u64 = 16 * 1024;

/// Why the hook did not do it.
#[derive(Debug, Error)]
pub enum HookError {
    /// It cannot be run.
    #[error("the DNS hook {} cannot be run: {source}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It failed.
    #[error("the DNS hook {verb} ended with {status}: {said}")]
    Failed {
        /// What it was to do.
        verb: &'static str,
        /// How it ended.
        status: String,
        /// Its last words.
        said: String,
    },
    /// It takes too long.
    #[error("the DNS hook did not end within {} s", DEADLINE.as_secs())]
    Late,
}

/// The program.
#[derive(Debug, Clone)]
pub struct DnsHook(PathBuf);

impl DnsHook {
    /// The program at a path.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Sets a record.
    ///
    /// # Errors
    /// If the hook fails.
    pub async fn present(&self, record: &str, text: &str, hostname: &Hostname) -> Result<(), HookError> {
        self.run("present", record, text, hostname).await
    }

    /// Removes it.
    ///
    /// # Errors
    /// If the hook fails.
    pub async fn clean_up(&self, record: &str, text: &str, hostname: &Hostname) -> Result<(), HookError> {
        self.run("cleanup", record, text, hostname).await
    }

    async fn run(&self, verb: &'static str, record: &str, text: &str, hostname: &Hostname) -> Result<(), HookError> {
        let unusable = |source| HookError::Run { path: self.0.clone(), source };
        let mut child = Command::new(&self.0)
            .args([verb, record, text, hostname.as_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(unusable)?;
        let mut said = Vec::new();
        let ended = timeout(DEADLINE, async {
            if let Some(stderr) = child.stderr.take() {
                // What comes after the bound meets a closed pipe.
                stderr.take(MAX_SAID).read_to_end(&mut said).await?;
            }
            child.wait().await
        });
        let status = ended.await.map_err(|_| HookError::Late)?.map_err(unusable)?;
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        let said = crate::problem::short(said.trim().lines().last().unwrap_or("it said nothing"));
        Err(HookError::Failed { verb, status: status.to_string(), said })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn hook(directory: &Path, script: &str) -> DnsHook {
        let path = directory.join("hook");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        DnsHook::new(&path)
    }

    #[tokio::test]
    async fn it_is_run_with_arguments_and_no_shell_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let hook = hook(directory.path(), &format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >> {}\n", told.display()));
        let (record, text) = ("_acme-challenge.example.com", "$(touch /tmp/hacked); `x` \"'");
        let hostname = "*.example.com".parse().unwrap();
        hook.present(record, text, &hostname).await.unwrap();
        hook.clean_up(record, text, &hostname).await.unwrap();
        let lines = fs::read_to_string(told).unwrap();
        assert_eq!(lines, format!("present\n{record}\n{text}\n{hostname}\ncleanup\n{record}\n{text}\n{hostname}\n"));
    }

    #[tokio::test]
    async fn a_failure_is_told_in_the_hooks_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let hook = hook(directory.path(), "#!/bin/sh\necho first >&2\necho no such zone >&2\nexit 3\n");
        let error = hook.present("a", "b", &"a.b".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("no such zone") && error.contains('3') && !error.contains("first"), "{error}");
        let missing = DnsHook::new(Path::new("/nowhere/hook"));
        let error = missing.present("a", "b", &"a.b".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("/nowhere/hook"), "{error}");
    }
}
