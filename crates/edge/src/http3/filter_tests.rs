//! The frame filter against frames of every kind, however they are cut.

use proptest::prelude::*;

use super::*;

/// An integer of variable length, in as many bytes as are asked for.
fn encode(value: u64, length: usize, into: &mut Vec<u8>) {
    let bytes = value.to_be_bytes();
    let begin = into.len();
    into.extend_from_slice(&bytes[8 - length..]);
    into[begin] |= (length.trailing_zeros() as u8) << 6;
}

fn frame(kind: u64, payload: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(kind, length, &mut bytes);
    encode(payload.len() as u64, length, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// What passes of bytes that come in pieces of this length.
fn filter(mut filter: FrameFilter, bytes: &[u8], piece: usize) -> Result<Vec<u8>, BadFrames> {
    let mut passed = Vec::new();
    for chunk in bytes.chunks(piece) {
        filter.push(Bytes::copy_from_slice(chunk))?;
        while let Some(part) = filter.pop() {
            passed.extend_from_slice(&part);
        }
    }
    filter.end().map(|()| passed)
}

fn request() -> FrameFilter {
    FrameFilter::request(100)
}

#[test]
fn frames_without_a_meaning_are_left_out() {
    let headers = frame(0x1, b"fields", 1);
    let data = frame(DATA, b"hello", 1);
    let grease = frame(0x21, &[7; 2000], 2);
    let stream = [&headers[..], &grease, &frame(DATA, b"", 1), &data, &frame(DATA, b"", 8), &grease].concat();
    for piece in [1, 2, 7, stream.len()] {
        assert_eq!(filter(request(), &stream, piece), Ok([&headers[..], &data].concat()), "in pieces of {piece}");
    }
}

#[test]
fn what_would_have_to_be_kept_is_bounded_and_data_is_not() {
    let mut endless = vec![0x1];
    encode(1 << 60, 8, &mut endless);
    assert_eq!(filter(request(), &endless, 1), Err(BadFrames::TooLong));
    assert!(filter(request(), &frame(0x1, &[0; 100], 8), 9).is_ok());
    assert_eq!(filter(request(), &frame(0x1, &[0; 101], 8), 9), Err(BadFrames::TooLong));
    assert!(filter(request(), &frame(DATA, &[0; 10_000], 4), 999).is_ok());
    let settings = [&[0][..], &frame(0x4, &[0; 5000], 2)].concat();
    assert_eq!(filter(FrameFilter::unidirectional(), &settings, 50), Err(BadFrames::TooLong));
}

#[test]
fn an_end_inside_of_a_frame_is_noticed() {
    let data = frame(DATA, b"hello", 1);
    for end in 1..data.len() {
        assert_eq!(filter(request(), &data[..end], 3), Err(BadFrames::Truncated), "after {end} bytes");
    }
    assert_eq!(filter(request(), &data, 3), Ok(data));
    assert_eq!(filter(request(), &frame(0x21, b"grease", 1)[..3], 3), Err(BadFrames::Truncated));
}

#[test]
fn a_stream_without_frames_passes_as_it_is() {
    let encoder = b"\x02\x3f\xe1\x1f anything".to_vec();
    assert_eq!(filter(FrameFilter::unidirectional(), &encoder, 2), Ok(encoder));
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..40) {
        let whole = filter(request(), &bytes, bytes.len().max(1));
        prop_assert_eq!(filter(request(), &bytes, piece), whole);
    }

    #[test]
    fn the_bodies_of_data_frames_pass_whole(
        bodies in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..50), prop::sample::select(vec![1usize, 2, 4, 8])), 0..10),
        piece in 1usize..20,
    ) {
        let frames: Vec<Vec<u8>> = bodies.iter().map(|(body, length)| frame(DATA, body, *length)).collect();
        let wanted: Vec<u8> = frames.iter().zip(&bodies).filter(|(_, (body, _))| !body.is_empty()).flat_map(|(frame, _)| frame.clone()).collect();
        prop_assert_eq!(filter(request(), &frames.concat(), piece), Ok(wanted));
    }
}
