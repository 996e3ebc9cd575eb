//! Sparse files, as GNU tar itself writes them.

use std::{os::unix::fs::FileExt, process::Command};

use super::image::{Bench, What, disk_bytes, flatten, refusal_of};

const MIB: u64 = 1 << 20;

/// Packs a file of 3 MiB and one of 1 GiB, with data here and there, in a format of GNU tar. `None` without the tool.
fn packed(format: &[&str]) -> Option<(Vec<u8>, Vec<u8>)> {
    let directory = tempfile::tempdir().unwrap();
    let make = |name: &str, size: u64, data: &[(u64, &[u8])]| {
        let file = std::fs::File::create(directory.path().join(name)).unwrap();
        file.set_len(size).unwrap();
        data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
    };
    // Pieces that begin and end within blocks; more of them than fit into one header of the old format.
    let dots: Vec<(u64, &[u8])> = (0..60).map(|n| (n * 40_960 + n * 7, &b"dot"[..])).collect();
    make("small", 3 * MIB, &dots);
    make("huge", 1024 * MIB, &[(0, b"begin"), (500 * MIB + 3, b"middle"), (1024 * MIB - 3, b"end")]);
    let expected = std::fs::read(directory.path().join("small")).unwrap();
    let mut command = Command::new("tar");
    command.args(["-c", "-S"]).args(format).arg("-C").arg(directory.path()).args(["small", "huge"]);
    let output = command.output().ok().filter(|output| output.status.success())?;
    assert!(output.stdout.len() < 8 << 20, "the archive itself is sparse");
    Some((output.stdout, expected))
}

#[test]
fn every_format_of_gnu_tar_is_read_and_stays_sparse() {
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let Some((archive, small)) = packed(format) else {
            eprintln!("skipped: every_format_of_gnu_tar_is_read_and_stays_sparse: GNU tar is not installed");
            return;
        };
        let bench = Bench::of([&archive]);
        let seen = bench.see();
        assert!(seen["/small"].what == What::File(small), "{format:?}");
        assert_eq!(seen["/huge"].what, What::Large(1024 * MIB), "{format:?}");
        let image = bench.convert().unwrap();
        assert!(disk_bytes(&image) < 16 * MIB, "{format:?}");
        let view = ext4_view::Ext4::load_from_path(&image).unwrap();
        let mut huge = view.open("/huge").unwrap();
        for (at, expected) in [(0, &b"begin\0"[..]), (500 * MIB + 3, b"middle\0"), (1024 * MIB - 3, b"end")] {
            let mut found = vec![0; expected.len()];
            huge.seek_to(at).unwrap();
            assert_eq!(huge.read_bytes(&mut found).unwrap(), expected.len());
            assert_eq!(found, expected, "{format:?} at {at}");
        }
    }
}

#[test]
fn a_file_that_is_all_hole_is_kept() {
    let item = super::archive::file("hole", "").record("GNU.sparse.size", "1000000").record("GNU.sparse.map", "0,0");
    let seen = flatten([&super::archive::Archive::of([item])]);
    assert_eq!(seen["/hole"].what, What::File(vec![0; 1_000_000]));
}

#[test]
fn maps_that_lie_are_refused() {
    for (map, size, reason) in [
        ("0,5,3,5", "100", "overlaps"),
        ("0,10", "5", "exceeds"),
        ("0,9", "100", "more content"),
        ("0,11", "100", "less content"),
        ("0", "100", "malformed"),
        ("x,1", "100", "malformed"),
        ("0,10", "99999999999999", "limit"),
    ] {
        let item = super::archive::file("f", "0123456789").record("GNU.sparse.size", size);
        let archive = super::archive::Archive::of([item.record("GNU.sparse.map", map)]);
        let refusal = refusal_of(&archive);
        assert!(refusal.contains(reason) && refusal.contains("\"f\""), "{map}: {refusal}");
    }
}
