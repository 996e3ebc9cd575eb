//! A small web app to deploy on Dunlin: one static binary with nothing but the standard library.
//!
//! It answers every request with who and where it is, and shows what an app sees of the platform: the `FLY_*`
//! environment and the header fields that the proxy adds. `/exit?code=3` ends it, `/sleep?ms=500` answers late,
//! `/count` counts how often it was asked since the program started, `/busy?for=10m` tells the platform that the program is
//! busy and shall not be put to sleep for so long, `/healthz` is for health checks. With `FAIL=3` in its environment it ends at once with that status: deploy it so to
//! see what a failed deployment looks like.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

fn main() -> io::Result<()> {
    if let Some(code) = env::var("FAIL").ok().and_then(|code| code.parse().ok()) {
        eprintln!("hello is told to fail");
        std::process::exit(code);
    }
    let port: u16 = env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("hello listens on 0.0.0.0:{port}");
    for connection in listener.incoming() {
        let connection = connection?;
        thread::spawn(move || {
            if let Err(error) = serve(connection) {
                eprintln!("connection ended: {error}");
            }
        });
    }
    Ok(())
}

/// A request's first line and header fields; its body is read and dropped.
struct Request {
    path: String,
    fields: Vec<String>,
    keep_alive: bool,
}

fn serve(mut connection: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    while let Some(request) = read_request(&mut reader)? {
        println!("GET {}", request.path);
        let (status, body) = answer(&request);
        let close = if request.keep_alive { "keep-alive" } else { "close" };
        write!(
            connection,
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: {close}\r\n\r\n{body}",
            body.len()
        )?;
        if !request.keep_alive {
            break;
        }
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.by_ref().take(8192).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let mut request = Request { path, fields: Vec::new(), keep_alive: line.contains("HTTP/1.1") };
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.by_ref().take(8192).read_line(&mut field)?;
        let field = field.trim_end();
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').unwrap_or((field, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "connection" if value.trim().eq_ignore_ascii_case("close") => request.keep_alive = false,
            _ => {}
        }
        request.fields.push(field.to_owned());
    }
    io::copy(&mut reader.take(length), &mut io::sink())?;
    Ok(Some(request))
}

fn answer(request: &Request) -> (&'static str, String) {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let number = |name: &str| query.strip_prefix(name).and_then(|value| value.parse::<u32>().ok());
    match path {
        "/healthz" => ("200 OK", "ok\n".into()),
        "/exit" => std::process::exit(number("code=").map_or(1, |code| code as i32)),
        "/sleep" => {
            thread::sleep(Duration::from_millis(number("ms=").unwrap_or(0).into()));
            ("200 OK", "slept\n".into())
        }
        "/count" => {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            ("200 OK", format!("{}\n", COUNT.fetch_add(1, Ordering::Relaxed) + 1))
        }
        "/busy" => match fs::write("/.dunlin/busy", format!("{}\n", query.trim_start_matches("for="))) {
            Ok(()) => ("200 OK", "busy\n".into()),
            Err(error) => ("500 Internal Server Error", format!("nobody listens: {error}\n")),
        },
        _ => ("200 OK", greeting(request)),
    }
}

fn greeting(request: &Request) -> String {
    let own = |name: &str| env::var(name).unwrap_or_else(|_| "unknown".into());
    let version = env::var("GREETING").unwrap_or_else(|_| "Hello from a microVM".into());
    let mut text = format!(
        "{version}!\n\napp {} · machine {} · region {}\n\nWhat the proxy told me:\n",
        own("FLY_APP_NAME"),
        own("FLY_MACHINE_ID"),
        own("FLY_REGION")
    );
    for field in &request.fields {
        text.push_str("  ");
        text.push_str(field);
        text.push('\n');
    }
    text
}
