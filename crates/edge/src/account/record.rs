//! An access record: what became of one request, as a line for people and programs (logfmt).

use std::{fmt, net::IpAddr, time::Duration};

use http::{Method, Version};

/// Longer targets are cut.
const MAX_TARGET: usize = 1024;

/// What became of one request.
pub struct Record<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path and query.
    pub target: &'a str,
    /// The host it was for.
    pub host: &'a str,
    /// By which version of HTTP it came.
    pub version: Version,
    /// Whose it was.
    pub client: IpAddr,
    /// The status of the answer.
    pub status: u16,
    /// The code of the refusal, if it was refused.
    pub code: Option<&'static str>,
    /// Bytes of the answer's body, as the client got them.
    pub bytes_out: u64,
    /// From the request to the header of its answer.
    pub first_byte: Duration,
    /// From the request to the end of its answer.
    pub total: Duration,
    /// Its name.
    pub request_id: &'a str,
    /// Its trace.
    pub trace_id: &'a str,
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "method={} path={} host={}", self.method, Quoted(self.target), Quoted(self.host))?;
        write!(f, " status={} code={} client={}", self.status, self.code.unwrap_or("-"), self.client)?;
        write!(f, " protocol={} bytes={}", protocol(self.version), self.bytes_out)?;
        write!(f, " first_byte={} total={}", Millis(self.first_byte), Millis(self.total))?;
        write!(f, " request={} trace={}", self.request_id, self.trace_id)
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_3 => "h3",
        Version::HTTP_2 => "h2",
        Version::HTTP_10 => "http/1.0",
        _ => "http/1.1",
    }
}

/// A text in quotes that cannot end them or the line.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for (at, letter) in self.0.char_indices() {
            if at >= MAX_TARGET {
                f.write_str("…")?;
                break;
            }
            match letter {
                '"' | '\\' => write!(f, "\\{letter}")?,
                _ if letter.is_control() => write!(f, "\\u{{{:x}}}", u32::from(letter))?,
                _ => write!(f, "{letter}")?,
            }
        }
        f.write_str("\"")
    }
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}ms", self.0.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(target: &str) -> String {
        Record {
            method: &Method::GET,
            target,
            host: "shop.dunlin.localhost",
            version: Version::HTTP_2,
            client: [192, 0, 2, 7].into(),
            status: 502,
            code: Some("PC01"),
            bytes_out: 12,
            first_byte: Duration::from_micros(1_250),
            total: Duration::from_millis(3),
            request_id: "01ABC-local",
            trace_id: "4b",
        }
        .to_string()
    }

    #[test]
    fn one_line_tells_it_all() {
        assert_eq!(
            record("/a?b=\"c\""),
            "method=GET path=\"/a?b=\\\"c\\\"\" host=\"shop.dunlin.localhost\" status=502 code=PC01 client=192.0.2.7 \
             protocol=h2 bytes=12 first_byte=1.2ms total=3.0ms request=01ABC-local trace=4b"
        );
    }

    proptest! {
        #[test]
        fn no_target_forges_another_key_or_line(target: String) {
            let line = record(&target);
            prop_assert!(!line.contains(['\n', '\r']));
            let after = line.rsplit_once("\" host=\"shop").unwrap().1;
            prop_assert!(after.contains("status=502"));
            prop_assert!(line.len() < 10 * MAX_TARGET);
        }
    }
}
