//! Which content coding a client likes best (RFC 9110, 12.5.3).

use http::header;

use crate::http1::Fields;

/// A content coding that the edge can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, which HTTP calls deflate.
    Deflate,
}

/// All of them, the best one first.
const BEST_FIRST: [Coding; 4] = [Coding::Zstd, Coding::Brotli, Coding::Gzip, Coding::Deflate];

/// How much a client likes something, in thousandths.
type Weight = u16;

impl Coding {
    /// Its name on the wire.
    pub fn token(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// The one that the client likes best; of those it likes equally, the best one. `None` if it wants none of them, or
    /// says that it likes the bytes as they are better.
    pub fn preferred(fields: &Fields) -> Option<Self> {
        let accepted = Accepted::of(fields)?;
        let weight = BEST_FIRST.iter().map(|coding| accepted.of_coding(*coding)).max()?;
        let best = BEST_FIRST.into_iter().find(|coding| accepted.of_coding(*coding) == weight)?;
        (weight > 0 && accepted.identity.is_none_or(|identity| identity <= weight)).then_some(best)
    }

    fn is_named(self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.token()) || (self == Self::Gzip && name.eq_ignore_ascii_case("x-gzip"))
    }
}

/// What a client says, of what matters here.
#[derive(Default)]
struct Accepted {
    codings: [Option<Weight>; BEST_FIRST.len()],
    identity: Option<Weight>,
    /// All that is not named.
    rest: Option<Weight>,
}

impl Accepted {
    /// What the request says, if it says anything.
    fn of(fields: &Fields) -> Option<Self> {
        let mut lists = fields.all(&header::ACCEPT_ENCODING).peekable();
        lists.peek()?;
        let mut accepted = Self::default();
        lists.for_each(|list| accepted.hear(std::str::from_utf8(list).unwrap_or_default()));
        Some(accepted)
    }

    fn hear(&mut self, list: &str) {
        for (name, weight) in list.split(',').filter_map(item) {
            match BEST_FIRST.iter().position(|coding| coding.is_named(name)) {
                Some(index) => self.codings[index] = Some(weight),
                None if name == "*" => self.rest = Some(weight),
                None if name.eq_ignore_ascii_case("identity") => self.identity = Some(weight),
                None => {}
            }
        }
    }

    fn of_coding(&self, coding: Coding) -> Weight {
        let index = BEST_FIRST.iter().position(|it| *it == coding).unwrap_or_default();
        self.codings[index].or(self.rest).unwrap_or(0)
    }
}

/// `name` or `name;q=0.5`. An item that breaks the rules says nothing.
fn item(item: &str) -> Option<(&str, Weight)> {
    let (name, parameter) = item.split_once(';').map_or((item, None), |(name, rest)| (name, Some(rest.trim())));
    let name = name.trim();
    let weight = parameter.map_or(Some(1000), |parameter| {
        let value = parameter.strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?;
        weight(value.trim())
    })?;
    (!name.is_empty()).then_some((name, weight))
}

/// `0`, `1`, or either with up to three digits after the dot, not above 1.
fn weight(text: &str) -> Option<Weight> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths: Weight = format!("{part:0<3}").parse().ok().filter(|_| digits)?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    fn preferred(accept: &str) -> Option<&'static str> {
        let headers = [(header::ACCEPT_ENCODING, accept.parse().unwrap())].into_iter().collect();
        Coding::preferred(&Fields::Map(headers)).map(Coding::token)
    }

    #[test]
    fn the_client_weighs_and_we_decide_what_is_even() {
        for (accept, coding) in [
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip, deflate, br", Some("br")),
            ("GZIP;q=0.5, deflate;q=0.8", Some("deflate")),
            ("x-gzip", Some("gzip")),
            ("br;q=0, *", Some("zstd")),
            ("zstd;q=0,br;q=0,*;q=0.1", Some("gzip")),
            ("*;q=0", None),
            ("identity", None),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip", Some("gzip")),
            ("gzip;q=0", None),
            ("gzip;q=0.000", None),
            ("gzip;q=1.5, br;q=0.001", Some("br")),
            ("gzip;q=x, br ; Q = 1.000", Some("br")),
            ("gzip;level=9", None),
            ("compress, snappy", None),
            ("", None),
            (",,;q=1", None),
        ] {
            assert_eq!(preferred(accept), coding, "{accept}");
        }
        assert_eq!(Coding::preferred(&Fields::Map(HeaderMap::new())), None);
    }

    #[test]
    fn several_lines_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
        headers.append(header::ACCEPT_ENCODING, "br".parse().unwrap());
        assert_eq!(Coding::preferred(&Fields::Map(headers)), Some(Coding::Brotli));
    }

    proptest! {
        #[test]
        fn nothing_is_chosen_that_was_not_accepted(accept in "[a-z*;=q0-9., \t-]{0,60}") {
            if let Some(coding) = preferred(&accept) {
                prop_assert!(accept.contains(coding) || accept.contains('*'));
            }
        }
    }
}
