//! Real programs as apps: deployed, fetched, redeployed under load without a lost request, rolled back, destroyed.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use e2e::{Options, Platform, eventually, has, http, image, load::Load, obstacle, platform::finish, skip};

/// One platform for all scenarios of this file: they are about apps, not about it.
static PLATFORM: LazyLock<Mutex<Option<Platform>>> =
    LazyLock::new(|| Mutex::new(Some(Platform::start(Options::default()))));

/// Runs a scenario on the shared platform, or says why not.
fn on_platform(scenario: &str, images: &[&str], run: impl FnOnce(&Platform)) {
    if let Some(obstacle) = obstacle(images) {
        return skip(scenario, &obstacle);
    }
    let platform = PLATFORM.lock().unwrap_or_else(PoisonError::into_inner);
    run(platform.as_ref().expect("it lives until the last scenario"));
}

/// The whole life of a web app; `marker` is part of every page.
fn web_app(app: &str, port: u16, memory: &str, marker: &'static str) {
    on_platform(app, &[app], |platform| {
        let config = |greeting: &str| {
            format!(
                "[env]\nGREETING = {greeting:?}\n[[vm]]\nmemory = {memory:?}\n[http_service]\ninternal_port = {port}\n"
            )
        };
        platform.deploy(app, &config("one"), &image(app));
        let page = platform.get(app, "/").expect("the app answers");
        assert!(page.contains(marker), "{page}");

        let (http_port, host) = (platform.http_port(), format!("{app}.dunlin.localhost"));
        let load = Load::start(2, move || match http::get(http_port, &host, "/") {
            Ok(answer) if answer.status == 200 && answer.body.contains(marker) => Ok(()),
            Ok(answer) => Err(format!("{}\n{}", answer.head, answer.body)),
            Err(error) => Err(error.to_string()),
        });
        platform.deploy(app, &config("two"), &image(app));
        load.stop_without_loss("redeploying");

        let releases = platform.json(["releases", "--json", "-a", app]);
        assert_eq!(releases[0]["version"], 2, "{releases}");
        platform.ok(["rollback", "-a", app]);
        let releases = platform.json(["releases", "--json", "-a", app]);
        assert_eq!((&releases[0]["version"], &releases[0]["current"]), (&3.into(), &true.into()), "{releases}");
        assert!(platform.get(app, "/").is_some_and(|page| page.contains(marker)));

        platform.ok(["apps", "destroy", app, "--yes"]);
        assert_eq!(platform.get(app, "/"), None);
        assert!(!platform.data().join("logs").join(app).exists(), "the log outlived its app");
    });
}

#[test]
fn nginx_lives_its_whole_life() {
    web_app("nginx", 80, "256mb", "served by nginx");
}

#[test]
fn flask_lives_its_whole_life() {
    web_app("flask", 5000, "256mb", "flask on python");
}

#[test]
fn node_lives_its_whole_life() {
    web_app("node", 3000, "512mb", "node v");
}

#[test]
fn hello_shows_everything_an_app_gets() {
    on_platform("hello", &["hello"], |platform| {
        let config =
            "[http_service]\ninternal_port = 8080\n[[http_service.checks]]\npath = \"/healthz\"\ninterval = \"5s\"\n";
        let url = platform.deploy("hello", config, &image("hello"));
        assert_eq!(url, format!("http://hello.dunlin.localhost:{}/", platform.http_port()));

        let page = platform.get("hello", "/").expect("it answers");
        for told in
            ["app hello", "region local", "x-forwarded-proto: http", "fly-client-ip: 127.0.0.1", "fly-request-id: "]
        {
            assert!(page.to_lowercase().contains(told), "{told} is missing:\n{page}");
        }

        // HTTPS, against the development certificate authority.
        if has("curl") {
            let name = format!("hello.dunlin.localhost:{}", platform.https_port());
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(platform.data().join("keys/ca.pem"));
            curl.args(["--resolve", &format!("{name}:127.0.0.1"), &format!("https://{name}/healthz")]);
            let outcome = finish(&mut curl);
            assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "ok\n"), "{}", outcome.stderr);
        }

        // Secrets: set, seen by the app, never shown.
        platform.ok(["secrets", "set", "GREETING=whispered", "-a", "hello"]);
        assert!(platform.get("hello", "/").is_some_and(|page| page.starts_with("whispered!")));
        let listed = platform.ok(["secrets", "list", "-a", "hello", "--json"]);
        assert!(listed.contains("GREETING") && !listed.contains("whispered"), "{listed}");

        // Scale, stop, start, one machine at a time.
        platform.ok(["scale", "count", "2", "-a", "hello"]);
        let machines = platform.machines("hello");
        assert_eq!(machines.len(), 2, "{machines:?}");
        let id = machines[0]["id"].as_str().expect("a machine has an id").to_owned();
        platform.ok(["machine", "stop", &id, "-a", "hello"]);
        assert!(platform.get("hello", "/").is_some());
        platform.ok(["machine", "start", &id, "-a", "hello"]);
        platform.ok(["machine", "restart", &id, "-a", "hello"]);
        platform.ok(["scale", "count", "1", "-a", "hello"]);
        assert_eq!(platform.machines("hello").len(), 1);

        // The log tells what the app printed and what the platform did.
        eventually("the log holds the app's lines", || {
            let log = platform.ok(["logs", "-a", "hello"]);
            log.contains("GET /") && log.contains("hello listens on")
        });

        // An app that ends is started again, and the log says with which status it ended.
        let _ = platform.get("hello", "/exit?code=3");
        eventually("the exit is an event", || {
            let machines = platform.machines("hello");
            machines[0]["events"].to_string().contains("\"exit_code\":3")
        });
        eventually("it answers again", || platform.get("hello", "/healthz").is_some());
        platform.ok(["apps", "destroy", "hello", "--yes"]);
    });
}

#[test]
fn commands_run_inside_a_machine() {
    on_platform("exec", &["flask"], |platform| {
        platform.deploy("shell", "[http_service]\ninternal_port = 5000\n", &image("flask"));
        let id = platform.machines("shell")[0]["id"].as_str().expect("a machine has an id").to_owned();
        let exec = |command: &[&str]| {
            platform.run([["machine", "exec", &id, "-a", "shell", "--"].as_slice(), command].concat())
        };
        let outcome = exec(&["sh", "-c", "echo out; echo err >&2; id -un; exit 7"]);
        assert_eq!(outcome.code, 7, "{outcome:?}");
        assert!(outcome.stdout.contains("out\n") && outcome.stdout.contains("www-data"), "{outcome:?}");
        assert!(outcome.stderr.contains("err"), "{outcome:?}");
        let hosts = exec(&["cat", "/etc/hosts"]).stdout;
        assert!(hosts.contains("fly-local-6pn"), "{hosts}");
        let resolver = exec(&["cat", "/etc/resolv.conf"]).stdout;
        assert!(resolver.contains("nameserver fdaa::3"), "{resolver}");
        let names = exec(&["python3", "-c", "import socket; print(socket.getaddrinfo('shell.internal', 80)[0][4][0])"]);
        assert!(names.stdout.starts_with("fdaa:"), "{names:?}");
        platform.ok(["apps", "destroy", "shell", "--yes"]);
    });
}

/// Talks to Redis (RESP) through the edge.
fn ping(port: u16) -> Result<(), String> {
    let talk = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", port))?;
        connection.set_read_timeout(Some(Duration::from_secs(90)))?;
        connection.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        connection.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match talk() {
        Ok(answer) if answer == "+PONG\r\n" => Ok(()),
        Ok(answer) => Err(format!("answered {answer:?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn redis_is_reached_over_raw_tcp() {
    on_platform("redis", &["redis"], |platform| {
        let config = |level: &str| {
            format!(
                "[env]\nLEVEL = {level:?}\n[[services]]\ninternal_port = 6379\nprotocol = \"tcp\"\n[[services.ports]]\nport = 16379\n"
            )
        };
        platform.deploy("redis", &config("one"), &image("redis"));
        ping(16379).expect("redis answers");
        let load = Load::start(2, || ping(16379));
        platform.deploy("redis", &config("two"), &image("redis"));
        load.stop_without_loss("redeploying");
        platform.ok(["rollback", "-a", "redis"]);
        ping(16379).expect("redis answers after the rollback");
        platform.ok(["apps", "destroy", "redis", "--yes"]);
    });
}

/// Runs a statement with the real client; a fresh connection each time. PostgreSQL listens before it is ready and says
/// so (SQLSTATE 57P03); as its clients do, this one then asks again.
fn psql(statement: &str) -> Result<String, String> {
    loop {
        let mut psql = Command::new("psql");
        psql.args(["-h", "127.0.0.1", "-p", "15432", "-U", "postgres", "-tAc", statement]);
        let outcome = finish(psql.env("PGCONNECT_TIMEOUT", "90"));
        if outcome.code == 0 {
            return Ok(outcome.stdout.trim().to_owned());
        }
        if !outcome.stderr.contains("the database system is starting up") {
            return Err(outcome.stderr);
        }
    }
}

#[test]
fn postgres_keeps_its_volume_through_a_deployment() {
    if !has("psql") {
        return skip("postgres", "psql is not installed");
    }
    on_platform("postgres", &["postgres"], |platform| {
        let config = |level: &str| {
            format!(
                "[env]\nLEVEL = {level:?}\n[[vm]]\nmemory = \"512mb\"\n[mounts]\nsource = \"data\"\ndestination = \"/data\"\n\
                 [[services]]\ninternal_port = 5432\nprotocol = \"tcp\"\n[[services.ports]]\nport = 15432\n"
            )
        };
        platform.deploy("postgres", &config("one"), &image("postgres"));
        psql("create table kept (number int); insert into kept values (42)").expect("postgres answers");
        let load = Load::start(1, || match psql("select number from kept") {
            Ok(answer) if answer == "42" => Ok(()),
            Ok(answer) => Err(format!("answered {answer:?}")),
            Err(error) => Err(error),
        });
        platform.deploy("postgres", &config("two"), &image("postgres"));
        load.stop_without_loss("redeploying in place");
        platform.ok(["rollback", "-a", "postgres"]);
        assert_eq!(psql("select number from kept").as_deref(), Ok("42"));
        platform.ok(["apps", "destroy", "postgres", "--yes"]);
    });
}

#[test]
fn organizations_cannot_reach_each_other() {
    on_platform("isolation", &["flask"], |platform| {
        let config = "[http_service]\ninternal_port = 5000\n";
        platform.ok(["orgs", "create", "first"]);
        platform.ok(["orgs", "create", "second"]);
        platform.ok(["apps", "create", "ours", "--org", "first"]);
        platform.ok(["apps", "create", "theirs", "--org", "second"]);
        platform.ok(["apps", "create", "sibling", "--org", "first"]);
        for app in ["ours", "theirs", "sibling"] {
            platform.deploy(app, config, &image("flask"));
        }
        let machine = |app: &str| platform.machines(app)[0].clone();
        let id = machine("ours")["id"].as_str().expect("a machine has an id").to_owned();
        // The port is closed at the IPv6 address, so a machine that can be reached refuses; one that cannot is silent.
        let knock = |address: &str| {
            let script = format!(
                "import socket\ns = socket.socket(socket.AF_INET6)\ns.settimeout(5)\ntry:\n s.connect(('{address}', 5999))\n\
                 except ConnectionRefusedError:\n print('refused')\nexcept OSError as e:\n print('silent')"
            );
            platform.run(["machine", "exec", &id, "-a", "ours", "--", "python3", "-c", &script]).stdout
        };
        let address = |app: &str| machine(app)["private_ip"].as_str().expect("a machine has an address").to_owned();
        assert_eq!(knock(&address("sibling")).trim(), "refused", "the same organization");
        assert_eq!(knock(&address("theirs")).trim(), "silent", "another organization");
        for app in ["ours", "theirs", "sibling"] {
            platform.ok(["apps", "destroy", app, "--yes"]);
        }
    });
}

#[test]
fn files_are_served_beside_the_program() {
    on_platform("statics", &["hello"], |platform| {
        // `a { color: red }`, in base 64.
        let config = "[http_service]\ninternal_port = 8080\n[[files]]\nguest_path = \"/public/css/site.css\"\n\
                      raw_value = \"YSB7IGNvbG9yOiByZWQgfQ==\"\n[[statics]]\nguest_path = \"/public\"\n\
                      url_prefix = \"/assets\"\n";
        platform.deploy("files", config, &image("hello"));
        let host = format!("files.dunlin.localhost:{}", platform.http_port());
        let answer = http::get(platform.http_port(), &host, "/assets/css/site.css").expect("the edge answers");
        assert_eq!((answer.status, answer.body.as_str()), (200, "a { color: red }"), "{}", answer.head);
        assert!(answer.head.contains("text/css") && answer.head.contains("etag"), "{}", answer.head);
        for path in ["/assets/none.css", "/assets/../hello", "/assets", "/"] {
            let page = platform.get("files", path).unwrap_or_default();
            assert!(page.contains("app files"), "{path}: the program did not answer but: {page}");
        }
        platform.ok(["apps", "destroy", "files", "--yes"]);
    });
}

#[test]
fn zz_the_platform_ends_and_leaves_nothing() {
    on_platform("leaves nothing", &["hello"], |_| {});
    let mut platform = PLATFORM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(platform) = platform.take() {
        let monitors = platform.monitors();
        drop(platform);
        let left: Vec<_> =
            monitors.into_iter().filter(|(pid, _)| Path::new(&format!("/proc/{pid}")).exists()).collect();
        assert!(left.is_empty(), "virtual machines are left: {left:?}");
        let links = finish(Command::new("ip").args(["-brief", "link"])).stdout;
        assert!(links.lines().all(|line| line.starts_with("lo ")), "interfaces are left:\n{links}");
    }
}
