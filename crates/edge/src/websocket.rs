//! Just enough of WebSocket (RFC 6455) to close one in good order: where its frames end, and what a close frame is.
//!
//! ```text
//!  byte   0: FIN, opcode   1: MASK, length (7 bits)   then 0, 2 or 8 bytes of length, 0 or 4 of mask, the payload
//! ```

/// A close frame from a server: status 1001, going away.
pub const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// Follows the frames of one direction, without looking into them.
#[derive(Debug, Default)]
pub struct Frames {
    state: State,
    /// A close frame has passed: no frame may follow it.
    closed: bool,
}

#[derive(Debug, Default)]
enum State {
    /// Between two frames.
    #[default]
    Boundary,
    /// The second byte is next.
    Length,
    /// So many bytes of the header are still to come, the length first.
    Header { length_bytes: u8, mask_bytes: u8, length: u64 },
    /// So many bytes of the payload are still to come.
    Payload(u64),
}

impl Frames {
    /// Whether a frame may begin here, and none has said goodbye yet.
    pub fn may_close(&self) -> bool {
        matches!(self.state, State::Boundary) && !self.closed
    }

    /// Follows these bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            bytes = match self.state {
                State::Payload(left) => {
                    let taken = left.min(bytes.len() as u64);
                    self.state = payload(left - taken);
                    &bytes[taken as usize..]
                }
                _ => {
                    self.header_byte(*first);
                    rest
                }
            };
        }
    }

    fn header_byte(&mut self, byte: u8) {
        self.state = match self.state {
            State::Boundary => {
                self.closed |= byte & 0x0f == 0x8;
                State::Length
            }
            State::Length => {
                let mask_bytes = if byte & 0x80 == 0 { 0 } else { 4 };
                let (length_bytes, length) = match byte & 0x7f {
                    126 => (2, 0),
                    127 => (8, 0),
                    short => (0, u64::from(short)),
                };
                header(length_bytes, mask_bytes, length)
            }
            State::Header { length_bytes: 0, mask_bytes, length } => header(0, mask_bytes - 1, length),
            State::Header { length_bytes, mask_bytes, length } => {
                header(length_bytes - 1, mask_bytes, (length << 8) | u64::from(byte))
            }
            State::Payload(left) => payload(left.saturating_sub(1)),
        };
    }
}

fn header(length_bytes: u8, mask_bytes: u8, length: u64) -> State {
    if length_bytes == 0 && mask_bytes == 0 {
        payload(length)
    } else {
        State::Header { length_bytes, mask_bytes, length }
    }
}

fn payload(left: u64) -> State {
    if left == 0 { State::Boundary } else { State::Payload(left) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as an endpoint writes it.
    fn frame(opcode: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match payload {
            0..=125 => frame.push(mask | payload as u8),
            126..=0xffff => {
                frame.push(mask | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(if masked { vec![7; 4] } else { vec![] });
        frame.extend(vec![0xff; payload]);
        frame
    }

    proptest! {
        #[test]
        fn boundaries_are_found_however_the_bytes_arrive(
            frames in prop::collection::vec((0..3_u8, any::<bool>(), prop_oneof![0..200_usize, 60_000..70_000_usize]), 1..5),
            cut in 1..5000_usize,
        ) {
            let mut follower = Frames::default();
            for (opcode, masked, payload) in frames {
                let bytes = frame(opcode, masked, payload);
                let (last, before) = bytes.split_last().unwrap();
                before.chunks(cut).for_each(|chunk| follower.feed(chunk));
                prop_assert!(!follower.may_close());
                follower.feed(&[*last]);
                prop_assert!(follower.may_close());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            Frames::default().feed(&bytes);
        }
    }

    #[test]
    fn after_a_close_frame_no_other_may_follow() {
        let mut follower = Frames::default();
        follower.feed(&GOING_AWAY);
        assert!(!follower.may_close());
    }
}
