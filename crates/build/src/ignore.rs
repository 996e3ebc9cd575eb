//! `.dockerignore`: which files of a directory the build does not see.
//!
//! The rules are Docker's. One pattern a line; the last one that matches a path, or a directory above it, decides; a
//! leading `!` brings back. `*` and `?` stop at a slash, `**` does not, `[a-z]` is one of several characters, `\`
//! takes the next character as it is. A pattern is run as a small automaton, so no pattern takes long on any path.

use std::path::{Component, Path};

use crate::BuildError;

/// The patterns of an ignore file, in order.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    brings_back: bool,
    tokens: Vec<Token>,
}

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This character.
    Char(char),
    /// One character that is not a slash.
    One,
    /// Characters that are not slashes.
    Star,
    /// Any number of directories, each with its slash.
    Directories,
    /// Everything that follows.
    Rest,
    /// One of several characters, or none of them.
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// Longer lists are not ignore files.
const MAX_PATTERNS: usize = 10_000;

impl Ignore {
    /// Reads an ignore file; `path` is told where a line is wrong.
    ///
    /// # Errors
    /// At the first line that is not a pattern.
    pub fn parse(text: &str, path: &Path) -> Result<Self, BuildError> {
        let mut patterns = Vec::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.lines().enumerate() {
            let wrong = |reason| BuildError::Ignore {
                path: path.to_owned(),
                line: index + 1,
                pattern: line.chars().take(200).collect(),
                reason,
            };
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (brings_back, glob) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            if line == "!" {
                return Err(wrong("`!` alone brings nothing back"));
            }
            if patterns.len() == MAX_PATTERNS {
                return Err(wrong("there are more than 10000 patterns"));
            }
            let glob = cleaned(glob);
            if !glob.is_empty() {
                patterns.push(Pattern { brings_back, tokens: tokens(&glob).map_err(wrong)? });
            }
        }
        Ok(Self { patterns })
    }

    /// Whether the build does not see this path, which is relative to the context and has slashes between its parts.
    pub fn ignores(&self, path: &str) -> bool {
        let prefixes: Vec<&str> =
            path.match_indices('/').map(|(slash, _)| &path[..slash]).chain(std::iter::once(path)).collect();
        let decides = |pattern: &&Pattern| prefixes.iter().any(|prefix| pattern.matches(prefix));
        self.patterns.iter().rev().find(decides).is_some_and(|pattern| !pattern.brings_back)
    }

    /// Whether something below an ignored directory may be brought back, so that it must be looked into.
    pub fn brings_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.brings_back)
    }
}

/// The pattern without empty, `.` and resolvable `..` parts, and without slashes around it.
fn cleaned(glob: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for component in Path::new(glob).components() {
        match component {
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir if parts.last().is_some_and(|part| *part != "..") => {
                parts.pop();
            }
            Component::ParentDir if !glob.starts_with('/') => parts.push(".."),
            _ => {}
        }
    }
    parts.join("/")
}

fn tokens(glob: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut rest = glob.chars().peekable();
    while let Some(next) = rest.next() {
        tokens.push(match next {
            '*' if rest.next_if_eq(&'*').is_some() => {
                while rest.next_if_eq(&'*').is_some() {}
                rest.next_if_eq(&'/');
                if rest.peek().is_none() { Token::Rest } else { Token::Directories }
            }
            '*' => Token::Star,
            '?' => Token::One,
            '[' => class(&mut rest)?,
            '\\' => Token::Char(rest.next().ok_or("it ends in a backslash")?),
            other => Token::Char(other),
        });
    }
    Ok(tokens)
}

fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, &'static str> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let first = match rest.next().ok_or("`[` is not closed")? {
            ']' if ranges.is_empty() => return Err("`[]` is empty"),
            ']' => return Ok(Token::Class { negated, ranges }),
            '\\' => rest.next().ok_or("it ends in a backslash")?,
            other => other,
        };
        let last = match rest.next_if_eq(&'-') {
            None => first,
            Some(_) => match rest.next().ok_or("`[` is not closed")? {
                ']' => return Err("a range has no end"),
                '\\' => rest.next().ok_or("it ends in a backslash")?,
                other => other,
            },
        };
        if last < first {
            return Err("a range ends before it begins");
        }
        ranges.push((first, last));
    }
}

impl Pattern {
    /// Runs the pattern over the path; `at[i]` says that the first `i` tokens can have matched what was read so far.
    /// Inside [`Token::Directories`] the automaton is in `within[i]` between two slashes.
    fn matches(&self, path: &str) -> bool {
        let count = self.tokens.len();
        let mut at = vec![false; count + 1];
        let mut within = vec![false; count + 1];
        at[0] = true;
        self.skip_empty(&mut at);
        for c in path.chars() {
            let mut next = vec![false; count + 1];
            let mut next_within = vec![false; count + 1];
            for (index, token) in self.tokens.iter().enumerate() {
                if *token == Token::Directories && (at[index] || within[index]) {
                    next_within[index] = true;
                    next[index + 1] |= c == '/';
                } else if at[index] {
                    match token {
                        Token::Star => next[index] |= c != '/',
                        Token::Rest => next[index] = true,
                        single => next[index + 1] |= single.takes(c),
                    }
                }
            }
            self.skip_empty(&mut next);
            (at, within) = (next, next_within);
        }
        at[count]
    }

    /// Tokens that may stand for nothing.
    fn skip_empty(&self, at: &mut [bool]) {
        for (index, token) in self.tokens.iter().enumerate() {
            if at[index] && matches!(token, Token::Star | Token::Rest | Token::Directories) {
                at[index + 1] = true;
            }
        }
    }
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One => c != '/',
            Self::Class { negated, ranges } => {
                c != '/' && ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *negated
            }
            Self::Star | Self::Directories | Self::Rest => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ignore(text: &str) -> Ignore {
        Ignore::parse(text, Path::new(".dockerignore")).unwrap()
    }

    #[test]
    fn patterns_match_as_docker_documents_them() {
        for (pattern, ignored, kept) in [
            ("*/temp*", &["a/temporary.txt", "a/temp", "a/temp/x"][..], &["temp", "a/b/temp"][..]),
            ("*/*/temp*", &["a/b/temporary.txt"], &["a/temp", "a/b/c/temp"]),
            ("temp?", &["tempa", "tempb/x"], &["temp", "tempab", "temp/"]),
            ("**/*.go", &["a.go", "a/b.go", "a/b/c.go"], &["a.goo"]),
            ("**", &["a", "a/b", ".git/x"], &[]),
            ("a/**", &["a/b", "a/b/c"], &["a", "ab"]),
            ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["a/bz", "az"]),
            ("**foo", &["foo", "a/foo", "a/b/foo/x"], &["afoo"]),
            ("/node_modules/", &["node_modules", "node_modules/a/b"], &["a/node_modules"]),
            ("./x/../y", &["y", "y/z"], &["x"]),
            ("[a-c]x", &["ax", "cx/y"], &["dx", "/x"]),
            ("[^a-c]x", &["dx"], &["ax", "x"]),
            ("a\\*b", &["a*b"], &["axb"]),
            ("../up", &[], &["up"]),
            (".", &[], &["a"]),
            ("# not a comment in the middle\n #x", &["#x"], &["# not a comment in the middle"]),
            ("*.md\n!README.md", &["a.md"], &["README.md"]),
            ("docs\n!docs/keep", &["docs", "docs/a"], &["docs/keep", "docs/keep/b"]),
            ("!a\na", &["a"], &[]),
            ("\u{feff}a\r\nb \r\n", &["a", "b"], &["c"]),
        ] {
            let ignore = ignore(pattern);
            for path in ignored {
                assert!(ignore.ignores(path), "{pattern:?} ignores {path:?}");
            }
            for path in kept {
                assert!(!ignore.ignores(path), "{pattern:?} keeps {path:?}");
            }
        }
    }

    #[test]
    fn a_line_that_is_no_pattern_is_told() {
        for (text, message) in [
            ("ok\n[a", ".dockerignore:2: \"[a\" is not a pattern: `[` is not closed"),
            ("[]", ".dockerignore:1: \"[]\" is not a pattern: `[]` is empty"),
            ("[z-a]", ".dockerignore:1: \"[z-a]\" is not a pattern: a range ends before it begins"),
            ("!", ".dockerignore:1: \"!\" is not a pattern: `!` alone brings nothing back"),
        ] {
            assert_eq!(Ignore::parse(text, Path::new(".dockerignore")).unwrap_err().to_string(), message);
        }
    }

    /// The rules once more, by plain recursion: slow, and right at a glance.
    fn slow(tokens: &[Token], path: &[char]) -> bool {
        let Some((token, rest)) = tokens.split_first() else { return path.is_empty() };
        match token {
            Token::Rest => true,
            Token::Star => {
                (0..=path.len()).take_while(|end| !path[..*end].contains(&'/')).any(|end| slow(rest, &path[end..]))
            }
            Token::Directories => {
                let after_slash = (1..=path.len()).filter(|end| path[end - 1] == '/');
                std::iter::once(0).chain(after_slash).any(|end| slow(rest, &path[end..]))
            }
            single => path.split_first().is_some_and(|(c, path)| single.takes(*c) && slow(rest, path)),
        }
    }

    proptest! {
        #[test]
        fn the_automaton_agrees_with_the_rules(glob in "[ab*?/\\[\\]^.-]{1,8}", path in "[ab/.]{1,8}") {
            let glob = cleaned(&glob);
            if let Ok(tokens) = tokens(&glob) {
                let pattern = Pattern { brings_back: false, tokens: tokens.clone() };
                let characters: Vec<char> = path.chars().collect();
                prop_assert_eq!(pattern.matches(&path), slow(&tokens, &characters), "{:?} on {:?}", glob, path);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text: String, path: String) {
            if let Ok(ignore) = Ignore::parse(&text, Path::new("x")) {
                let _ = ignore.ignores(&path);
            }
        }
    }
}
