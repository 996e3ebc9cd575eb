//! How much of a body is kept.

use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use proptest::prelude::*;

use super::*;

type Boxed = UnsyncBoxBody<Bytes, BoxError>;

/// A body of these pieces that is to be kept within a bound.
fn body(pieces: &[&'static str], bounds: &Arc<KeepBounds>) -> KeptBody<Boxed> {
    let frames: Vec<Result<Frame<Bytes>, BoxError>> =
        pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
    let stream = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
    KeptBody::new(stream.boxed_unsync(), bounds)
}

async fn read(reader: Reader<Boxed>) -> String {
    String::from_utf8(reader.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn what_fits_is_read_as_often_as_it_is_wanted() {
    let bounds = KeepBounds::new(8, 8);
    let body = body(&["one", "two"], &bounds);
    for _ in 0..3 {
        assert_eq!(read(body.read().unwrap()).await, "onetwo");
    }
    drop(body);
    assert_eq!(bounds.taken.load(Relaxed), 0);
}

#[tokio::test]
async fn what_is_too_long_passes_once() {
    for bounds in [KeepBounds::new(5, 100), KeepBounds::new(100, 5)] {
        let body = body(&["one", "two", "three"], &bounds);
        assert_eq!(read(body.read().unwrap()).await, "onetwothree");
        assert!(body.read().is_none());
        assert_eq!(bounds.taken.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn a_later_reader_takes_over_in_the_middle() {
    let bounds = KeepBounds::new(100, 100);
    let body = body(&["one", "two", "three"], &bounds);
    let mut first = body.read().unwrap();
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    let second = body.read().unwrap();
    assert!(first.frame().await.unwrap().is_err(), "the first one has lost its turn");
    assert_eq!(read(second).await, "onetwothree");
}

#[tokio::test]
async fn what_is_let_go_is_read_to_its_end_and_then_gone() {
    let bounds = KeepBounds::new(100, 100);
    let body = body(&["one", "two", "three"], &bounds);
    let mut reader = body.read().unwrap();
    assert_eq!(reader.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    let again = body.read().unwrap();
    body.let_go();
    assert_eq!(read(again).await, "onetwothree");
    assert!(body.read().is_none());
    assert_eq!(bounds.taken.load(Relaxed), 0);
}

proptest! {
    #[test]
    fn however_often_it_changes_hands_the_last_reader_gets_all_of_it(
        pieces in prop::collection::vec("[a-z]{1,9}", 1..8), stops in prop::collection::vec(0..8_usize, 0..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = pieces.concat();
        let leaked: Vec<&'static str> = pieces.into_iter().map(|piece| &*piece.leak()).collect();
        let bounds = KeepBounds::new(1000, 1000);
        let body = body(&leaked, &bounds);
        runtime.block_on(async {
            for stop in stops {
                let mut reader = body.read().unwrap();
                for _ in 0..stop {
                    let _ = reader.frame().await;
                }
            }
            prop_assert_eq!(read(body.read().unwrap()).await, whole);
            Ok(())
        })?;
    }
}
