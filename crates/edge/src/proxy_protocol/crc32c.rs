//! CRC-32C (Castagnoli), as extension 0x03 of the PROXY protocol has it (RFC 4960, appendix B).

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut value, mut bit) = (index as u32, 0);
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// The checksum of the bytes of several pieces, one after the other.
pub fn crc32c(pieces: &[&[u8]]) -> u32 {
    let bytes = pieces.iter().flat_map(|piece| piece.iter());
    !bytes.fold(!0, |crc: u32, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksums_are_those_of_rfc_3720() {
        assert_eq!(super::crc32c(&[b"1234", b"56789"]), 0xe306_9283);
        assert_eq!(super::crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(super::crc32c(&[&[0xff; 32]]), 0x62a8_ab43);
    }
}
