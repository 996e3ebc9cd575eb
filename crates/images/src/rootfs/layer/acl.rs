//! POSIX access control lists: from the form of the system call (`linux/posix_acl_xattr.h`), in which archives carry
//! them, to the form in which ext4 stores them (`fs/ext4/acl.h`).

/// The attribute that holds an entry's list.
pub const ACCESS: &str = "system.posix_acl_access";
/// The attribute that holds the list that new entries of a directory get.
pub const DEFAULT: &str = "system.posix_acl_default";

const CALL_VERSION: u32 = 2;
const DISK_VERSION: u32 = 1;
const USER: u16 = 0x02;
const GROUP: u16 = 0x08;
/// Owner, owning group, mask, others: entries that name nobody.
const NAMELESS: [u16; 4] = [0x01, 0x04, 0x10, 0x20];

/// The list as ext4 stores it: `Some(None)` if it says nothing (an empty list is no list), `None` if it is malformed.
pub fn to_disk(list: &[u8]) -> Option<Option<Vec<u8>>> {
    let (version, entries) = list.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != CALL_VERSION || entries.len() % 8 != 0 {
        return None;
    }
    if entries.is_empty() {
        return Some(None);
    }
    let mut disk = DISK_VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if tag == USER || tag == GROUP {
            disk.extend(entry);
        } else if NAMELESS.contains(&tag) {
            disk.extend(&entry[..4]);
        } else {
            return None;
        }
    }
    Some(Some(disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_name_nobody_lose_their_number() {
        let call = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0];
        let disk = [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 232, 3, 0, 0];
        assert_eq!(to_disk(&call), Some(Some(disk.to_vec())));
        assert_eq!(to_disk(&[2, 0, 0, 0]), Some(None));
        for bad in [&[][..], &[1, 0, 0, 0], &call[..19], &[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(to_disk(bad), None, "{bad:?}");
        }
    }
}
