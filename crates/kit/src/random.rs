//! Random bytes from the operating system.

/// So many random bytes.
///
/// # Panics
/// If the operating system has no randomness to give: nothing that needs it may go on then.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut buffer = [0; N];
    getrandom::fill(&mut buffer).expect("the operating system gives random bytes");
    buffer
}

/// A token nobody guesses: 128 random bits in 32 hexadecimal digits.
pub fn token() -> String {
    hex::encode(bytes::<16>())
}
