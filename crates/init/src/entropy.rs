//! Random bytes of the host, for the kernel's generator (random(4)).

use std::{fs::File, io, os::fd::AsRawFd};

const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
const RESEED: libc::Ioctl = 0x5207;

/// Mixes the bytes in, and has the generator begin anew from all that it has: whatever it was about to give out before,
/// a copy of this guest that got other bytes gives out something else.
pub fn add(bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let device = File::options().read(true).write(true).open("/dev/random")?;
    let pool = pool_info(bytes);
    // SAFETY: the request reads two numbers and as many bytes after them as the second one says, which are there.
    check(unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, pool.as_ptr()) })?;
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RESEED) })
}

/// `struct rand_pool_info`: how many bits of it cannot be guessed, how many bytes there are, the bytes, padded with zeros.
fn pool_info(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_ne_bytes(word)
    });
    let count = bytes.len() as u32;
    [count * 8, count].into_iter().chain(words).collect()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_how_much_there_is() {
        let word = |bytes| u32::from_ne_bytes(bytes);
        assert_eq!(pool_info(&[1, 2, 3, 4, 5]), [40, 5, word([1, 2, 3, 4]), word([5, 0, 0, 0])]);
    }
}
