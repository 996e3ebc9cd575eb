//! Machines that sleep: idle ones are stopped or suspended, a request wakes them, and nothing is lost in between.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use e2e::{Options, Platform, eventually, http, image, load::Load, obstacle, skip};

/// An app whose machine falls asleep after so many seconds without anything to do.
fn config(autostop: &str, seconds: u32) -> String {
    format!(
        "[http_service]\ninternal_port = 8080\nauto_stop_machines = {autostop:?}\nauto_start_machines = true\n\
         auto_stop_after = \"{seconds}s\"\n[[http_service.checks]]\npath = \"/healthz\"\ninterval = \"2s\"\n"
    )
}

/// The state of an app's only machine, as `machine list` tells it to people.
fn state(platform: &Platform, app: &str) -> String {
    let machines = platform.machines(app);
    assert_eq!(machines.len(), 1, "{machines:?}");
    machines[0]["state"].as_str().expect("a machine has a state").to_owned()
}

fn count(platform: &Platform, app: &str) -> u32 {
    let page = platform.get(app, "/count").expect("the app answers");
    page.trim().parse().expect("it counts")
}

#[test]
fn an_idle_machine_is_stopped_and_a_request_wakes_it() {
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip("an idle machine is stopped", &obstacle);
    }
    let mut platform = Platform::start(Options::default());
    platform.deploy("idle", &config("stop", 2), &image("hello"));
    eventually("it is stopped", || state(&platform, "idle") == "stopped");
    assert!(platform.ok(["status", "-a", "idle"]).contains("stopped (idle)"));

    // It is meant to sleep: a restart of the platform does not start it, a request does.
    assert_eq!(platform.terminate(), 0);
    platform.launch();
    assert_eq!(state(&platform, "idle"), "stopped");
    assert_eq!(count(&platform, "idle"), 1);
    let log = platform.ok(["logs", "-a", "idle"]);
    for told in ["nothing to do for 2s and is stopped", "machine started in", "became reachable in"] {
        assert!(log.contains(told), "{told:?} is missing:\n{log}");
    }

    // While its program says that it is busy, it is left alone.
    assert!(platform.get("idle", "/busy?for=600s").is_some_and(|page| page.starts_with("busy")));
    eventually("the platform tried", || platform.ok(["logs", "-a", "idle"]).contains("says that it is busy"));
    assert_eq!(state(&platform, "idle"), "started");
    assert!(platform.get("idle", "/busy?for=0").is_some());
    eventually("it is stopped again", || state(&platform, "idle") == "stopped");
    platform.ok(["apps", "destroy", "idle", "--yes"]);
}

#[test]
fn requests_around_the_moment_of_sleep_are_all_answered() {
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip("requests around sleep", &obstacle);
    }
    let platform = Platform::start(Options::default());
    platform.deploy("doze", &config("stop", 1), &image("hello"));
    let (port, host) = (platform.http_port(), "doze.dunlin.localhost");
    let rounds = AtomicU64::new(0);
    let request = move || match http::get(port, host, "/healthz") {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("{}\n{}", answer.head, answer.body)),
        Err(error) => Err(error.to_string()),
    };
    // One pair after the other: two that each kept their own time would keep it awake between them.
    let load = Load::start(1, move || {
        // From a little before to a little after the second after which it falls asleep.
        let round = rounds.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(900 + round * 37 % 300));
        thread::scope(|scope| {
            let other = scope.spawn(move || {
                thread::sleep(Duration::from_millis(round % 7 * 10));
                request()
            });
            request().and(other.join().expect("a request does not panic"))
        })
    });
    // The whole log: every request is a line of it too.
    let naps = |log: &str| log.matches("and is stopped; a request wakes it").count();
    let slept = || naps(&platform.ok(["logs", "-a", "doze", "--limit", "10000"])) >= 4;
    eventually("it has slept and woken several times", slept);
    load.stop_without_loss("sleeping and waking");
    platform.ok(["apps", "destroy", "doze", "--yes"]);
}

#[test]
fn a_suspended_machine_goes_on_where_it_was() {
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip("a suspended machine goes on", &obstacle);
    }
    let mut platform = Platform::start(Options::default());
    platform.deploy("nap", &config("suspend", 4), &image("hello"));
    let counted = count(&platform, "nap").max(count(&platform, "nap"));
    eventually("it is suspended", || state(&platform, "nap") == "suspended");
    assert!(platform.ok(["status", "-a", "nap"]).contains("suspended (idle)"));
    assert_eq!(count(&platform, "nap"), counted + 1, "its memory was not kept");

    // By hand, and over a restart of the platform.
    let id = platform.machines("nap")[0]["id"].as_str().expect("a machine has an id").to_owned();
    platform.ok(["machine", "suspend", &id, "-a", "nap"]);
    assert_eq!(state(&platform, "nap"), "suspended");
    assert!(platform.monitors().is_empty(), "something of it still runs");
    assert_eq!(platform.terminate(), 0);
    platform.launch();
    assert_eq!(state(&platform, "nap"), "suspended");
    assert_eq!(count(&platform, "nap"), counted + 2, "its memory was not kept");

    // A stop throws its memory away.
    platform.ok(["machine", "suspend", &id, "-a", "nap"]);
    platform.ok(["machine", "stop", &id, "-a", "nap"]);
    assert_eq!(state(&platform, "nap"), "stopped");
    assert_eq!(count(&platform, "nap"), 1, "it starts anew");
    platform.ok(["apps", "destroy", "nap", "--yes"]);
}

/// The datagram that wakes a machine reaches its program, though that listens only a while after it has started.
#[test]
fn a_single_datagram_wakes_a_machine_and_is_answered() {
    if let Some(obstacle) = obstacle(&["flask"]) {
        return skip("a single datagram wakes a machine", &obstacle);
    }
    let platform = Platform::start(Options::default());
    let echo = "import socket, time; time.sleep(1); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                s.bind((\"\", 15353)); [s.sendto(d, a) for d, a in iter(lambda: s.recvfrom(2048), 0)]";
    let config = format!(
        "[experimental]\nexec = [\"python3\", \"-c\", '{echo}']\n[[services]]\ninternal_port = 15353\nprotocol = \"udp\"\n\
         auto_stop_machines = \"stop\"\nauto_start_machines = true\nauto_stop_after = \"3s\"\n\
         [[services.ports]]\nport = 15353\n"
    );
    platform.deploy("echo", &config, &image("flask"));
    eventually("it is stopped", || state(&platform, "echo") == "stopped");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client has a socket");
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("it can wait");
    client.send_to(b"are you there?", "127.0.0.1:15353").expect("it can be sent");
    let mut answer = [0; 64];
    let (length, _) = client.recv_from(&mut answer).unwrap_or_else(|error| {
        panic!("it is not answered ({error}):\n{}", platform.ok(["logs", "-a", "echo"]));
    });
    assert_eq!(&answer[..length], b"are you there?");
    platform.ok(["apps", "destroy", "echo", "--yes"]);
}
