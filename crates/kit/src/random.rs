//! Random bytes from the operating system.

use rand::Rng;

/// So many random bytes.
///
/// # Panics
/// If the operating system has no randomness to give: nothing that needs it may go on then.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut buffer = [0; N];
    getrandom::fill(&mut buffer).expect("the operating system gives random bytes");
    buffer
}

/// So many random bytes for names that are made many a second, such as those of requests: from a generator of this
/// thread (ChaCha12), which the operating system seeds now and then.
///
/// # Panics
/// As [`bytes`].
pub fn for_names<const N: usize>() -> [u8; N] {
    let mut buffer = [0; N];
    rand::rng().fill_bytes(&mut buffer);
    buffer
}

/// A token nobody guesses: 128 random bits in 32 hexadecimal digits.
pub fn token() -> String {
    hex::encode(bytes::<16>())
}
