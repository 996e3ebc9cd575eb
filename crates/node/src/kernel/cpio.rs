//! Writes an initial file system in the `newc` format of cpio (kernel documentation, `initramfs buffer format`).

/// An archive that is being written.
#[derive(Debug, Default)]
pub(super) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

impl Cpio {
    /// Adds a directory. Its parent must have been added before.
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file with these permission bits.
    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let size = u32::try_from(content.len()).expect("an initramfs holds small files only");
        let name_size = path.len() as u32 + 1;
        // inode, mode, uid, gid, links, time, size, device (2), special device (2), name's size, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.entries += 1;
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn the_reference_program_lists_and_extracts_what_was_written() {
        if Command::new("cpio").arg("--version").output().is_err() {
            eprintln!("skipped: the_reference_program_lists_and_extracts_what_was_written: cpio is not installed");
            return;
        }
        let mut archive = Cpio::default();
        archive.directory("modules");
        archive.file("modules/a.ko", 0o644, b"12345");
        archive.file("init", 0o755, b"");
        let bytes = archive.finish();

        let directory = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["--extract", "--verbose", "--quiet"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "modules\nmodules/a.ko\ninit\n");
        assert_eq!(std::fs::read(directory.path().join("modules/a.ko")).unwrap(), b"12345");
        assert_eq!(bytes.len() % 4, 0);
    }
}
