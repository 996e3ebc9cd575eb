//! Init in a real guest.

mod vm;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use bytes::Bytes;
use guest::{
    BootFailure, ExecSpec, Exit, GuestMessage, GuestState, HostMessage, RunSpec, TerminalSize,
    spec::{File, Mount},
};
use vm::{Parts, Vm, channel::Host, run_script};

/// A script that lives until it is told to end, and says so.
const SERVE: &str = "trap 'echo asked to end; exit 3' TERM; echo ready; while :; do sleep 1000 & wait; done";

macro_rules! parts_or_skip {
    ($test:literal) => {
        match Parts::find() {
            Ok(parts) => parts,
            Err(reason) => return eprintln!("skipped: {}: {reason}", $test),
        }
    };
}

#[test]
fn a_program_runs_as_its_spec_says_and_ends_in_order() {
    let parts = parts_or_skip!("a_program_runs_as_its_spec_says_and_ends_in_order");
    let vm = Vm::start(&parts, image);
    let mut host = vm.connect();
    assert_eq!(host.state, GuestState::Waiting);
    host.send(HostMessage::Boot(Box::new(RunSpec {
        user: "web".into(),
        working_dir: "/app/here".into(),
        mounts: vec![Mount { device: "serial:volume".into(), path: "/data".into() }],
        files: vec![File { path: "/data/sub/note".into(), mode: Some(0o600), content: "bm90ZQ==".into() }],
        ..run_script(SERVE)
    })));
    let (pid, init_us) = started(&mut host);
    eprintln!("init worked for {init_us} us until its program ran");
    host.wait_for_log("ready");

    let facts = [
        ("id", "uid=101(web) gid=102(www) groups=4(logs),102(www)\n"),
        ("pwd; echo $HOME; echo $GREETING; hostname", "/app/here\n/srv\nhello world\nheron\n"),
        ("cat /data/sub/note; stat -c ' %U:%a' /data/sub/note /data", "note web:600\n web:755\n"),
        ("ulimit -n; date +%s | cut -c1-5", "10240\n18000\n"),
        ("tail -n 1 /etc/hosts; cat /etc/resolv.conf", "fdaa::7\theron\nnameserver fdaa::3\n"),
        ("cat /sys/class/net/eth0/mtu; ip route", "1420\ndefault via 10.9.0.1 dev eth0 onlink \n"),
        ("ip -6 route | grep -c 'default via fe80::1 dev eth0'", "1\n"),
        ("ip addr show eth0 | grep -c -e 'inet 10.9.0.2/32' -e 'inet6 fdaa::7/112'", "2\n"),
        ("stat -f -c %T /run /dev/shm; ls /init /modules /lower 2>&1 | grep -c 'No such'", "tmpfs\ntmpfs\n3\n"),
        ("cut -d: -f3 /proc/self/cgroup; stat -c '%a %g' /dev/pts/ptmx", "/\n666 0\n"),
        ("echo data > /dev/stdout; touch /etc/mine 2>/dev/null || echo refused", "data\nrefused\n"),
    ];
    for ((script, expected), stream) in facts.into_iter().zip(1..) {
        let result = host.shell(stream, script);
        let (stdout, stderr) = (String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
        assert_eq!(stdout, expected, "{script}: {stderr}");
    }

    host.send(HostMessage::Inspect { request: 5 });
    let (processes, listening) = host.wait(|message| match message {
        GuestMessage::Report { request: 5, processes, listening } => Some((processes.clone(), listening.clone())),
        _ => None,
    });
    assert!(processes.iter().any(|process| process.pid == pid && process.command.starts_with("/bin/busybox sh -c")));
    assert!(listening.is_empty());

    host.send(HostMessage::Stop { signal: 0, timeout_ms: 60_000 });
    assert_eq!(exit(&mut host), Exit { code: 3, signal: 0, oom_killed: false });
    assert!(host.logs().contains(&"asked to end".to_owned()));
    host.send(HostMessage::PowerOff);
    let disks = vm.ended();
    assert!(disks.is_clean("upper"));
    assert!(disks.is_clean("volume"));
    assert_eq!(disks.read("volume", "/sub/note"), "note");
}

#[test]
fn commands_run_beside_the_program_with_streams_terminals_and_signals() {
    let parts = parts_or_skip!("commands_run_beside_the_program_with_streams_terminals_and_signals");
    let vm = Vm::start(&parts, image);
    let mut host = vm.connect();
    host.send(HostMessage::Boot(Box::new(run_script(SERVE))));
    started(&mut host);

    // More than a window each way, with nobody taking turns.
    let input: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    host.start(1, command("cat"));
    let echoed = host.finish(1, &input);
    assert_eq!((echoed.code, echoed.signal), (0, 0));
    assert!(echoed.stdout == input);

    let both = host.shell(2, "echo out; echo err >&2; exit 7");
    assert_eq!((both.code, &both.stdout[..], &both.stderr[..]), (7, &b"out\n"[..], &b"err\n"[..]));

    host.start(3, command("sleep 1000"));
    host.start(
        4,
        ExecSpec { user: Some("web:4".into()), env: vec!["A=b".into()], ..command("id -u; id -g; echo $A $HOME") },
    );
    assert_eq!(host.finish(4, &[]).stdout, b"101\n4\nb /srv\n");
    host.send(HostMessage::ExecSignal { stream: 3, signal: libc::SIGTERM });
    let killed = host.finish(3, &[]);
    assert_eq!((killed.code, killed.signal), (0, libc::SIGTERM));

    let terminal = Some(TerminalSize { columns: 100, rows: 30 });
    host.start(
        5,
        ExecSpec { tty: terminal, ..command("stty size; read line; stty size; echo got $line; tty; echo $TERM") },
    );
    wait_for_output(&mut host, 5, "30 100");
    host.send(HostMessage::ExecResize { stream: 5, size: TerminalSize { columns: 80, rows: 24 } });
    host.send(HostMessage::ExecStdin { stream: 5, bytes: Bytes::from_static(b"words\n") });
    let talked = String::from_utf8(host.finish(5, &[]).stdout).unwrap();
    for line in ["24 80\r\n", "got words\r\n", "/dev/pts/0\r\n", "xterm\r\n"] {
        assert!(talked.contains(line), "{talked:?}");
    }

    for (stream, spec, reason) in [
        (6, ExecSpec { argv: vec!["nonsense".into()], ..ExecSpec::default() }, "nonsense"),
        (7, ExecSpec { user: Some("nobody".into()), ..command("true") }, "/etc/passwd"),
        (8, ExecSpec { working_dir: Some("/none".into()), ..command("true") }, "/none"),
    ] {
        host.start(stream, spec);
        let failed = host.wait(|message| match message {
            GuestMessage::ExecFailed { stream: failed, reason } if *failed == stream => Some(reason.clone()),
            _ => None,
        });
        assert!(failed.contains(reason), "{failed}");
    }

    // A command that nobody waits for any more is killed with what it started.
    host.start(9, command("sleep 4321 & echo $$; wait"));
    wait_for_output(&mut host, 9, "\n");
    host.send(HostMessage::ExecKill { stream: 9 });
    let mut stream = 10;
    while !host.shell(stream, "pgrep -f 'sleep 4321' | grep -v $$").stdout.is_empty() {
        stream += 1;
    }

    host.send(HostMessage::PowerOff);
    assert!(vm.ended().is_clean("upper"));
}

#[test]
fn a_host_process_may_die_at_any_byte_and_another_take_over() {
    let parts = parts_or_skip!("a_host_process_may_die_at_any_byte_and_another_take_over");
    let vm = Vm::start(&parts, image);
    let mut host = vm.connect();
    let script = "echo first; while [ ! -e /go ]; do sleep 0.1; done; echo second; while [ ! -e /end ]; do sleep 0.1; done; exit 9";
    host.send(HostMessage::Boot(Box::new(run_script(script))));
    let (pid, _) = started(&mut host);
    let first = host.wait_for_log("first");
    host.start(1, command("sleep 5432"));
    host.die_in_the_middle_of(HostMessage::ExecStart { stream: 2, spec: command("touch /never") });

    // What was not acknowledged comes again; the commands of the dead host are gone.
    let mut host = vm.connect();
    assert_eq!(host.state, GuestState::Running { boot_id: "boot-1".into(), pid });
    assert_eq!(host.wait_for_log("first"), first);
    host.send(HostMessage::AckLogs { seq: first.seq });
    let left = host.shell(1, "pgrep -f 'sleep 5432' | grep -v $$; ls /never 2>&1 | grep -c 'No such'; touch /go");
    assert_eq!(left.stdout, b"1\n");
    host.wait_for_log("second");
    host.start(2, command("touch /end"));
    host.die_in_the_middle_of(HostMessage::ExecStdin { stream: 2, bytes: Bytes::from_static(&[0xC0; 5000]) });

    // The program ends while no host is there. It has been waited for.
    let mut host = vm.connect();
    assert_eq!(exit(&mut host), Exit { code: 9, signal: 0, oom_killed: false });
    assert!(host.logs().contains(&"second".to_owned()));
    assert!(!host.logs().contains(&"first".to_owned()));
    host.die_in_the_middle_of(HostMessage::PowerOff);

    let mut host = vm.connect();
    let exit = Exit { code: 9, signal: 0, oom_killed: false };
    assert_eq!(host.state, GuestState::Exited { boot_id: "boot-1".into(), exit });
    host.send(HostMessage::PowerOff);
    assert!(vm.ended().is_clean("upper"));
}

#[test]
fn a_chatty_program_loses_nothing_while_a_host_listens() {
    let parts = parts_or_skip!("a_chatty_program_loses_nothing_while_a_host_listens");
    let vm = Vm::start(&parts, image);
    let mut host = vm.connect();
    let line = "x".repeat(100);
    let script = format!("i=0; while [ $i -lt 30000 ]; do echo $i {line}; i=$((i+1)); done");
    host.send(HostMessage::Boot(Box::new(run_script(&script))));
    let mut expected = 0;
    let exit = loop {
        let message = host.wait(|message| match message {
            GuestMessage::Log(_) | GuestMessage::LogsDropped { .. } | GuestMessage::Exited(_) => Some(message.clone()),
            _ => None,
        });
        match message {
            GuestMessage::Exited(exit) => break exit,
            GuestMessage::Log(record) => {
                assert_eq!(String::from_utf8_lossy(&record.bytes), format!("{expected} {line}"));
                expected += 1;
                if record.seq % 100 == 0 {
                    host.send(HostMessage::AckLogs { seq: record.seq });
                }
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((exit.code, expected), (0, 30_000));
    host.send(HostMessage::PowerOff);
    vm.ended();
}

#[test]
fn a_host_that_comes_late_gets_the_whole_backlog_and_the_end() {
    let parts = parts_or_skip!("a_host_that_comes_late_gets_the_whole_backlog_and_the_end");
    let vm = Vm::start(&parts, image);
    let mut host = vm.connect();
    let line = "x".repeat(100);
    let script = format!(
        "while [ ! -e /go ]; do sleep 0.1; done; for i in $(seq 5000); do echo $i {line}; done; touch /done; while [ ! -e /end ]; do sleep 0.1; done"
    );
    host.send(HostMessage::Boot(Box::new(run_script(&script))));
    started(&mut host);
    host.start(1, command("touch /go"));
    host.finish(1, &[]);
    drop(host);

    let mut host = vm.connect();
    host.shell(1, "while [ ! -e /done ]; do sleep 0.1; done; touch /end");
    drop(host);
    // It never acknowledges anything.
    let mut host = vm.connect();
    assert_eq!(exit(&mut host), Exit::default());
    let expected: Vec<String> = (1..=5000).map(|number| format!("{number} {line}")).collect();
    assert!(host.logs() == expected);
    host.send(HostMessage::PowerOff);
    vm.ended();
}

#[test]
fn a_guest_that_powers_itself_off_ends_its_program_first() {
    let parts = parts_or_skip!("a_guest_that_powers_itself_off_ends_its_program_first");
    let vm = Vm::start(&parts, image);
    let mut host = vm.connect();
    host.send(HostMessage::Boot(Box::new(run_script(SERVE))));
    host.wait_for_log("ready");
    host.shell(1, "poweroff");
    assert_eq!(exit(&mut host), Exit { code: 3, signal: 0, oom_killed: false });
    host.send(HostMessage::PowerOff);
    assert!(vm.ended().is_clean("upper"));
}

#[test]
fn a_program_killed_for_want_of_memory_is_told_from_one_that_was_stopped() {
    let parts = parts_or_skip!("a_program_killed_for_want_of_memory_is_told_from_one_that_was_stopped");
    let vm = Vm::start(&parts, image);
    let mut host = vm.connect();
    host.send(HostMessage::Boot(Box::new(run_script("exec tail /dev/zero"))));
    assert_eq!(exit(&mut host), Exit { code: 0, signal: libc::SIGKILL, oom_killed: true });
    host.send(HostMessage::PowerOff);
    vm.ended();

    let vm = Vm::start(&parts, image);
    let mut host = vm.connect();
    host.send(HostMessage::Boot(Box::new(run_script("trap '' TERM; echo deaf; while :; do sleep 1; done"))));
    host.wait_for_log("deaf");
    host.send(HostMessage::Stop { signal: libc::SIGTERM, timeout_ms: 100 });
    assert_eq!(exit(&mut host), Exit { code: 0, signal: libc::SIGKILL, oom_killed: false });
    host.send(HostMessage::PowerOff);
    assert!(vm.ended().is_clean("upper"));
}

#[test]
fn what_cannot_start_says_why() {
    let parts = parts_or_skip!("what_cannot_start_says_why");
    let argv = |words: &str| words.split(' ').map(str::to_owned).collect();
    for (spec, step, exit_code, reason) in [
        (RunSpec { user: "ghost".into(), ..run_script("true") }, "user", 1, "\"ghost\""),
        (RunSpec { argv: argv("nothing"), ..run_script("") }, "exec", 127, "PATH (/bin)"),
        (RunSpec { argv: argv("/bin/text"), ..run_script("") }, "exec", 126, "not executable"),
        (RunSpec { argv: argv("/bin/orphan"), ..run_script("") }, "exec", 127, "interpreter"),
    ] {
        let vm = Vm::start(&parts, image);
        let mut host = vm.connect();
        host.send(HostMessage::Boot(Box::new(spec)));
        let failure = failure(&mut host);
        assert_eq!((&failure.step[..], failure.exit_code), (step, exit_code), "{failure:?}");
        assert!(failure.reason.contains(reason), "{failure:?}");
        host.send(HostMessage::PowerOff);
        assert!(vm.ended().is_clean("upper"));
    }
}

#[test]
fn an_image_of_one_file_runs_with_a_terminal() {
    let parts = parts_or_skip!("an_image_of_one_file_runs_with_a_terminal");
    let vm = Vm::start(&parts, |_| {});
    let mut host = vm.connect();
    host.send(HostMessage::Boot(Box::new(RunSpec {
        tty: true,
        user: "65534:65534".into(),
        ..run_script("tty; id -u; pwd")
    })));
    assert_eq!(exit(&mut host), Exit::default());
    assert_eq!(host.logs(), ["/dev/pts/0", "65534", "/"]);
    host.send(HostMessage::PowerOff);
    vm.ended();
}

fn image(tree: &Path) {
    for directory in ["etc", "srv"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n").unwrap();
    fs::write(tree.join("etc/group"), "www:x:102:\nlogs:x:4:web\n").unwrap();
    fs::write(tree.join("etc/hosts"), "of the image").unwrap();
    symlink("/run/nowhere/resolv.conf", tree.join("etc/resolv.conf")).unwrap();
    fs::write(tree.join("bin/text"), "text").unwrap();
    fs::write(tree.join("bin/orphan"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(tree.join("bin/orphan"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn command(script: &str) -> ExecSpec {
    ExecSpec { argv: ["busybox", "sh", "-c", script].map(str::to_owned).into(), ..ExecSpec::default() }
}

fn started(host: &mut Host) -> (u32, u64) {
    host.wait(|message| match message {
        GuestMessage::Started { pid, init_us, .. } => Some((*pid, *init_us)),
        GuestMessage::BootFailed(failure) => panic!("{failure:?}"),
        _ => None,
    })
}

fn exit(host: &mut Host) -> Exit {
    host.wait(|message| match message {
        GuestMessage::Exited(exit) => Some(*exit),
        GuestMessage::BootFailed(failure) => panic!("{failure:?}"),
        _ => None,
    })
}

fn failure(host: &mut Host) -> BootFailure {
    host.wait(|message| match message {
        GuestMessage::BootFailed(failure) => Some(failure.clone()),
        GuestMessage::Started { .. } => panic!("it started"),
        _ => None,
    })
}

fn wait_for_output(host: &mut Host, wanted: u32, text: &str) {
    host.wait(|message| match message {
        GuestMessage::ExecOut { stream, bytes } if *stream == wanted => {
            String::from_utf8_lossy(bytes).contains(text).then_some(())
        }
        _ => None,
    });
}
