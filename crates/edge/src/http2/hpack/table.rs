//! The two tables of HPACK (RFC 7541, 2.3 and appendix A).

use std::collections::VecDeque;

/// The table that everybody knows; its first entry is number 1.
pub const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
/// How many bytes the other table holds: what both sides begin with.
pub const SIZE: usize = 4096;
/// What an entry takes beside its text (RFC 7541, 4.1).
pub const OVERHEAD: usize = 32;

/// A field that was sent or received before.
#[derive(Debug)]
pub struct Entry<T> {
    /// Its name, and its value behind it.
    text: Box<[u8]>,
    name: usize,
    /// What else is known of it.
    pub mark: T,
}

impl<T> Entry<T> {
    /// A field: its name, and its value behind it.
    pub fn new(text: &[u8], name: usize, mark: T) -> Self {
        Self { text: text.into(), name, mark }
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.text[..self.name]
    }

    /// Its name, and its value behind it.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    fn size(&self) -> usize {
        self.text.len() + OVERHEAD
    }
}

/// The table that is filled. The newest entry is its first.
#[derive(Debug)]
pub struct Table<T> {
    entries: VecDeque<Entry<T>>,
    size: usize,
    /// How many bytes it holds at most.
    pub max: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, max: SIZE }
    }
}

impl<T> Table<T> {
    /// The entry that came so many entries ago.
    pub fn get(&self, age: usize) -> Option<&Entry<T>> {
        self.entries.get(age)
    }

    /// All, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.iter()
    }

    /// Adds an entry; the oldest ones make room for it. One that is too large empties the table (RFC 7541, 4.4).
    pub fn add(&mut self, entry: Entry<T>) {
        self.shrink(self.max.saturating_sub(entry.size()));
        if entry.size() <= self.max {
            self.size += entry.size();
            self.entries.push_front(entry);
        }
    }

    /// Holds no more than this from now on.
    pub fn resize(&mut self, max: usize) {
        self.max = max;
        self.shrink(max);
    }

    fn shrink(&mut self, to: usize) {
        while self.size > to {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.size();
        }
    }
}
