//! What a person sees whose configuration file has problems.

use config::{AppConfig, Diagnostics, Severity};

fn problems(text: &str) -> Diagnostics {
    match AppConfig::parse(text) {
        Ok(config) => config.warnings().clone(),
        Err(found) => found,
    }
}

/// `line severity path` of each problem.
fn brief(text: &str) -> Vec<String> {
    let word = |severity| if severity == Severity::Error { "error" } else { "warning" };
    problems(text).iter().map(|item| format!("{} {} {}", item.line, word(item.severity), item.path)).collect()
}

#[test]
fn five_mistakes_are_told_in_one_go_each_with_its_line() {
    let text = r#"app = "My App"
primary_region = "local"

[http_service]
  internal_prot = 8080
  force_https = "yes"

[deploy]
  strategy = "roling"
  release_command = "bin/migrate"

[[vm]]
  memory = "many"
"#;
    let shown = problems(text).to_string();
    assert_eq!(
        shown,
        r#"fly.toml:1: error: "My App" is not a valid app name: use 1 to 63 lower-case letters, digits and inner dashes
  1 | app = "My App"
    |       ^^^^^^^^
    = use 1 to 63 lower-case letters, digits and inner dashes

fly.toml:4: error: `internal_port` is missing in [http_service]
  4 | [http_service]
    |  ^^^^^^^^^^^^
    = add `internal_port = 8080`, the port the app listens on

fly.toml:5: error: `internal_prot` is not a key of [http_service]
  5 |   internal_prot = 8080
    |   ^^^^^^^^^^^^^
    = did you mean `internal_port`?

fly.toml:6: error: `http_service.force_https` is a text, but must be true or false
  6 |   force_https = "yes"
    |                 ^^^^^
    = write true or false

fly.toml:9: error: "roling" is not a value of `deploy.strategy`
  9 |   strategy = "roling"
    |              ^^^^^^^^
    = did you mean `rolling`? use `rolling`, `immediate`

fly.toml:10: error: `deploy.release_command` is not supported yet
  10 |   release_command = "bin/migrate"
     |   ^^^^^^^^^^^^^^^
     = the app would start without it; remove it and run the command with `dunlin machine exec`, or at the app's start

fly.toml:13: error: "many" is not a size
  13 |   memory = "many"
     |            ^^^^^^
     = write a whole number and a unit, such as "512mb" or "2gb"
"#
    );
}

#[test]
fn broken_toml_is_told_by_line_and_nothing_else_is_guessed() {
    let text = "app = \"a\"\n[http_service\ninternal_port = 8080\nkill_timeout = = 3\n";
    let found = brief(text);
    assert!(found.iter().all(|line| line.starts_with("2 error") || line.starts_with("4 error")), "{found:?}");
    assert!(found.len() >= 2, "both mistakes are told: {found:?}");
}

#[test]
fn what_has_no_effect_yet_is_never_dropped_in_silence() {
    let text = r#"app = "a"
swap_size_mb = 512
console_command = "/bin/sh"
[http_service]
internal_port = 8080
auto_stop_machines = "suspend"
auto_start_machines = true
[deploy]
strategy = "bluegreen"
[[statics]]
guest_path = "/a"
url_prefix = "/"
index_document = "index.html"
[metrics]
port = 9090
path = "/metrics"
[mounts]
source = "data"
destination = "/data"
snapshot_retention = 5
[experimental]
enable_consul = true
"#;
    assert_eq!(
        brief(text),
        [
            "2 warning swap_size_mb",
            "3 warning console_command",
            "9 warning deploy.strategy",
            "13 warning statics[0].index_document",
            "14 warning metrics",
            "20 warning mounts.snapshot_retention",
            "22 warning experimental.enable_consul",
        ]
    );
}

#[test]
fn an_app_that_would_not_run_as_meant_is_refused() {
    let text = r#"machine_config = "m.json"
[[services]]
protocol = "udp"
internal_port = 53
[[services.ports]]
port = 53
handlers = ["edge_http"]
[[vm]]
gpu_kind = "a10"
[checks.alive]
type = "http"
port = 8080
protocol = "https"
"#;
    assert_eq!(
        brief(text),
        [
            "1 error machine_config",
            "7 error services[0].ports[0].handlers[0]",
            "9 error vm[0].gpu_kind",
            "13 error checks.alive.protocol",
        ]
    );
}

#[test]
fn what_ports_below_http_cannot_do_is_refused() {
    let text = r#"[[services]]
protocol = "udp"
internal_port = 53
[[services.ports]]
port = 53
[[services.ports]]
port = 443
handlers = ["tls"]
[[services]]
internal_port = 5432
[[services.ports]]
port = 5432
handlers = ["pg_tls", "proxy_proto"]
[[services.ports]]
port = 5433
handlers = ["pg_tls", "tls"]
[[services.ports]]
port = 80
handlers = ["http", "proxy_proto"]
"#;
    assert_eq!(
        brief(text),
        [
            "6 error services[0].ports[1]",
            "6 error services[0].ports[1]",
            "6 warning services[0].ports[1]",
            "14 error services[1].ports[1]",
            "17 error services[1].ports[2]",
        ]
    );
}

#[test]
fn http_options_and_statics_are_checked_where_they_stand() {
    let text = r#"[http_service]
internal_port = 8080
[http_service.http_options]
compress = true
idle_timeout = 0
[http_service.http_options.response.headers]
X-A = "1"
X-B = ["1", "2"]
Server = false
X-C = true
"X D" = "1"
X-E = "a\nb"
[[http_service.http_options.replay_cache]]
path_prefix = "tenants"
ttl_seconds = 5
type = "cookie"
name = "session"
[[statics]]
guest_path = "/app/public"
url_prefix = "/public"
[[statics]]
guest_path = "/app/public/css"
url_prefix = "/public/css"
[[statics]]
guest_path = "app"
url_prefix = "/publicity"
"#;
    assert_eq!(
        brief(text),
        [
            "5 error http_service.http_options.idle_timeout",
            "10 error http_service.http_options.response.headers.X-C",
            "11 error http_service.http_options.response.headers.X D",
            "12 error http_service.http_options.response.headers.X-E",
            "14 error http_service.http_options.replay_cache[0].path_prefix",
            "15 error http_service.http_options.replay_cache[0].ttl_seconds",
            "23 error statics[1].url_prefix",
            "25 error statics[2].guest_path",
        ]
    );
}

#[test]
fn values_that_ask_for_nothing_are_let_pass() {
    let text = "swap_size_mb = 0\n[http_service]\ninternal_port = 80\nauto_stop_machines = \"off\"\n\
                auto_start_machines = false\nmin_machines_running = 0\n[[vm]]\nsize = \"shared-cpu-1x\"\ngpus = 0\n";
    assert_eq!(brief(text), [""; 0]);
}

#[test]
fn groups_must_exist_and_services_must_name_theirs() {
    let text = r#"[processes]
web = "serve"
worker = "work --all"
[http_service]
internal_port = 8080
[[services]]
internal_port = 25
processes = ["wokrer"]
[[services.ports]]
port = 25
[[vm]]
processes = ["cron"]
"#;
    assert_eq!(
        brief(text),
        ["4 error http_service", "8 error services[0].processes[0]", "12 error vm[0].processes[0]"]
    );
    assert!(problems(text).to_string().contains("did you mean `worker`?"));
}

#[test]
fn times_sizes_and_numbers_have_their_ranges() {
    for (text, path) in [
        ("kill_timeout = 301", "kill_timeout"),
        ("kill_signal = \"SIGNOPE\"", "kill_signal"),
        ("[deploy]\nwait_timeout = 300", "deploy.wait_timeout"),
        ("[deploy]\nmax_unavailable = 1.5", "deploy.max_unavailable"),
        ("[http_service]\ninternal_port = 70000", "http_service.internal_port"),
        ("[checks.a]\ntype = \"tcp\"\nport = 1\ninterval = 1000", "checks.a.interval"),
        ("[checks.a]\ntype = \"tcp\"\nport = 1\ntimeout = \"61s\"", "checks.a.timeout"),
        ("[checks.a]\ntype = \"tcp\"", "checks.a"),
        ("[[vm]]\nsize = \"shared-cpu-3x\"", "vm[0].size"),
        ("[[vm]]\nmemory = \"16mb\"", "vm[0].memory"),
        ("[[vm]]\ncpus = 0", "vm[0].cpus"),
        ("[mounts]\nsource = \"d\"\ndestination = \"/d\"\ninitial_size = \"100mb\"", "mounts.initial_size"),
        ("[mounts]\nsource = \"d\"\ndestination = \"/\"", "mounts.destination"),
        ("[mounts]\nsource = \"d\"\ndestination = \"/a/../b\"", "mounts.destination"),
        ("[mounts]\nsource = \"../d\"\ndestination = \"/d\"", "mounts.source"),
        ("[[files]]\nguest_path = \"/a\"", "files[0]"),
        ("[[files]]\nguest_path = \"/a\"\nraw_value = \"\"\nsecret_name = \"S\"", "files[0]"),
        ("[[files]]\nguest_path = \"/a\"\nraw_value = \"not base 64\"", "files[0].raw_value"),
        ("[[files]]\nguest_path = \"/a\"\nraw_value = 1", "files[0].raw_value"),
        ("[restart]\npolicy = \"sometimes\"", "restart.policy"),
        ("[processes]\napp = \"a 'b\"", "processes.app"),
        ("[processes]\n\"a b\" = \"c\"", "processes.a b"),
        ("[env]\nA = [1]", "env.A"),
        ("[[services]]\ninternal_port = 1\n[[services.ports]]\nstart_port = 9\nend_port = 8", "services[0].ports[0]"),
        ("[[services]]\ninternal_port = 1\n[[services.ports]]\nport = 8\nforce_https = true", "services[0].ports[0]"),
        ("[build]\nbuild-target = \"a\"\nbuild_target = \"b\"", "build.build_target"),
    ] {
        let found = problems(text);
        let errors: Vec<_> = found.iter().filter(|item| item.severity == Severity::Error).collect();
        assert_eq!(errors.iter().map(|item| item.path.as_str()).collect::<Vec<_>>(), [path], "{text}\n{found}");
    }
}

#[test]
fn a_second_mount_of_a_group_is_refused() {
    let text = "[[mounts]]\nsource = \"a\"\ndestination = \"/a\"\n[[mounts]]\nsource = \"b\"\ndestination = \"/b\"\n";
    assert_eq!(brief(text), ["1 error mounts"]);
}

#[test]
fn a_flood_of_problems_is_bounded_and_counted() {
    let text: String = (0..5_000).map(|n| format!("unknown_key_number_{n} = 1\n")).collect();
    let found = problems(&text);
    assert_eq!(found.iter().count(), Diagnostics::LIMIT);
    assert_eq!(found.len(), 5_000);
    assert!(AppConfig::parse(&"#\n".repeat(1 << 20)).unwrap_err().to_string().contains("larger than"));
}
