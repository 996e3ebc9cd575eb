//! What a Dockerfile says about running its image: the ports and volumes of the stage that is built, and the images
//! it is based on. Only what can be known without building is known: a variable without a value stays unknown.

use std::collections::BTreeMap;

/// What a Dockerfile says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The TCP ports it exposes, in order.
    pub ports: Vec<u16>,
    /// The directories it declares as volumes.
    pub volumes: Vec<String>,
    /// The images that its stages are based on, as written.
    pub bases: Vec<String>,
}

/// The port of an app whose Dockerfile exposes none.
pub const DEFAULT_PORT: u16 = 8080;

impl Scan {
    /// The port that the app most likely listens on: the first it exposes, else [`DEFAULT_PORT`].
    pub fn port(&self) -> u16 {
        self.ports.first().copied().unwrap_or(DEFAULT_PORT)
    }
}

type Variables = BTreeMap<String, String>;

/// A build stage.
#[derive(Debug, Clone, Default)]
struct Stage {
    name: String,
    ports: Vec<u16>,
    volumes: Vec<String>,
    variables: Variables,
}

/// Reads a Dockerfile. `args` are the build arguments that will be given, `target` the stage that will be built.
pub fn scan(text: &str, args: &Variables, target: Option<&str>) -> Scan {
    let mut global = Variables::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut bases = Vec::new();
    for (instruction, rest) in instructions(text) {
        match (instruction.as_str(), stages.last_mut()) {
            ("ARG", None) => declare(&mut global, &Variables::new(), args, &rest),
            ("FROM", _) => {
                let (base, stage) = from(&rest, &global, &stages);
                bases.extend(base);
                stages.push(stage);
            }
            ("ARG", Some(stage)) => declare(&mut stage.variables, &global, args, &rest),
            ("ENV", Some(stage)) => set(&mut stage.variables, &rest),
            ("EXPOSE", Some(stage)) => stage.expose(&rest),
            ("VOLUME", Some(stage)) => stage.volume(&rest),
            _ => {}
        }
    }
    let wanted = target.and_then(|target| stages.iter().position(|stage| stage.name.eq_ignore_ascii_case(target)));
    let built = wanted.map(|index| stages.swap_remove(index)).or_else(|| stages.pop()).unwrap_or_default();
    Scan { ports: built.ports, volumes: built.volumes, bases }
}

impl Stage {
    fn expose(&mut self, rest: &str) {
        for word in words(&substituted(rest, &self.variables)) {
            let (ports, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
            let first = ports.split_once('-').map_or(ports, |(first, _)| first);
            if let Some(port) = first.parse().ok().filter(|port| *port > 0 && protocol.eq_ignore_ascii_case("tcp")) {
                self.ports.push(port);
            }
        }
    }

    fn volume(&mut self, rest: &str) {
        let rest = substituted(rest, &self.variables);
        let paths = serde_json::from_str::<Vec<String>>(&rest).unwrap_or_else(|_| words(&rest));
        self.volumes.extend(paths.into_iter().filter(|path| path.starts_with('/')));
    }
}

/// A new stage, and the image it is based on unless that is an earlier stage.
fn from(rest: &str, global: &Variables, stages: &[Stage]) -> (Option<String>, Stage) {
    let words: Vec<String> =
        words(&substituted(rest, global)).into_iter().filter(|word| !word.starts_with("--")).collect();
    let base = words.first().cloned().unwrap_or_default();
    let name = match words.get(1) {
        Some(word) if word.eq_ignore_ascii_case("as") => words.get(2).cloned().unwrap_or_default(),
        _ => String::new(),
    };
    match stages.iter().find(|stage| !stage.name.is_empty() && stage.name.eq_ignore_ascii_case(&base)) {
        Some(earlier) => (None, Stage { name, ..earlier.clone() }),
        None => (Some(base).filter(|base| base != "scratch" && !base.is_empty()), Stage { name, ..Stage::default() }),
    }
}

/// `ARG name[=default] …`: what is given goes before the default, and that before what stands above the first stage.
fn declare(variables: &mut Variables, global: &Variables, args: &Variables, rest: &str) {
    for word in words(rest) {
        let (name, default) =
            word.split_once('=').map_or((word.as_str(), None), |(name, default)| (name, Some(default)));
        let default = default.map(|default| substituted(default, variables));
        if let Some(value) = args.get(name).cloned().or(default).or_else(|| global.get(name).cloned()) {
            variables.insert(name.to_owned(), value);
        }
    }
}

/// `ENV name=value …`, or the older `ENV name value`.
fn set(variables: &mut Variables, rest: &str) {
    let before = variables.clone();
    let pairs = words(rest);
    if pairs.first().is_some_and(|word| word.contains('=')) {
        for (name, value) in pairs.iter().filter_map(|word| word.split_once('=')) {
            variables.insert(name.to_owned(), substituted(value, &before));
        }
    } else if let Some((name, value)) = rest.split_once(char::is_whitespace) {
        variables.insert(name.to_owned(), substituted(value.trim(), &before));
    }
}

/// Instructions in upper case with what follows them: continued lines joined, comments and here-documents left out.
fn instructions(text: &str) -> Vec<(String, String)> {
    let escape = escape(text);
    let mut found = Vec::new();
    let mut lines = text.trim_start_matches('\u{feff}').lines();
    while let Some(line) = lines.next() {
        let mut whole = line.trim().to_owned();
        if whole.is_empty() || whole.starts_with('#') {
            continue;
        }
        while whole.ends_with(escape) {
            whole.pop();
            match lines.find(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
                Some(next) => whole.push_str(next.trim_end()),
                None => break,
            }
        }
        let (instruction, rest) = whole.split_once(char::is_whitespace).unwrap_or((&whole, ""));
        let instruction = instruction.to_ascii_uppercase();
        if matches!(instruction.as_str(), "RUN" | "COPY" | "ADD") {
            for end in here_documents(rest) {
                lines.find(|line| line.trim_start_matches('\t') == end);
            }
        }
        found.push((instruction, rest.trim().to_owned()));
    }
    found
}

/// The character that continues a line: the first comment may name another.
fn escape(text: &str) -> char {
    let directives = text.trim_start_matches('\u{feff}').lines().take_while(|line| line.trim_start().starts_with('#'));
    let escape =
        directives.filter_map(|line| line.trim_start_matches(['#', ' ']).split_once('=')).find_map(|(name, value)| {
            name.trim().eq_ignore_ascii_case("escape").then(|| value.trim().chars().next()).flatten()
        });
    escape.unwrap_or('\\')
}

/// The words that end the here-documents of a line.
fn here_documents(rest: &str) -> Vec<String> {
    let after = rest.split("<<").skip(1);
    let word = |text: &str| {
        let text = text.strip_prefix('-').unwrap_or(text).trim_start_matches(['"', '\'']);
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
    };
    after.map(word).filter(|word| !word.is_empty() && !word.starts_with(|c: char| c.is_ascii_digit())).collect()
}

/// Splits at white space outside of quotes, and takes the quotes away.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Puts values in for `$name`, `${name}`, `${name:-default}` and `${name:+other}`. An unknown name stays as it is.
fn substituted(text: &str, variables: &Variables) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        let (name, fallback, length) = reference(&rest[dollar..]);
        let value = variables.get(name).cloned();
        let value = match fallback {
            Some(('-', other)) => value.filter(|value| !value.is_empty()).or_else(|| Some(other.to_owned())),
            Some((_, other)) => Some(value.map_or_else(String::new, |_| other.to_owned())),
            None => value,
        };
        match value {
            Some(value) => result.push_str(&value),
            None => result.push_str(&rest[dollar..dollar + length]),
        }
        rest = &rest[dollar + length..];
    }
    result.push_str(rest);
    result
}

/// The name after a `$`, what stands in its place (`-` if it has no value, `+` if it has one), and the length of it all.
fn reference(text: &str) -> (&str, Option<(char, &str)>, usize) {
    let letters = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if let Some(inner) = text.strip_prefix("${").and_then(|rest| rest.split_once('}')).map(|(inner, _)| inner) {
        let (name, modifier) = inner.split_at(letters(inner));
        let mut characters = modifier.strip_prefix(':').unwrap_or(modifier).chars();
        let fallback = characters.next().filter(|c| matches!(c, '-' | '+')).map(|kind| (kind, characters.as_str()));
        return (name, fallback, inner.len() + 3);
    }
    let length = letters(&text[1..]);
    (&text[1..=length], None, length + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(text: &str) -> Scan {
        scan(text, &Variables::new(), None)
    }

    #[test]
    fn ports_and_volumes_are_those_of_the_stage_that_is_built() {
        let text = "\
# syntax=docker/dockerfile:1
ARG VERSION=1.2
FROM rust:$VERSION AS build
EXPOSE 1
FROM debian:${TAG:-12} as base
ENV PORT=3000 OTHER='a b'
VOLUME [\"/data\", \"/cache\"]
FROM base
ARG EXTRA=9000
expose $PORT/tcp ${EXTRA} 53/udp \\
  # a comment in between
  8000-8010
VOLUME /logs relative
";
        let found = plain(text);
        assert_eq!(found.ports, [3000, 9000, 8000]);
        assert_eq!(found.volumes, ["/data", "/cache", "/logs"]);
        assert_eq!(found.bases, ["rust:1.2", "debian:12"]);
        assert_eq!(scan(text, &Variables::new(), Some("build")).ports, [1]);
        let given = Variables::from([("EXTRA".to_owned(), "9001".to_owned()), ("VERSION".to_owned(), "2".to_owned())]);
        let found = scan(text, &given, None);
        assert_eq!((found.ports, found.bases[0].as_str()), (vec![3000, 9001, 8000], "rust:2"));
    }

    #[test]
    fn a_script_inside_the_dockerfile_is_not_read() {
        let text = "FROM alpine\nRUN <<EOF cat\nEXPOSE 1\nEOF\nCOPY <<-\"END\" /x\n\tEXPOSE 2\n\tEND\nEXPOSE 3\n";
        assert_eq!(plain(text).ports, [3]);
    }

    #[test]
    fn what_cannot_be_known_falls_back() {
        for text in [
            "",
            "FROM scratch",
            "FROM a\nEXPOSE $UNKNOWN",
            "FROM a\nEXPOSE 53/udp",
            "EXPOSE 80",
            "FROM a\nEXPOSE 0 70000",
        ] {
            assert_eq!(plain(text).port(), DEFAULT_PORT, "{text}");
        }
        assert_eq!(plain("FROM a\nENV P 81\nEXPOSE $P").port(), 81);
        assert_eq!(plain("# escape=`\nFROM a\nEXPOSE `\n 82").port(), 82);
        assert_eq!(plain("FROM a\nARG P\nEXPOSE ${P:-83}").port(), 83);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = plain(&text);
        }

        #[test]
        fn no_instruction_makes_it_panic(rest in "[ -~ä]{0,40}", name in "(FROM|ARG|ENV|EXPOSE|VOLUME|RUN)") {
            let _ = plain(&format!("FROM a\n{name} {rest}\nEXPOSE {rest}"));
        }
    }
}
