//! Random bytes from the operating system.

use std::cell::RefCell;

/// So many random bytes.
///
/// # Panics
/// If the operating system has no randomness to give: nothing that needs it may go on then.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut buffer = [0; N];
    getrandom::fill(&mut buffer).expect("the operating system gives random bytes");
    buffer
}

/// So many random bytes for names that are made many a second, such as those of requests: the operating system is asked
/// for a block at a time, each byte of which is given out once.
///
/// # Panics
/// As [`bytes`].
pub fn for_names<const N: usize>() -> [u8; N] {
    const BLOCK: usize = 1024;
    thread_local! {
        static LEFT: RefCell<(usize, [u8; BLOCK])> = const { RefCell::new((0, [0; BLOCK])) };
    }
    const { assert!(N <= BLOCK) };
    LEFT.with_borrow_mut(|(left, block)| {
        if *left < N {
            (*left, *block) = (BLOCK, bytes());
        }
        let taken = &mut block[*left - N..*left];
        *left -= N;
        let name = <[u8; N]>::try_from(&*taken).expect("so many were taken");
        taken.fill(0);
        name
    })
}

/// A token nobody guesses: 128 random bits in 32 hexadecimal digits.
pub fn token() -> String {
    hex::encode(bytes::<16>())
}
