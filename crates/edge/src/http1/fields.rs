//! The fields of a message: as they came, or as a map.
//!
//! ```text
//!  head │ HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: "1"\r\n\r\n │  read once, shared by none
//!         Listed ─▶           └────┬─────┘  └───┬───┘    └┬┘   └┬┘         places in it
//! ```
//!
//! Most messages pass with hardly a field changed. They are kept as places in the head that was read: nothing is copied,
//! hashed or counted until somebody has to change what a list cannot, who makes a map of it.

use std::iter;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::head::BadHead;

/// The fields of a message.
#[derive(Debug, Clone)]
pub enum Fields {
    /// As they came.
    Came(Listed),
    /// By name.
    Map(HeaderMap),
}

impl Fields {
    /// Shows each name and its value. Those that came are in the case that they came in.
    pub fn each<'a>(&'a self, mut see: impl FnMut(&'a [u8], &'a [u8])) {
        match self {
            Self::Came(listed) => listed.iter().for_each(|(name, value)| see(name, value)),
            Self::Map(map) => map.iter().for_each(|(name, value)| see(name.as_str().as_bytes(), value.as_bytes())),
        }
    }

    /// The same, each with the line that says so in HTTP/1.1 if it came in one.
    pub fn each_line<'a>(&'a self, mut see: impl FnMut(&'a [u8], &'a [u8], Option<&'a [u8]>)) {
        match self {
            Self::Came(listed) => listed.places.iter().for_each(|place| {
                see(listed.at(place.name), listed.at(place.value), listed.line(place));
            }),
            Self::Map(_) => self.each(|name, value| see(name, value, None)),
        }
    }

    /// The values of all of this name.
    pub fn all<'a, 'n>(&'a self, name: &'n HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let (mut came, mut mapped) = match self {
            Self::Came(listed) => (Some(listed.all(name)), None),
            Self::Map(map) => (None, Some(map.get_all(name).into_iter())),
        };
        iter::from_fn(move || match &mut came {
            Some(came) => came.next(),
            None => mapped.as_mut()?.next().map(HeaderValue::as_bytes),
        })
    }

    /// The value of the first one of this name.
    pub fn first(&self, name: &HeaderName) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// Takes out all of this name.
    pub fn remove(&mut self, name: &HeaderName) {
        match self {
            Self::Came(listed) => listed.retain(|it| !it.eq_ignore_ascii_case(name.as_str().as_bytes())),
            Self::Map(map) => drop(map.remove(name)),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Came(listed) => listed.places.len(),
            Self::Map(map) => map.len(),
        }
    }

    /// The map of them, from here on.
    pub fn map_mut(&mut self) -> &mut HeaderMap {
        if let Self::Came(listed) = self {
            *self = Self::Map(listed.to_map());
        }
        match self {
            Self::Map(map) => map,
            Self::Came(_) => unreachable!("it was made a map"),
        }
    }

    /// The map of them.
    pub fn into_map(self) -> HeaderMap {
        match self {
            Self::Came(listed) => listed.to_map(),
            Self::Map(map) => map,
        }
    }
}

/// Fields as places in the head that they came in.
#[derive(Debug, Clone)]
pub struct Listed {
    head: Bytes,
    places: Vec<Place>,
    /// The marks of the names that are there. Most names that are asked for are not, which this tells at once.
    marks: u64,
}

/// Where a name and its value begin, and how long they are.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Of its name.
    pub name: (u32, u32),
    /// Of its value.
    pub value: (u32, u32),
}

/// The places of fields in a head.
#[derive(Debug)]
pub struct Places(Vec<Place>);

impl Places {
    /// Where the fields are that were parsed in `head`.
    pub fn of(head: &[u8], parsed: &[httparse::Header<'_>]) -> Result<Self, BadHead> {
        let place = |field: &httparse::Header<'_>| {
            // What no map could hold is refused here, so that one can be made at any time.
            let is_name = field.name.len() < usize::from(u16::MAX);
            let place = Place { name: place_in(head, field.name.as_bytes())?, value: place_in(head, field.value)? };
            is_name.then_some(place)
        };
        let mut places = Vec::with_capacity(parsed.len());
        for field in parsed {
            places.push(place(field).ok_or(BadHead::from(httparse::Error::HeaderName))?);
        }
        Ok(Self(places))
    }

    /// The fields, with the head that they are in.
    pub fn in_head(self, head: Bytes) -> Listed {
        Listed::new(head, self.0)
    }
}

impl Listed {
    /// Fields that are names and values where these places are in `head`.
    pub fn new(head: Bytes, places: Vec<Place>) -> Self {
        let marks = places.iter().fold(0, |marks, place| marks | mark(at(&head, place.name)));
        Self { head, places, marks }
    }

    /// Each name, in the case that it came in, and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.places.iter().map(|place| (self.at(place.name), self.at(place.value)))
    }

    /// The values of all of this name.
    pub fn all<'a, 'n>(&'a self, name: &'n HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let name = name.as_str().as_bytes();
        let places = if self.marks & mark(name) == 0 { &[][..] } else { &self.places };
        let named = places.iter().filter(move |place| self.at(place.name).eq_ignore_ascii_case(name));
        named.map(|place| self.at(place.value))
    }

    /// Keeps those whose names are to be kept.
    pub fn retain(&mut self, keeps: impl Fn(&[u8]) -> bool) {
        let head = &self.head;
        self.places.retain(|place| keeps(at(head, place.name)));
    }

    fn at(&self, place: (u32, u32)) -> &[u8] {
        at(&self.head, place)
    }

    /// The line of a field, if it is one as we would write it: whole lines are moved faster than their parts.
    fn line(&self, Place { name, value }: &Place) -> Option<&[u8]> {
        if value.0 != name.0 + name.1 + 2 {
            return None;
        }
        let line = self.head.get(name.0 as usize..(value.0 + value.1) as usize + 2)?;
        (line[name.1 as usize..].starts_with(b": ") && line.ends_with(b"\r\n")).then_some(line)
    }

    fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.places.len() + ADDED);
        for place in &self.places {
            let name = HeaderName::from_bytes(self.at(place.name)).expect("a name was read");
            let value = self.head.slice(place.value.0 as usize..(place.value.0 + place.value.1) as usize);
            map.append(name, HeaderValue::from_maybe_shared(value).expect("a value was read"));
        }
        map
    }
}

/// How many fields the edge adds to an answer.
const ADDED: usize = 4;

/// One bit of 64 for a name, the same in any case.
fn mark(name: &[u8]) -> u64 {
    let first = name.first().map_or(0, |letter| letter | 0x20);
    1 << ((first as usize ^ (name.len() << 2)) & 63)
}

fn at(head: &Bytes, (begin, length): (u32, u32)) -> &[u8] {
    &head[begin as usize..][..length as usize]
}

/// Where a part of a head is in it: where it begins and how long it is. An empty one is nowhere in particular.
pub fn place_in(head: &[u8], part: &[u8]) -> Option<(u32, u32)> {
    if part.is_empty() {
        return Some((0, 0));
    }
    let begin = (part.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
    (begin + part.len() <= head.len()).then_some(())?;
    Some((u32::try_from(begin).ok()?, u32::try_from(part.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(text: String) -> Option<Listed> {
        let head = Bytes::from(text);
        let mut fields = [httparse::EMPTY_HEADER; 16];
        match httparse::parse_headers(&head, &mut fields) {
            Ok(httparse::Status::Complete((_, parsed))) => Some(Places::of(&head, parsed).ok()?.in_head(head.clone())),
            _ => None,
        }
    }

    #[test]
    fn a_list_and_its_map_say_the_same() {
        let mut fields = Fields::Came(listed("A: 1\r\nb:\r\nA:  2\r\nX-C: d e\r\n\r\n".into()).unwrap());
        let seen = |fields: &Fields| {
            let mut seen = Vec::new();
            fields.each(|name, value| seen.push((name.to_ascii_lowercase(), value.to_vec())));
            seen.sort();
            seen
        };
        let before = seen(&fields);
        assert_eq!((before.len(), fields.count()), (4, 4));
        assert_eq!(fields.map_mut()["x-c"], "d e");
        assert_eq!(seen(&fields), before);
    }

    proptest! {
        #[test]
        fn whatever_can_be_parsed_can_be_made_a_map_and_written_in_whole_lines(names in prop::collection::vec("[!-~]{1,8}", 0..8), value in "[ -~\u{80}-\u{ff}\t]{0,20}") {
            let said = value;
            let text: String = names.iter().map(|name| format!("{name}: {said}\r\n")).collect();
            if let Some(listed) = listed(text + "\r\n") {
                let count = listed.iter().count();
                let fields = Fields::Came(listed);
                let mut lines = 0;
                fields.each_line(|name, value, line| {
                    assert!(line.is_none_or(|line| line == [name, b": ", value, b"\r\n"].concat()));
                    assert!(line.is_some() || value.is_empty() || value != said.as_bytes());
                    lines += 1;
                });
                prop_assert_eq!(lines, count);
                let map = fields.clone().into_map();
                prop_assert_eq!(map.len(), count);
                for name in map.keys() {
                    prop_assert!(fields.all(name).eq(map.get_all(name).iter().map(HeaderValue::as_bytes)));
                }
            }
        }
    }
}
