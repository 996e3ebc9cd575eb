//! Random trees, cut into layers by comparing each with the one before, come back as they were.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::Index};

use super::{
    archive::{Archive, Item, dir, fifo, file, hard_link, opaque, symlink, whiteout},
    image::{Bench, Seen, What},
};
use crate::{
    layers::Compression,
    rootfs::{Limits, examine},
};

/// A tree as it should be: every path with what it is. Directories above a path are in it too.
type Model = BTreeMap<String, Thing>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Thing {
    what: Sort,
    mode: u16,
    owner: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Sort {
    Directory,
    /// Names of the same number are one file.
    File(u32, Vec<u8>),
    Symlink(String),
    Fifo,
}

/// What happens to a tree between two layers.
#[derive(Debug, Clone)]
enum Change {
    Put { path: String, sort: u8, size: usize, mode: u16, owner: u32 },
    Link { target: Index, path: String },
    Remove { target: Index },
    Describe { target: Index, mode: u16 },
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-d]", 1..4).prop_map(|parts| parts.join("/"))
}

fn change() -> impl Strategy<Value = Change> {
    let mode = || 0..0o10000u16;
    prop_oneof![
        6 => (path(), 0..6u8, 0..6000usize, mode(), 0..100_000u32)
            .prop_map(|(path, sort, size, mode, owner)| Change::Put { path, sort, size, mode, owner }),
        2 => (any::<Index>(), path()).prop_map(|(target, path)| Change::Link { target, path }),
        3 => any::<Index>().prop_map(|target| Change::Remove { target }),
        1 => (any::<Index>(), mode()).prop_map(|(target, mode)| Change::Describe { target, mode }),
    ]
}

/// How a layer is written where the format leaves a choice.
#[derive(Debug, Clone, Copy)]
struct Style {
    whiteouts_last: bool,
    opaque: bool,
    dotted: bool,
    compression: Compression,
}

fn style() -> impl Strategy<Value = Style> {
    let compression = prop_oneof![Just(Compression::None), Just(Compression::Gzip), Just(Compression::Zstd)];
    (any::<bool>(), any::<bool>(), any::<bool>(), compression)
        .prop_map(|(whiteouts_last, opaque, dotted, compression)| Style { whiteouts_last, opaque, dotted, compression })
}

fn apply(model: &mut Model, change: &Change, fresh: &mut u32) {
    *fresh += 1;
    match change {
        Change::Put { path, sort, size, mode, owner } => {
            let what = match sort {
                0 | 1 => Sort::Directory,
                2 | 3 => Sort::File(*fresh, (0..*size).map(|n| ((n as u32 * *fresh) >> 3) as u8).collect()),
                4 => Sort::Symlink(format!("../{size}")),
                _ => Sort::Fifo,
            };
            put(model, path, Thing { what, mode: *mode, owner: *owner });
        }
        Change::Link { target, path } => {
            let files: Vec<_> = model.values().filter(|thing| matches!(thing.what, Sort::File(..))).collect();
            if let Some(thing) = (!files.is_empty()).then(|| (*target.get(&files)).clone()) {
                put(model, path, thing);
            }
        }
        Change::Remove { target } => {
            let paths: Vec<_> = model.keys().cloned().collect();
            if !paths.is_empty() {
                let path: &String = target.get(&paths);
                remove(model, path);
            }
        }
        Change::Describe { target, mode } => {
            // Files with several names would have to be written again under all of them.
            let mut things: Vec<_> = model.values_mut().filter(|t| !matches!(t.what, Sort::File(..))).collect();
            if !things.is_empty() {
                let index = target.index(things.len());
                things[index].mode = *mode;
            }
        }
    }
}

fn put(model: &mut Model, path: &str, thing: Thing) {
    for (at, _) in path.match_indices('/') {
        let above = model.get(&path[..at]);
        if above.is_none_or(|thing| thing.what != Sort::Directory) {
            remove(model, &path[..at]);
            model.insert(path[..at].to_owned(), Thing { what: Sort::Directory, mode: 0o755, owner: 0 });
        }
    }
    let stays = |model: &Model| model.get(path).is_some_and(|t| t.what == Sort::Directory && thing.what == t.what);
    if !stays(model) {
        remove(model, path);
    }
    model.insert(path.to_owned(), thing);
}

fn remove(model: &mut Model, path: &str) {
    let below = format!("{path}/");
    model.retain(|other, _| other != path && !other.starts_with(&below));
}

/// The layer that makes `after` out of `before`.
fn difference(before: &Model, after: &Model, style: Style) -> Vec<u8> {
    let (mut whiteouts, mut covered) = (Vec::new(), BTreeSet::new());
    for (path, thing) in before.iter().filter(|(path, _)| !after.contains_key(*path)) {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        let gone_above = !above.is_empty() && after.get(above).is_none_or(|thing| thing.what != Sort::Directory);
        if !gone_above && covered.insert(path.clone()) {
            let _ = thing;
            whiteouts.push(whiteout(path));
        }
    }
    let mut written: BTreeMap<u32, String> = BTreeMap::new();
    // Files that lie below under a name that stays can be linked to.
    for (path, thing) in after {
        if let Sort::File(number, _) = thing.what
            && before.get(path) == Some(thing)
        {
            written.insert(number, path.clone());
        }
    }
    let mut entries = Vec::new();
    for (path, thing) in after.iter().filter(|(path, thing)| before.get(*path) != Some(thing)) {
        let shown = if style.dotted { format!("./{path}") } else { path.clone() };
        // A directory that loses everything it had may say so once.
        let replaced = before.keys().any(|old| old.starts_with(&format!("{path}/")));
        let kept = after.keys().any(|new| new.starts_with(&format!("{path}/")) && before.get(new) == after.get(new));
        if style.opaque && thing.what == Sort::Directory && replaced && !kept {
            whiteouts.push(opaque(&shown));
        }
        entries.push(entry(shown, path, thing, &mut written));
    }
    let (first, second) = if style.whiteouts_last { (entries, whiteouts) } else { (whiteouts, entries) };
    Archive::of(first.into_iter().chain(second))
}

fn entry(shown: String, path: &str, thing: &Thing, written: &mut BTreeMap<u32, String>) -> Item {
    let item = match &thing.what {
        Sort::Directory => dir(format!("{shown}/")),
        Sort::Symlink(target) => symlink(shown, target),
        Sort::Fifo => fifo(shown),
        Sort::File(number, content) => match written.get(number) {
            Some(target) => hard_link(shown, target),
            None => {
                written.insert(*number, path.to_owned());
                file(shown, content)
            }
        },
    };
    item.mode(u32::from(thing.mode)).owner(thing.owner, 7)
}

/// The image in the model's words; also checks that names of one file share it.
fn in_model(seen: &Seen, model: &Model) -> Model {
    let mut inodes: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let mut read = Model::new();
    for (path, node) in seen.iter().filter(|(path, _)| *path != "/") {
        let path = path[1..].to_owned();
        let what = match (&node.what, model.get(&path).map(|thing| &thing.what)) {
            (What::File(content), Some(Sort::File(number, _))) => {
                inodes.entry(*number).or_default().insert(node.inode);
                Sort::File(*number, content.clone())
            }
            (What::File(content), _) => Sort::File(0, content.clone()),
            (What::Symlink(target), _) => Sort::Symlink(target.clone()),
            (What::Fifo, _) => Sort::Fifo,
            _ => Sort::Directory,
        };
        read.insert(path, Thing { what, mode: node.mode, owner: node.owner.0 });
    }
    assert!(inodes.values().all(|shared| shared.len() == 1), "names of one file share an inode");
    let distinct: BTreeSet<_> = inodes.values().flatten().collect();
    assert_eq!(distinct.len(), inodes.len(), "names of different files do not");
    read
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn layers_flatten_to_the_tree_they_were_made_from(
        steps in prop::collection::vec((prop::collection::vec(change(), 0..25), style()), 1..6)
    ) {
        let (mut bench, mut model, mut fresh) = (Bench::new(), Model::new(), 0);
        for (changes, style) in &steps {
            let before = model.clone();
            changes.iter().for_each(|change| apply(&mut model, change, &mut fresh));
            bench.push(&difference(&before, &model, *style), style.compression);
        }
        let seen = bench.see();
        prop_assert_eq!(in_model(&seen, &model), model);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = examine(&[&bytes], &Limits::default());
    }

    #[test]
    fn a_damaged_archive_is_refused_or_read(
        changes in prop::collection::vec(change(), 1..10), at: Index, byte: u8, cut: Index
    ) {
        let (mut model, mut fresh) = (Model::new(), 0);
        changes.iter().for_each(|change| apply(&mut model, change, &mut fresh));
        let style = Style { whiteouts_last: false, opaque: false, dotted: false, compression: Compression::None };
        let mut archive = difference(&Model::new(), &model, style);
        let place = at.index(archive.len());
        archive[place] = byte;
        let _ = examine(&[&archive], &Limits::default());
        let _ = examine(&[&archive[..cut.index(archive.len())]], &Limits::default());
    }
}
