//! Takes the uncompressed kernel out of a `bzImage` (kernel documentation, `The Linux/x86 Boot Protocol`).
//!
//! Booting the ELF file saves the guest from expanding itself, and is the one form that every VMM takes.

use super::compression::Compression;

/// The largest kernel that is accepted, expanded.
const MAX_KERNEL_BYTES: usize = 512 * 1024 * 1024;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// The ELF file of a kernel image, which may be one itself. The error says what is wrong.
pub(super) fn extract(image: Vec<u8>) -> Result<Vec<u8>, String> {
    if image.starts_with(ELF_MAGIC) {
        return Ok(image);
    }
    let payload = payload(&image).ok_or("it is neither an ELF file nor a bzImage of boot protocol 2.08 or later")?;
    let compression =
        Compression::of(payload).ok_or("its compression is unknown; gzip, LZ4, xz and Zstandard are known")?;
    let vmlinux = compression.expand(payload, MAX_KERNEL_BYTES).map_err(|error| error.to_string())?;
    if vmlinux.starts_with(ELF_MAGIC) { Ok(vmlinux) } else { Err("it holds no ELF file".into()) }
}

/// The compressed kernel inside a bzImage. The build may have put the kernel's size behind it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" || u16_at(image, 0x206)? < 0x0208 {
        return None;
    }
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + u32_at(image, 0x248)? as usize;
    image.get(start..)?.get(..u32_at(image, 0x24c)? as usize)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The release that a bzImage names, such as `6.1.0-56-cloud-amd64`.
pub(super) fn release(image: &[u8]) -> Option<String> {
    let text = image.get(usize::from(u16_at(image, 0x20e).filter(|at| *at != 0)?) + 0x200..)?;
    let word = text.split(|byte| *byte == b' ' || *byte == 0).next()?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_+~".contains(byte);
    let valid = (1..=64).contains(&word.len()) && word[0] != b'.' && word.iter().all(plain);
    valid.then(|| String::from_utf8_lossy(word).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A bzImage of boot protocol 2.15 around a payload.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        image[0x20e..0x210].copy_from_slice(&0x0080u16.to_le_bytes());
        image[0x280..0x290].copy_from_slice(b"6.1.0-1-amd64 (b");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn the_elf_file_is_found_in_a_bzimage_and_in_itself() {
        let elf = b"\x7fELF and so on".repeat(100);
        let mut payload = zstd::encode_all(&elf[..], 1).unwrap();
        payload.extend_from_slice(&(elf.len() as u32).to_le_bytes());
        assert_eq!(extract(bzimage(&payload)).unwrap(), elf);
        assert_eq!(extract(elf.clone()).unwrap(), elf);
        assert_eq!(release(&bzimage(&payload)).as_deref(), Some("6.1.0-1-amd64"));
    }

    #[test]
    fn what_is_no_kernel_is_told_apart() {
        let text = zstd::encode_all(&b"no kernel"[..], 1).unwrap();
        for (image, reason) in [
            (b"#!/bin/sh".to_vec(), "neither"),
            (bzimage(b"BZh91AY"), "compression"),
            (bzimage(&text), "no ELF"),
            (bzimage(&text)[..1100.min(1040 + text.len() - 3)].to_vec(), "neither"),
        ] {
            let error = extract(image).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_image_makes_it_panic(mut image in prop::collection::vec(any::<u8>(), 0x250..0x600), payload: [u8; 8]) {
            let header = bzimage(&payload);
            image[0x202..0x208].copy_from_slice(&header[0x202..0x208]);
            let _ = (extract(image.clone()), release(&image));
        }
    }
}
