//! What is read back, after whatever happened to the file.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::{
    MachineRoute,
    build::tests::{any_row, row, same, same_routes},
};

fn open(path: &std::path::Path) -> (Disk, Builder, Snapshot) {
    let mut builder = Builder::default();
    let (disk, snapshot) = Disk::open(path.to_owned(), &mut builder);
    (disk, builder, snapshot)
}

#[test]
fn a_row_that_cannot_be_read_takes_no_other_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.jsonl");
    let good = row("shop", 1);
    let mut poisoned = serde_json::to_value(&good).unwrap();
    poisoned["id"] = "not a machine id".into();
    let lines =
        [serde_json::json!({"row": poisoned}), serde_json::json!({"row": good}), serde_json::json!({"generation": 7})];
    fs::write(&path, lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let (.., snapshot) = open(&path);
    assert_eq!(snapshot.generation, 7);
    assert_eq!(snapshot.machines().count(), 1);
    let quarantined = snapshot.quarantined();
    assert_eq!(quarantined.len(), 1);
    assert_eq!(quarantined[0].app.as_ref().unwrap().as_str(), "shop");
}

#[test]
fn saving_appends_until_the_file_is_mostly_history() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.jsonl");
    let (mut disk, mut builder, _) = open(&path);
    let mut lengths = Vec::new();
    for generation in 1..2_000 {
        builder.put(row("shop", generation % 10 + 1));
        builder.put(MachineRoute { created_at: model::Timestamp(1), ..row("blog", 100 + generation % 2) });
        builder.remove(&row("blog", 100 + (generation + 1) % 2).id);
        disk.save(&builder.publish(generation)).unwrap();
        lengths.push(fs::metadata(&path).unwrap().len());
    }
    assert!(lengths.iter().max() < Some(&(4 * SLACK_BYTES)), "it is written anew in time");
    assert!(lengths.windows(2).filter(|pair| pair[1] < pair[0]).count() > 2, "again and again");
    let (.., again) = open(&path);
    assert!(same(&again, &builder.publish(1_999)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_cut_anywhere_gives_the_last_picture_that_was_saved_whole(
        saves in prop::collection::vec(prop::collection::vec((any_row(), any::<bool>()), 1..4), 1..6), cut in 0.0..1.0_f64,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog.jsonl");
        let (mut disk, mut builder, empty) = open(&path);
        let mut pictures = vec![(0, empty)];
        for (number, rows) in saves.into_iter().enumerate() {
            for (row, stays) in rows {
                if stays { builder.put(row) } else { builder.remove(&row.id) }
            }
            let picture = builder.publish(number as u64 + 1);
            disk.save(&picture).unwrap();
            pictures.push((disk.bytes, picture));
        }
        let whole = fs::read(&path).unwrap();
        let length = (whole.len() as f64 * cut) as u64;
        fs::write(&path, &whole[..length as usize]).unwrap();
        // The first file is written whole: a crash leaves it or none.
        let expected = pictures.iter().rfind(|(bytes, _)| *bytes <= length);
        let (mut disk, mut builder, again) = open(&path);
        if let Some((_, expected)) = expected {
            // A row that is left out is not saved.
            prop_assert!(same_routes(&again, expected));
        }
        builder.put(row("late", 77));
        let next = builder.publish(99);
        disk.save(&next).unwrap();
        let (.., read) = open(&path);
        prop_assert!(same_routes(&read, &next), "what is appended after a cut is whole again");
    }
}
