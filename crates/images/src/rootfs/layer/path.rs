//! Paths as archives write them, made clean.

/// The longest name of one directory entry (ext4 and Linux).
const MAX_NAME_BYTES: usize = 255;

/// What a path may be.
pub struct PathRules {
    /// Its length in bytes.
    pub max_bytes: usize,
    /// Its number of parts.
    pub max_depth: u16,
}

impl PathRules {
    /// The path without leading, trailing and doubled slashes and without `.` and `..`; empty for the root.
    ///
    /// # Errors
    /// If it leads out of the root, or cannot be stored. The text goes on from "entry …:".
    pub fn clean(&self, path: &[u8]) -> Result<String, String> {
        if path.len() > self.max_bytes {
            return Err(format!("has a path of {} bytes; the limit is {}", path.len(), self.max_bytes));
        }
        if path.contains(&0) {
            return Err("has a path with a zero byte".to_owned());
        }
        let text = std::str::from_utf8(path).map_err(|_| "has a path that is not valid UTF-8; it cannot be stored")?;
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop().ok_or("leads out of the image's root directory")?),
                name if name.len() > MAX_NAME_BYTES => {
                    return Err(format!("has a name of {} bytes; the limit is {MAX_NAME_BYTES}", name.len()));
                }
                name => parts.push(name),
            }
        }
        if parts.len() > usize::from(self.max_depth) {
            return Err(format!("lies {} directories deep; the limit is {}", parts.len(), self.max_depth));
        }
        Ok(parts.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: PathRules = PathRules { max_bytes: 1000, max_depth: 3 };

    #[test]
    fn cleans_what_stays_inside() {
        for (path, clean) in
            [("./a/b/", "a/b"), ("/a//b/./c", "a/b/c"), ("a/../b", "b"), (".", ""), ("", ""), ("a/..", "")]
        {
            assert_eq!(RULES.clean(path.as_bytes()).as_deref(), Ok(clean));
        }
    }

    #[test]
    fn refuses_what_leads_out_or_cannot_be_stored() {
        let (long_name, long_path) = ("x".repeat(256), "x/".repeat(501));
        for path in [
            &b"../a"[..],
            b"a/../../b",
            b"/..",
            b"a\0b",
            b"caf\xe9",
            b"a/b/c/d",
            long_name.as_bytes(),
            long_path.as_bytes(),
        ] {
            assert!(RULES.clean(path).is_err(), "{}", String::from_utf8_lossy(path));
        }
    }
}
