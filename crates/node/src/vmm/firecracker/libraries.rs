//! Shared libraries for the jail.
//!
//! Firecracker's own releases are static programs and need none. A build of a distribution may be linked against
//! shared libraries; without them in its root directory it would not even start.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::vmm::{VmmError, setup_error};

/// The type of the program header that names the interpreter (ELF, `PT_INTERP`).
const INTERPRETER: u32 = 3;
/// Programs whose headers lie further in than this are not looked at.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Copies what a program is linked against, and its loader, to the same places below `root`.
pub(super) fn copy_into(root: &Path, program: &Path) -> Result<(), VmmError> {
    let head = read_head(program).map_err(setup_error("read", program))?;
    let Some(loader) = interpreter(&head) else { return Ok(()) };
    for file in list(&loader, program).map_err(setup_error("list the libraries of", program))? {
        let place = root.join(file.strip_prefix("/").unwrap_or(&file));
        copy(&file, &place, root).map_err(setup_error("copy into the jail", &file))?;
    }
    Ok(())
}

/// Copies a file to where the user that Firecracker becomes can get, whatever our own mask of permissions is.
fn copy(file: &Path, place: &Path, root: &Path) -> io::Result<()> {
    let directory = place.parent().unwrap_or(root);
    fs::create_dir_all(directory)?;
    for directory in directory.ancestors().take_while(|directory| *directory != root) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    fs::copy(file, place)?;
    fs::set_permissions(place, fs::Permissions::from_mode(0o755))
}

fn read_head(program: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut head = Vec::new();
    fs::File::open(program)?.take(MAX_HEADER_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The loader that an ELF file (64 bits, little endian) names; none if it is static.
fn interpreter(elf: &[u8]) -> Option<PathBuf> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let digits = elf.get(at..at.checked_add(bytes)?)?.iter().rev();
        usize::try_from(digits.fold(0u64, |number, byte| number << 8 | u64::from(*byte))).ok()
    };
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    let headers = (0..count).filter_map(|index| table.checked_add(index * size));
    let mut named = headers.filter(|header| number(*header, 4) == Some(INTERPRETER as usize));
    let header = named.next()?;
    let start = number(header.checked_add(8)?, 8)?;
    let name = elf.get(start..start.checked_add(number(header.checked_add(32)?, 8)?)?)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some(PathBuf::from(std::str::from_utf8(name).ok()?))
}

/// The files that the loader would load for a program, itself included. The program is not run.
fn list(loader: &Path, program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new(loader).arg("--list").arg(program).env_clear().output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let mut files = vec![loader.to_owned()];
    files.extend(parse(&String::from_utf8_lossy(&output.stdout)));
    Ok(files)
}

/// The paths in lines such as `libc.so.6 => /lib/libc.so.6 (0x00007f…)`.
fn parse(listing: &str) -> impl Iterator<Item = PathBuf> {
    listing.lines().filter_map(|line| {
        let path = line.split_once("=>")?.1.split_ascii_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_linked_program_gets_its_libraries_and_runs_in_its_new_root() {
        let name = "a_linked_program_gets_its_libraries_and_runs_in_its_new_root";
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: {name}: only root may change its root directory");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        copy_into(root.path(), Path::new("/bin/true")).unwrap();
        fs::copy("/bin/true", root.path().join("true")).unwrap();
        let status = Command::new("chroot").arg(root.path()).arg("/true").status().unwrap();
        assert!(status.success());
    }

    #[test]
    fn lines_without_a_file_are_passed_over() {
        let listing = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\tlibx.so => not found\n";
        assert_eq!(parse(listing).collect::<Vec<_>>(), [PathBuf::from("/lib/libc.so.6")]);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(mut elf in prop::collection::vec(any::<u8>(), 64..256)) {
            elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
            interpreter(&elf);
        }
    }
}
