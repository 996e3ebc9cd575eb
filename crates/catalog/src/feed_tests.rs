//! A follower comes to the same picture, wherever its connection breaks.

use proptest::prelude::*;

use super::*;
use crate::{
    Intake, IntakeError, Publisher, RowChange,
    build::tests::{any_row, row, same_routes},
};

fn put(row: crate::MachineRoute) -> RowChange {
    RowChange::Put(Box::new(row))
}

/// A connection: brings a follower as far as it gets, in pieces of a size.
fn connect(origin: &Publisher, intake: &mut Intake, length: usize, pieces: usize) {
    intake.begin();
    let mut feed = Feed::new(origin.reader(), intake.since());
    feed.plan();
    let mut sent = feed.piece();
    while !feed.rest.is_empty() {
        sent.extend(feed.piece());
    }
    sent.chunks(length).take(pieces).for_each(|piece| intake.hear(piece).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_follower_that_stays_follows_through_every_break(
        rounds in prop::collection::vec(
            (prop::collection::vec((any_row(), any::<bool>()), 0..5), 1..400_usize, 0..12_usize), 1..8,
        ),
    ) {
        let origin = Publisher::in_memory();
        let mut intake = Intake::new(Arc::new(Publisher::in_memory()));
        for (generation, (changes, length, pieces)) in rounds.into_iter().enumerate() {
            let changes = changes.into_iter().map(|(row, stays)| if stays { put(row) } else { RowChange::Remove(row.id) });
            origin.change(generation as u64 + 1, changes);
            connect(&origin, &mut intake, length, pieces);
            let before = intake.catalog().reader().load();
            prop_assert!(before.generation <= generation as u64 + 1);
        }
        connect(&origin, &mut intake, 1 << 20, usize::MAX);
        let (own, there) = (intake.catalog().reader().load(), origin.reader().load());
        prop_assert!(same_routes(&own, &there));
        prop_assert_eq!(own.generation, there.generation);
    }

    #[test]
    fn no_bytes_make_a_follower_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
        let mut intake = Intake::new(Arc::new(Publisher::in_memory()));
        for piece in pieces {
            intake.hear(&piece).unwrap();
        }
    }
}

#[test]
fn a_line_without_an_end_is_no_catalog() {
    let mut intake = Intake::new(Arc::new(Publisher::in_memory()));
    let endless = vec![b'x'; 1 << 20];
    let heard = (0..64).map(|_| intake.hear(&endless)).find(Result::is_err);
    assert_eq!(heard, Some(Err(IntakeError::TooLong)));
}

#[test]
fn a_row_that_cannot_be_read_takes_no_other_with_it() {
    let catalog = Arc::new(Publisher::in_memory());
    let mut intake = Intake::new(catalog.clone());
    let mut poisoned = serde_json::to_value(row("shop", 1)).unwrap();
    poisoned["host_local"] = "nowhere".into();
    let lines = [
        serde_json::json!({"row": poisoned}),
        serde_json::json!({"row": row("shop", 2)}),
        serde_json::json!({"generation": 3}),
    ];
    intake.hear(lines.map(|line| format!("{line}\n")).concat().as_bytes()).unwrap();
    let picture = catalog.reader().load();
    assert_eq!((picture.machines().count(), picture.quarantined().len()), (1, 1));
}

#[test]
fn what_changed_is_sent_only_to_who_knows_the_rest() {
    let origin = Publisher::in_memory();
    origin.change(1, (1..200).map(|number| put(row("shop", number))));
    origin.change(2, [put(row("blog", 500))]);
    let length = |since| {
        let mut feed = Feed::new(origin.reader(), since);
        feed.plan();
        std::iter::from_fn(|| (!feed.rest.is_empty()).then(|| feed.piece().len())).sum::<usize>()
    };
    assert!(length(Some(1)) * 50 < length(None));
    assert_eq!(length(Some(77)), length(None), "what is not kept any more is told again");
}

#[tokio::test]
async fn a_follower_hears_of_what_is_there_and_of_what_comes() {
    let origin = Publisher::in_memory();
    origin.change(1, [put(row("shop", 1))]);
    let mut pieces = origin.reader().feed(None);
    let mut intake = Intake::new(Arc::new(Publisher::in_memory()));
    let mut generations = intake.catalog().reader().changed();
    intake.hear(&pieces.recv().await.unwrap()).unwrap();
    assert_eq!(*generations.borrow_and_update(), 1);
    origin.change(2, [put(row("blog", 2))]);
    intake.hear(&pieces.recv().await.unwrap()).unwrap();
    assert_eq!(*generations.borrow_and_update(), 2);
    assert!(same_routes(&intake.catalog().reader().load(), &origin.reader().load()));
    drop(origin);
    assert!(pieces.recv().await.is_none(), "where there is no catalog any more, it ends");
}
