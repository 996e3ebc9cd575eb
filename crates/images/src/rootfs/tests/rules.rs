//! What layers mean.

use tar::EntryType;

use super::{
    archive::{Archive, Item, device, dir, fifo, file, hard_link, opaque, symlink, whiteout},
    image::{Bench, Seen, What, check_filesystem, compress, flatten, see, sha256},
};
use crate::layers::Compression;

fn layer(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
    Archive::of(items)
}

fn content(text: &str) -> What {
    What::File(text.as_bytes().to_vec())
}

/// The paths below the root, in order.
fn paths(seen: &Seen) -> Vec<&str> {
    seen.keys().map(String::as_str).filter(|path| *path != "/").collect()
}

#[test]
fn every_kind_of_entry_keeps_what_it_is() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let seen = flatten([&layer([
        dir("./").mode(0o711).owner(5, 6).mtime(1_234),
        dir("bin").mode(0o1777),
        file("bin/su", "x").mode(0o4755).owner(u32::MAX, 3_000_000_000).mtime(99),
        file("bin/ping", "y").xattr("security.capability", capability).xattr("user.note", "hi"),
        file("future", "").record("mtime", "4294967296.123456789"),
        file("beyond", "").record("mtime", "99999999999999"),
        symlink("link", "/bin/../bin/su"),
        symlink("long", "t/".repeat(150)),
        device("null", EntryType::Char, 1, 3),
        device("disk", EntryType::Block, 259, 70_000),
        fifo("pipe").mode(0o600),
        file("empty", ""),
        file("größe-λ", "utf-8"),
    ])]);
    let root = &seen["/"];
    assert_eq!((root.mode, root.owner, root.mtime.0), (0o711, (5, 6), 1_234));
    assert_eq!(seen["/bin"].mode, 0o1777);
    let su = &seen["/bin/su"];
    assert_eq!((su.mode, su.owner, su.mtime), (0o4755, (u32::MAX, 3_000_000_000), (99, 0)));
    assert_eq!(seen["/bin/ping"].xattrs["security.capability"], capability);
    assert_eq!(seen["/bin/ping"].xattrs["user.note"], b"hi");
    assert_eq!(seen["/future"].mtime, (4_294_967_296, 123_456_789));
    assert_eq!(seen["/beyond"].mtime.0, (1 << 34) - (1 << 31) - 1);
    assert_eq!(seen["/link"].what, What::Symlink("/bin/../bin/su".to_owned()));
    assert_eq!(seen["/long"].what, What::Symlink("t/".repeat(150)));
    assert_eq!(seen["/null"].what, What::Char(1, 3));
    assert_eq!(seen["/disk"].what, What::Block(259, 70_000));
    assert_eq!((&seen["/pipe"].what, seen["/pipe"].mode), (&What::Fifo, 0o600));
    assert_eq!(seen["/empty"].what, content(""));
    assert_eq!(seen["/größe-λ"].what, content("utf-8"));
}

#[test]
fn names_are_cleaned_and_missing_directories_made() {
    let seen = flatten([&layer([file("./a//b/./c", "1"), file("/d/e", "2"), file("f/../g", "3"), dir("h/")])]);
    assert_eq!(paths(&seen), ["/a", "/a/b", "/a/b/c", "/d", "/d/e", "/g", "/h"]);
    assert_eq!((seen["/a/b"].mode, seen["/a/b"].owner, seen["/a/b"].mtime), (0o755, (0, 0), (0, 0)));
}

#[test]
fn a_missing_directory_that_comes_later_gets_its_own_mode_and_keeps_its_files() {
    let seen = flatten([&layer([file("a/b", "1"), dir("a").mode(0o700).owner(7, 7)])]);
    assert_eq!((seen["/a"].mode, seen["/a"].owner), (0o700, (7, 7)));
    assert_eq!(seen["/a/b"].what, content("1"));
}

#[test]
fn long_names_of_every_format_arrive() {
    let name = format!("{}/{}", "d".repeat(255), "f".repeat(255));
    let target = "target/".repeat(40);
    let mut gnu = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    gnu.append_data(&mut header, &name, &b"1"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_entry_type(EntryType::Symlink);
    gnu.append_link(&mut header, "s", &target).unwrap();
    let pax = layer([file(&name, "1"), symlink("s", &target)]);
    let (gnu, pax) = (flatten([&gnu.into_inner().unwrap()]), flatten([&pax]));
    for seen in [gnu, pax] {
        assert_eq!(seen[&format!("/{name}")].what, content("1"));
        assert_eq!(seen["/s"].what, What::Symlink(target.clone()));
    }
}

#[test]
fn the_ustar_prefix_belongs_to_the_name() {
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("{}/{}", "p".repeat(90), "n".repeat(90))).unwrap();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &b""[..]).unwrap();
    let seen = flatten([&builder.into_inner().unwrap()]);
    assert_eq!(seen[&format!("/{}/{}", "p".repeat(90), "n".repeat(90))].what, content(""));
}

#[test]
fn the_last_of_several_entries_of_a_path_counts() {
    let seen = flatten([&layer([
        file("a", "1"),
        file("a", "2"),
        dir("b"),
        file("b/x", ""),
        file("b", "now a file"),
        file("c", ""),
        dir("c"),
        file("c/x", "in"),
    ])]);
    assert_eq!(paths(&seen), ["/a", "/b", "/c", "/c/x"]);
    assert_eq!((&seen["/a"].what, &seen["/b"].what), (&content("2"), &content("now a file")));
}

#[test]
fn upper_layers_replace_what_has_their_path() {
    let lower = layer([
        dir("dir").mode(0o700).xattr("user.a", "1"),
        file("dir/kept", "k"),
        dir("to-file"),
        file("to-file/gone", ""),
        file("to-dir", ""),
        symlink("to-real", "dir"),
        file("implied", ""),
        file("same", "old"),
    ]);
    let upper = layer([
        dir("dir").mode(0o711).xattr("user.b", "2"),
        file("to-file", "file"),
        dir("to-dir"),
        file("to-dir/new", ""),
        dir("to-real"),
        file("implied/by/this", ""),
        file("same", "new"),
    ]);
    let seen = flatten([&lower, &upper]);
    assert_eq!(seen["/dir"].mode, 0o711);
    assert_eq!(seen["/dir"].xattrs.keys().collect::<Vec<_>>(), ["user.b"]);
    assert_eq!(seen["/dir/kept"].what, content("k"));
    assert_eq!(seen["/to-file"].what, content("file"));
    assert_eq!(seen["/to-dir/new"].what, content(""));
    assert_eq!(seen["/to-real"].what, What::Directory);
    assert_eq!(seen["/implied/by"].what, What::Directory);
    assert_eq!(seen["/same"].what, content("new"));
    assert!(!seen.contains_key("/to-file/gone"));
}

#[test]
fn whiteouts_take_away_what_lower_layers_have() {
    let lower = layer([
        file("file", ""),
        dir("tree"),
        file("tree/a", ""),
        file("tree/deep/er", ""),
        file("one", "shared"),
        hard_link("two", "one"),
        dir("stays"),
    ]);
    let upper = layer([
        whiteout("file"),
        whiteout("tree"),
        whiteout("one"),
        whiteout("stays/not-there"),
        whiteout("nowhere/at/all"),
    ]);
    let seen = flatten([&lower, &upper]);
    assert_eq!(paths(&seen), ["/stays", "/two"]);
    assert_eq!(seen["/two"].what, content("shared"));
}

#[test]
fn whiteouts_spare_their_own_layer_wherever_they_stand() {
    let lower = layer([dir("d"), file("d/old", ""), file("f", "old"), dir("o"), file("o/old", "")]);
    let before = [whiteout("d"), whiteout("f"), opaque("o")];
    let entries = || [dir("d"), file("d/new", ""), file("f", "new"), dir("o"), file("o/new", "")];
    let after = [whiteout("d"), whiteout("f"), opaque("o")];
    for upper in [layer(before.into_iter().chain(entries())), layer(entries().into_iter().chain(after))] {
        let seen = flatten([&lower, &upper]);
        assert_eq!(paths(&seen), ["/d", "/d/new", "/f", "/o", "/o/new"]);
        assert_eq!(seen["/f"].what, content("new"));
    }
}

#[test]
fn an_opaque_directory_loses_what_lower_layers_have_but_not_itself() {
    let lowest = layer([dir("o").mode(0o700), file("o/1", ""), file("o/sub/2", "")]);
    let middle = layer([file("o/3", "")]);
    let seen = flatten([&lowest, &middle, &layer([opaque("o"), file("o/4", "")])]);
    assert_eq!(paths(&seen), ["/o", "/o/4"]);
    assert_eq!(seen["/o"].mode, 0o700);
    let seen = flatten([&lowest, &layer([file(".wh..wh..opq", ""), file("alone", "")])]);
    assert_eq!(paths(&seen), ["/alone"]);
}

#[test]
fn files_of_aufs_are_no_part_of_an_image() {
    let seen = flatten([&layer([dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", ""), file("a/.wh..wh.aufs", "")])]);
    assert_eq!(paths(&seen), Vec::<&str>::new());
}

#[test]
fn hard_links_share_their_file_across_layers() {
    let lower = layer([file("a", "1"), hard_link("b", "./a"), symlink("s", "a"), hard_link("t", "s")]);
    let upper = layer([hard_link("sub/c", "/b"), file("a", "2"), hard_link("d", "a"), hard_link("d", "d")]);
    let seen = flatten([&lower, &upper]);
    assert_eq!((&seen["/a"].what, &seen["/b"].what), (&content("2"), &content("1")));
    assert_eq!(seen["/b"].inode, seen["/sub/c"].inode);
    assert_eq!(seen["/a"].inode, seen["/d"].inode);
    assert_ne!(seen["/a"].inode, seen["/b"].inode);
    assert_eq!((seen["/s"].inode, &seen["/t"].what), (seen["/t"].inode, &What::Symlink("a".to_owned())));
}

#[test]
fn a_hard_link_may_replace_the_directory_that_its_target_is_in() {
    let seen = flatten([&layer([dir("d"), file("d/x", "kept"), file("d/y", "")]), &layer([hard_link("d", "d/x")])]);
    assert_eq!(paths(&seen), ["/d"]);
    assert_eq!(seen["/d"].what, content("kept"));
}

#[test]
fn links_above_an_entry_are_followed_inside_the_root() {
    let lower = layer([
        dir("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("abs", "/usr/lib"),
        symlink("up", "../../../usr"),
        symlink("dangling", "made/here"),
        symlink("usr/chain", "../abs"),
        file("usr/lib/old", ""),
    ]);
    let upper = layer([
        file("lib/1", ""),
        file("abs/2", ""),
        file("up/lib/3", ""),
        file("dangling/4", ""),
        file("usr/chain/5", ""),
        whiteout("lib/old"),
        hard_link("lib/6", "abs/2"),
    ]);
    let seen = flatten([&lower, &upper]);
    for path in ["/usr/lib/1", "/usr/lib/2", "/usr/lib/3", "/made/here/4", "/usr/lib/5", "/usr/lib/6"] {
        assert!(seen.contains_key(path), "{path}");
    }
    assert!(!seen.contains_key("/usr/lib/old"));
    assert_eq!(seen["/lib"].what, What::Symlink("usr/lib".to_owned()));
}

#[test]
fn sizes_of_entries_without_content_mean_nothing() {
    // As V7's tar wrote links: with the size of the file they name.
    let seen = flatten([&layer([file("a", "1"), hard_link("b", "a").claimed_size(1), file("c", "2")])]);
    assert_eq!(paths(&seen), ["/a", "/b", "/c"]);
}

#[test]
fn attributes_of_other_systems_are_left_out() {
    let seen = flatten([&layer([file("a", "").xattr("com.apple.provenance", "x").xattr("user.x", "y")])]);
    assert_eq!(seen["/a"].xattrs.keys().collect::<Vec<_>>(), ["user.x"]);
}

#[test]
fn a_lost_and_found_of_the_image_is_the_filesystem_s_own() {
    let seen = flatten([&layer([dir("lost+found").mode(0o777), file("sub/lost+found", "x")])]);
    assert_eq!(paths(&seen), ["/sub", "/sub/lost+found"]);
}

#[test]
fn gzip_members_zstd_frames_and_plain_archives_mean_the_same() {
    let archive = layer([file("a", "x".repeat(700_000)), file("b", "2")]);
    let (left, right) = archive.split_at(300_001);
    let twice = |compression| {
        let part = |half| compress(half, compression);
        [part(left), part(right)].concat()
    };
    for compression in [Compression::Gzip, Compression::Zstd] {
        let mut bench = Bench::new();
        bench.push_blob(&twice(compression), compression, sha256(&archive));
        bench.push(&layer([file("c", "3")]), Compression::Zstd);
        bench.push(&layer([file("d", "4")]), Compression::Gzip);
        bench.push(&layer([file("e", "5")]), Compression::None);
        let seen = bench.see();
        assert_eq!(paths(&seen), ["/a", "/b", "/c", "/d", "/e"]);
        assert_eq!(seen["/a"].what, content(&"x".repeat(700_000)));
        assert_eq!(seen["/d"].what, content("4"));
    }
}

#[test]
fn an_archive_without_end_mark_and_an_empty_one_are_archives() {
    let archive = layer([file("a", "1")]);
    assert_eq!(paths(&flatten([&archive[..1024].to_vec()])), ["/a"]);
    assert_eq!(paths(&flatten([&archive[..513].to_vec()])), ["/a"], "umoci 0.4 leaves the last padding out");
    assert_eq!(paths(&flatten([&Vec::new()])), Vec::<&str>::new());
    assert_eq!(paths(&flatten([])), Vec::<&str>::new());
}

#[test]
fn the_same_image_has_the_same_bytes() {
    let bench = Bench::of([&layer([file("a/b", "1"), dir("c").xattr("user.x", "y"), file("d", "z".repeat(9000))])]);
    let first = std::fs::read(bench.convert().unwrap()).unwrap();
    assert!(first == std::fs::read(bench.convert().unwrap()).unwrap());
}

#[test]
fn a_large_tree_is_a_clean_filesystem() {
    // Several block groups, an indexed directory of two levels, a large file, blocks of attributes, an extent tree.
    let large: Vec<u8> = (0..130u64 << 20).map(|n| ((n * n) >> 9) as u8).collect();
    let map = (0..2_000).map(|n| format!("{},1", n * 8192)).collect::<Vec<_>>().join(",");
    let holey = file("holey", vec![9; 2_000]).record("GNU.sparse.size", "16384000").record("GNU.sparse.map", map);
    let mut items = vec![file("large", &large), holey];
    items.extend((0..30_000).map(|n| file(format!("many/{}-{n}", "n".repeat(n % 200)), "")));
    items.extend((0..300).map(|n| file(format!("attributes/{n}"), "x").xattr("user.a", vec![1; 3000])));
    items.extend((0..300).map(|n| symlink(format!("links/{n}"), "x/".repeat(1500))));
    let bench = Bench::of([&layer(items)]);
    let image = bench.convert().unwrap();
    let seen = see(&image);
    assert_eq!(seen.len(), 1 + 1 + 1 + 30_001 + 301 + 301);
    let view = ext4_view::Ext4::load_from_path(&image).unwrap();
    assert!(view.read("/large").unwrap() == large);
    let holey = view.read("/holey").unwrap();
    assert!(holey.iter().enumerate().all(|(at, byte)| *byte == if at % 8192 == 0 { 9 } else { 0 }));
    if !check_filesystem(&image) {
        eprintln!("skipped: a_large_tree_is_a_clean_filesystem: e2fsck is not installed");
    }
}
