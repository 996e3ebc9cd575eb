//! The guest's processes, from `/proc` (proc_pid_stat(5)).

use std::{fs, path::Path};

use guest::Process;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

/// The most processes that are told.
const MAX_PROCESSES: usize = 1024;

/// The most bytes of a command line that are told.
const MAX_COMMAND_BYTES: usize = 512;

/// `PF_KTHREAD` of the kernel: a thread of its own.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// All processes but kernel threads and init.
pub fn list() -> Vec<Process> {
    let (tick_ms, page_bytes) = (1000 / unit(SysconfVar::CLK_TCK, 100), unit(SysconfVar::PAGE_SIZE, 4096));
    let uptime_ms = uptime_ms();
    let stats = all().filter(|stat| stat.flags & KERNEL_THREAD == 0 && stat.pid != 1);
    let process = |stat: Stat| Process {
        command: command_of(&stat),
        pid: stat.pid,
        rss_bytes: stat.rss_pages * page_bytes,
        cpu_ms: stat.cpu_ticks * tick_ms,
        age_ms: uptime_ms.saturating_sub(stat.start_ticks * tick_ms),
    };
    stats.take(MAX_PROCESSES).map(process).collect()
}

/// Kills all processes of a session.
pub fn kill_session(session: i32) {
    for stat in all().filter(|stat| stat.session == session) {
        let _ = kill(Pid::from_raw(stat.pid as i32), Signal::SIGKILL);
    }
}

/// Milliseconds since the kernel started.
pub fn uptime_ms() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = uptime.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0.0);
    (seconds * 1000.0) as u64
}

fn all() -> impl Iterator<Item = Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        parse_stat(&String::from_utf8_lossy(&fs::read(entry.path().join("stat")).ok()?))
    })
}

fn unit(name: SysconfVar, default: u64) -> u64 {
    sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).filter(|unit| *unit > 0).unwrap_or(default)
}

fn command_of(stat: &Stat) -> String {
    let path = Path::new("/proc").join(stat.pid.to_string()).join("cmdline");
    let mut line = fs::read(path).unwrap_or_default();
    line.truncate(MAX_COMMAND_BYTES);
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    if line.trim().is_empty() { format!("[{}]", stat.name) } else { line.trim_end().to_owned() }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    name: String,
    session: i32,
    flags: u64,
    cpu_ticks: u64,
    start_ticks: u64,
    rss_pages: u64,
}

/// `pid (name) state …`; the name may hold anything, parentheses and blanks included.
fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field numbers as in the manual page, which counts from 1; the state is the third.
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |at: usize| field(at)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        name: name.to_owned(),
        session: field(6)?.parse().ok()?,
        flags: number(9)?,
        cpu_ticks: number(14)?.saturating_add(number(15)?),
        start_ticks: number(22)?,
        rss_pages: number(24)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name_holds() {
        let text = "42 (a) (b) c) S 1 42 40 0 -1 4194560 9 0 0 0 7 3 0 0 20 0 1 0 555 1000 25 184 1 1 0";
        let stat = parse_stat(text).unwrap();
        let expected = Stat {
            pid: 42,
            name: "a) (b) c".into(),
            session: 40,
            flags: 4_194_560,
            cpu_ticks: 10,
            start_ticks: 555,
            rss_pages: 25,
        };
        assert_eq!(stat, expected);
    }

    #[test]
    fn this_very_test_is_among_the_processes() {
        let me = list().into_iter().find(|process| process.pid == std::process::id()).unwrap();
        assert!(me.command.contains("init"), "{}", me.command);
        assert!(me.rss_bytes > 0);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-z() -]{0,80}") {
            let _ = parse_stat(&text);
        }
    }
}
