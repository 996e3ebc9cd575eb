//! What layers may not do.

use std::{process::Command, sync::atomic::AtomicBool};

use tar::EntryType;

use super::{
    archive::{Archive, Item, device, dir, file, hard_link, symlink, whiteout},
    image::{Bench, compress, refusal_of, sha256},
};
use crate::{
    layers::Compression,
    rootfs::{Limits, convert, fault::Fault},
};

/// Asserts that an archive is refused for this reason, by the layer's and the entry's name.
#[track_caller]
fn refused(items: impl IntoIterator<Item = Item>, entry: &str, reason: &str) {
    let refusal = refusal_of(&Archive::of(items));
    assert!(refusal.starts_with("layer 1 of 1 (sha256:"), "{refusal}");
    assert!(refusal.contains(&format!("entry \"{entry}\"")), "{refusal}");
    assert!(refusal.contains(reason), "{refusal}");
}

/// Asserts that these bytes are refused as an archive for this reason.
#[track_caller]
fn refused_bytes(archive: &[u8], reason: &str) {
    let refusal = refusal_of(archive);
    assert!(refusal.starts_with("layer 1 of 1 (sha256:") && refusal.contains(reason), "{refusal}");
}

#[track_caller]
fn refused_within(items: impl IntoIterator<Item = Item>, limits: Limits, reason: &str) {
    let mut bench = Bench::of([&Archive::of(items)]);
    assert!(bench.convert().is_ok(), "without the limit it is fine");
    bench.limits = limits;
    let refusal = bench.refusal();
    assert!(refusal.contains(reason), "{refusal}");
}

#[test]
fn nothing_leads_out_of_the_root() {
    refused([file("../evil", "")], "../evil", "root directory");
    refused([file("a/../../evil", "")], "a/../../evil", "root directory");
    refused([file("x", "").record("path", "../evil")], "../evil", "root directory");
    refused([hard_link("l", "../../etc/passwd")], "l", "root directory");
    refused([file("../.wh.x", "")], "../.wh.x", "root directory");
    refused([file(".wh...", "")], ".wh...", "names nothing");
    refused([file("a/.wh..", "")], "a/.wh..", "names nothing");
}

#[test]
fn hard_links_lead_to_files_that_are_there() {
    refused([hard_link("l", "missing")], "l", "not in the image before it");
    refused([hard_link("l", "later"), file("later", "")], "l", "not in the image before it");
    refused([hard_link("l", "l")], "l", "not in the image before it");
    refused([dir("d"), hard_link("l", "d")], "l", "directory");
    refused([hard_link("l", "/")], "l", "not in the image before it");
}

#[test]
fn links_that_lead_in_circles_end() {
    refused([symlink("a", "b"), symlink("b", "a"), file("a/x", "")], "a/x", "more than 40 symbolic links");
    refused([symlink("a", "a/a"), file("a/x", "")], "a/x", "more than 40 symbolic links");
    // Each link doubles the way; the last one would be 2^39 steps long.
    let doubling = (1..40).map(|n| symlink(format!("l{n}"), format!("l{}/l{}", n - 1, n - 1)));
    refused(doubling.chain([symlink("l0", "."), file("l39/x", "")]), "l39/x", "more than 40 symbolic links");
    let far = (0..300).map(|n| file(format!("far/x{n}"), ""));
    let limits = Limits { entries: 400, ..Limits::default() };
    refused_within([symlink("far", "./".repeat(2000))].into_iter().chain(far), limits, "too long");
}

#[test]
fn what_is_no_directory_holds_nothing() {
    refused([file("f", ""), file("f/x", "")], "f/x", "neither a directory nor a link to one");
    refused([file("f", ""), symlink("l", "f"), file("l/x", "")], "l/x", "neither a directory nor a link to one");
    refused([file(".", "")], ".", "root directory");
    refused([symlink("/", "x")], "/", "root directory");
    refused([file(".wh.x/y", "")], ".wh.x/y", "reserved");
}

#[test]
fn names_and_targets_that_cannot_be_stored_are_named() {
    refused([file(b"caf\xe9", "")], "caf\u{fffd}", "UTF-8");
    refused([symlink("l", b"caf\xe9")], "l", "UTF-8");
    refused([symlink("l", "")], "l", "1 to 4095 bytes");
    refused([file("x".repeat(256), "")], &format!("{}…", "x".repeat(200)), "256 bytes");
    refused([file("x", "").record("path", "a\0b")], "a\\0b", "zero byte");
    refused([file("../\x1b[31mred", "")], "../\\u{1b}[31mred", "root directory");
}

#[test]
fn numbers_beyond_linux_are_refused() {
    refused([device("d", EntryType::Char, 4096, 0)], "d", "device number");
    refused([device("d", EntryType::Block, 0, 1 << 20)], "d", "device number");
    refused([file("f", "").record("uid", "4294967296")], "f", "32 bits");
    refused([file("f", "").record("size", "99999999999999999999")], "f", "number");
    refused([file("f", "").claimed_size(u64::MAX / 2)], "f", "limit of this host");
}

#[test]
fn attributes_must_fit() {
    refused([file("f", "").xattr("user.a", vec![0; 4096])], "f", "can be stored");
    refused([file("f", "").xattr(&format!("user.{}", "n".repeat(300)), "")], "f", "255 bytes");
    refused([file("f", "").xattr("system.posix_acl_access", "bad")], "f", "access control list");
}

#[test]
fn every_limit_holds() {
    let none = Limits::default();
    let three = || [file("a", "1"), file("b", "2"), file("c", "3")];
    refused_within(three(), Limits { entries: 2, ..none.clone() }, "more than 2 entries");
    refused_within([file("a/b/c/d", "")], Limits { entries: 3, ..none.clone() }, "more than 3 entries");
    refused_within(three(), Limits { metadata_bytes: 2, ..none.clone() }, "bytes of names");
    refused_within(three(), Limits { archive_bytes: 2000, ..none.clone() }, "2000 bytes unpacked");
    refused_within([file("long-name", "")], Limits { path_bytes: 8, ..none.clone() }, "the limit is 8");
    refused_within([file("a/b/c", "")], Limits { depth: 2, ..none.clone() }, "the limit is 2");
    refused_within([file("f", "12345")], Limits { file_bytes: 4, ..none.clone() }, "5 bytes");
    refused_within([file("f", "").xattr("user.a", "12345")], Limits { xattr_bytes: 20, ..none.clone() }, "20 can be");
    let blocks = [dir("d"), symlink("l", "x".repeat(60)), file("f", "").xattr("user.a", [1; 99])];
    refused_within(blocks, Limits { block_bytes: 4 * 4096 - 1, ..none.clone() }, "take 16384 bytes");
    let deep = [file("1/2/3/x", ""), symlink("s", "1/2/3"), file("s/4/5/x", "")];
    refused_within(deep, Limits { depth: 4, ..none }, "more than 4 directories deep");
}

#[test]
fn a_layer_that_explodes_is_stopped() {
    let archive = Archive::of([file("zeros", vec![0; 30 << 20])]);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let mut bench = Bench::new();
        bench.push(&archive, compression);
        assert!(bench.convert().is_ok(), "zeros alone are no attack");
        (bench.limits.ratio, bench.limits.ratio_exempt_bytes) = (20, 10 << 20);
        let refusal = bench.refusal();
        assert!(refusal.contains("ratio") && refusal.starts_with("layer 1 of 1"), "{refusal}");
    }
}

#[test]
fn archives_that_are_cut_off_or_go_on_are_refused() {
    let archive = Archive::of([file("first", "x".repeat(2000)), file("second", "y".repeat(2000))]);
    for len in [100, 600, 512 + 2048 + 512 + 1000] {
        refused_bytes(&archive[..len], "cut off");
    }
    refused_bytes(&[&archive[..], &[0; 700], b"tail"].concat(), "after its end mark");
    let mut extension_only = Archive::of([file("f", "").record("path", "g")]);
    extension_only.truncate(1024);
    refused_bytes(&extension_only, "extension header");
}

#[test]
fn headers_that_are_damaged_are_refused() {
    let good = Archive::of([file("first", ""), file("second", "")]);
    let damaged = |at: usize, byte: u8| {
        let mut archive = good.clone();
        archive[at] = byte;
        archive
    };
    refused_bytes(&damaged(3, b'!'), "checksum");
    refused_bytes(&damaged(512 + 3, b'!'), "after entry \"first\": the header's checksum is wrong");
    refused_bytes(&b"this is no archive at all, but a text. ".repeat(30), "no tar archive");
    let mut archive = good.clone();
    archive[156] = b'Z';
    let mut header = tar::Header::from_byte_slice(&archive[..512]).clone();
    header.set_cksum();
    archive[..512].copy_from_slice(header.as_bytes());
    refused_bytes(&archive, "unknown type 'Z'");
}

#[test]
fn extension_headers_are_bounded() {
    let refusal = refusal_of(&Archive::of([file("f", "").record("comment", vec![b'x'; 2 << 20])]));
    assert!(refusal.contains("the limit is 1048576"), "{refusal}");
}

#[test]
fn blobs_must_be_what_they_are_called() {
    let archive = Archive::of([file("a", "1".repeat(5000))]);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let blob = compress(&archive, compression);
        let refusal_after = |change: &dyn Fn(&mut Bench)| {
            let mut bench = Bench::new();
            bench.push_blob(&blob, compression, sha256(&archive));
            change(&mut bench);
            bench.refusal()
        };
        let wrong_digest = refusal_after(&|bench| bench.layers[0].digest = sha256(b"other"));
        assert!(wrong_digest.contains("digest"), "{wrong_digest}");
        let wrong_diff_id = refusal_after(&|bench| bench.layers[0].diff_id = sha256(b"other"));
        assert!(wrong_diff_id.contains("configuration says"), "{wrong_diff_id}");
        let wrong_size = refusal_after(&|bench| bench.layers[0].size_bytes += 1);
        assert!(wrong_size.contains("its manifest says"), "{wrong_size}");
    }
}

#[test]
fn damaged_blobs_are_told_apart_from_wrong_ones() {
    let archive = Archive::of([file("a", "1".repeat(500_000))]);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let blob = compress(&archive, compression);
        let half = &blob[..blob.len() / 2];
        let mut bench = Bench::new();
        bench.push_blob(half, compression, sha256(&archive));
        let cut_off = bench.refusal();
        assert!(cut_off.contains("data are broken") || cut_off.contains("cut off"), "{cut_off}");
        bench.layers[0].digest = sha256(&blob);
        let other = bench.refusal();
        assert!(other.contains("digest") || other.contains("cut off"), "{other}");
        let mut bench = Bench::new();
        bench.push_blob(&[&blob[..], b"trailing garbage"].concat(), compression, sha256(&archive));
        let trailing = bench.refusal();
        assert!(trailing.contains("data are broken"), "{trailing}");
    }
}

#[test]
fn the_fault_names_the_layer() {
    let mut bench = Bench::of([&Archive::of([file("fine", "")]), &Archive::of([file("../bad", "")])]);
    let digest = bench.layers[1].digest.clone();
    let refusal = bench.refusal();
    assert!(refusal.starts_with(&format!("layer 2 of 2 ({digest}): entry \"../bad\": ")), "{refusal}");
    bench.layers.pop();
    bench.push(&Archive::of([whiteout("x"), hard_link("l", "x")]), Compression::Gzip);
    assert!(bench.refusal().starts_with("layer 2 of 2 (sha256:"));
}

/// A disk of three megabytes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let disk = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(disk.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(disk))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "umount works");
    }
}

#[test]
fn a_full_disk_is_said_to_be_full_and_nothing_stays() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: a_full_disk_is_said_to_be_full_and_nothing_stays: mounting a tmpfs needs root");
        return;
    };
    let archive = Archive::of([file("noise", (0..4u64 << 20).map(|n| ((n * n) >> 7) as u8).collect::<Vec<_>>())]);
    for compression in [Compression::None, Compression::Gzip] {
        let mut bench = Bench::new();
        bench.push(&archive, compression);
        let result = convert::convert(&bench.image(), disk.0.path(), &bench.limits, &AtomicBool::new(false));
        let error = result.map(drop).unwrap_err().of_image("app:v1");
        assert!(matches!(error, api::internal::ImageError::Storage { .. }), "{error}");
        assert!(error.to_string().contains("free some disk space"), "{error}");
        assert_eq!(std::fs::read_dir(disk.0.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_stopped_conversion_leaves_nothing() {
    let bench = Bench::of([&Archive::of([file("a", "1")])]);
    let work = tempfile::tempdir().unwrap();
    let result = convert::convert(&bench.image(), work.path(), &bench.limits, &AtomicBool::new(true));
    assert!(matches!(result, Err(Fault::Stopped)));
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0);
}
