//! Layers for tests, entry by entry.

use tar::{EntryType, Header};

/// An archive under way.
pub struct Archive(tar::Builder<Vec<u8>>);

/// One entry for it.
#[derive(Clone)]
pub struct Item {
    path: Vec<u8>,
    link: Vec<u8>,
    header: Header,
    content: Vec<u8>,
    records: Vec<(String, Vec<u8>)>,
}

impl Archive {
    /// An archive of these entries.
    pub fn of(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
        let mut archive = Self(tar::Builder::new(Vec::new()));
        items.into_iter().for_each(|item| archive.add(item));
        archive.0.into_inner().unwrap()
    }

    fn add(&mut self, mut item: Item) {
        for (field, name, record) in [(0..100, item.path, "path"), (157..257, item.link, "linkpath")] {
            if name.len() > 100 {
                item.records.push((record.to_owned(), name));
            } else {
                item.header.as_mut_bytes()[field][..name.len()].copy_from_slice(&name);
            }
        }
        item.header.set_cksum();
        let records = item.records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.0.append_pax_extensions(records).unwrap();
        self.0.append(&item.header, item.content.as_slice()).unwrap();
    }
}

fn item(path: impl AsRef<[u8]>, kind: EntryType) -> Item {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_mode(0o644);
    Item { path: path.as_ref().to_vec(), link: Vec::new(), header, content: Vec::new(), records: Vec::new() }
}

pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Item {
    let mut item = item(path, EntryType::Regular);
    item.header.set_size(content.as_ref().len() as u64);
    item.content = content.as_ref().to_vec();
    item
}

pub fn dir(path: impl AsRef<[u8]>) -> Item {
    item(path, EntryType::Directory).mode(0o755)
}

pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    Item { link: target.as_ref().to_vec(), ..item(path, EntryType::Symlink).mode(0o777) }
}

pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    Item { link: target.as_ref().to_vec(), ..item(path, EntryType::Link) }
}

pub fn fifo(path: impl AsRef<[u8]>) -> Item {
    item(path, EntryType::Fifo)
}

pub fn device(path: impl AsRef<[u8]>, kind: EntryType, major: u32, minor: u32) -> Item {
    let mut item = item(path, kind);
    item.header.set_device_major(major).unwrap();
    item.header.set_device_minor(minor).unwrap();
    item
}

/// The whiteout of `path`.
pub fn whiteout(path: &str) -> Item {
    let (above, name) = path.rsplit_once('/').map_or((String::new(), path), |(a, n)| (format!("{a}/"), n));
    file(format!("{above}.wh.{name}"), "")
}

/// Makes the directory opaque.
pub fn opaque(path: &str) -> Item {
    file(format!("{path}/.wh..wh..opq"), "")
}

impl Item {
    pub fn mode(mut self, mode: u32) -> Self {
        self.header.set_mode(mode);
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.header.set_uid(u64::from(uid));
        self.header.set_gid(u64::from(gid));
        self
    }

    pub fn mtime(mut self, seconds: u64) -> Self {
        self.header.set_mtime(seconds);
        self
    }

    pub fn record(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.records.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.record(&format!("SCHILY.xattr.{name}"), value)
    }

    /// Sets the size field, whatever the content.
    pub fn claimed_size(mut self, size: u64) -> Self {
        self.header.set_size(size);
        self
    }
}
