//! Finds the modules that a guest needs, and the order in which they must be loaded.
//!
//! Each module names the modules it depends on in its own ELF section `.modinfo`. That is read here, and not
//! `modules.dep`, which exists only where a package was installed and not merely unpacked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{KernelError, compression::Compression, io_error};

/// The largest module that is accepted, expanded.
const MAX_MODULE_BYTES: usize = 64 * 1024 * 1024;
/// The most directories and files of a kernel's modules that are looked at.
const MAX_FILES: usize = 100_000;

/// A module, expanded.
#[derive(Debug)]
pub(super) struct Module {
    /// Its name, as `lsmod` writes it.
    pub(super) name: String,
    /// Its ELF file.
    pub(super) object: Vec<u8>,
}

/// What a guest needs of its kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Without these a guest does not run.
    pub(super) required: &'static [&'static str],
    /// These are taken where there are any.
    pub(super) optional: &'static [&'static str],
}

/// The modules below `directory` (named like its kernel's release) that fulfil `needs`, each after those it depends
/// on. What is built into the kernel needs no module.
pub(super) fn resolve(directory: &Path, needs: &Needs) -> Result<Vec<Module>, KernelError> {
    let mut resolver = Resolver { index: index(directory)?, builtin: builtin(directory), ..Resolver::default() };
    for name in needs.required {
        resolver.add(name)?;
    }
    for name in needs.optional {
        if resolver.index.contains_key(*name) {
            resolver.add(name)?;
        }
    }
    Ok(resolver.ordered)
}

#[derive(Default)]
struct Resolver {
    index: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    visited: BTreeSet<String>,
    ordered: Vec<Module>,
}

impl Resolver {
    /// Adds a module after those it depends on. A circle ends where it closes.
    fn add(&mut self, name: &str) -> Result<(), KernelError> {
        if self.builtin.contains(name) || !self.visited.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.index.get(name).cloned().ok_or_else(|| {
            KernelError::Missing(format!(
                "the kernel found has neither built in nor as a module what guests need: {name}"
            ))
        })?;
        let object = read(&path)?;
        for dependency in dependencies(&object) {
            self.add(&dependency)?;
        }
        self.ordered.push(Module { name: name.to_owned(), object });
        Ok(())
    }
}

/// The modules that exist, by name.
fn index(directory: &Path) -> Result<BTreeMap<String, PathBuf>, KernelError> {
    let mut modules = BTreeMap::new();
    let mut pending = vec![directory.join("kernel")];
    let mut seen = 0;
    while let Some(directory) = pending.pop() {
        let entries = fs::read_dir(&directory).map_err(|source| io_error("list", &directory, source))?;
        for entry in entries.flatten() {
            seen += 1;
            match entry.file_type() {
                _ if seen > MAX_FILES => break,
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                _ => modules.extend(module_name(&entry.file_name().to_string_lossy()).map(|name| (name, entry.path()))),
            }
        }
    }
    Ok(modules)
}

/// The names of what is built into the kernel.
fn builtin(directory: &Path) -> BTreeSet<String> {
    let list = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
    list.lines().filter_map(|path| module_name(path.rsplit('/').next()?)).collect()
}

/// The name of the module in a file such as `virtio-rng.ko.xz`: `virtio_rng`.
fn module_name(file: &str) -> Option<String> {
    let (name, extension) = file.split_once(".ko")?;
    matches!(extension, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>, KernelError> {
    let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
    match Compression::of(&bytes) {
        Some(compression) => compression
            .expand(&bytes, MAX_MODULE_BYTES)
            .map_err(|error| KernelError::Unusable { path: path.to_owned(), reason: error.to_string() }),
        None => Ok(bytes),
    }
}

/// The names after `depends=` in a module's section `.modinfo`. None if the file cannot be read as a module.
fn dependencies(object: &[u8]) -> Vec<String> {
    let info = section(object, b".modinfo").unwrap_or_default();
    let depends = info.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"depends="));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).replace('-', "_");
    depends.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The content of a section of an ELF file (64 bits, little endian).
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64_at(elf, 0x28)?).ok()?;
    let [size, count, names] = [0x3a, 0x3c, 0x3e].map(|at| u16_at(elf, at).map(usize::from));
    let header = |index: usize| elf.get(table.checked_add(index * size?)?..).filter(|header| header.len() >= 0x40);
    let content = |header: &[u8]| -> Option<&'a [u8]> {
        let start = usize::try_from(u64_at(header, 0x18)?).ok()?;
        elf.get(start..)?.get(..usize::try_from(u64_at(header, 0x20)?).ok()?)
    };
    let names = content(header(names?)?)?;
    (0..count?).filter_map(header).find_map(|header| {
        let at = u32::from_le_bytes(*header.first_chunk()?) as usize;
        let found = names.get(at..)?.strip_prefix(name)?.first() == Some(&0);
        found.then(|| content(header))?
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The smallest ELF file with a section `.modinfo`.
    fn module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x28..0x30].copy_from_slice(&((64 + info.len() + names.len()) as u64).to_le_bytes());
        elf[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        elf[0x3c..0x3e].copy_from_slice(&3u16.to_le_bytes());
        elf[0x3e..0x40].copy_from_slice(&2u16.to_le_bytes());
        elf.extend_from_slice(info.as_bytes());
        elf.extend_from_slice(names);
        for (name, start, length) in [(0u32, 0, 0), (1, 64, info.len()), (10, 64 + info.len(), names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            elf.extend_from_slice(&header);
        }
        elf
    }

    fn tree(modules: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, object) in modules {
            let path = directory.path().join("kernel").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, object).unwrap();
        }
        fs::write(directory.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        directory
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn a_module_comes_after_what_it_depends_on_and_only_once() {
        let zst = zstd::encode_all(&module("virtio,virtio-ring")[..], 1).unwrap();
        let directory = tree(&[
            ("drivers/virtio/virtio_ring.ko", module("virtio")),
            ("drivers/virtio/virtio.ko", module("")),
            ("drivers/block/virtio_blk.ko", module("virtio,virtio_ring")),
            ("drivers/char/virtio-rng.ko.zst", zst),
            ("sound/loud.ko", module("")),
        ]);
        let needs = Needs { required: &["virtio_blk", "ext4"], optional: &["virtio_rng", "quantum"] };
        let modules = resolve(directory.path(), &needs).unwrap();
        assert_eq!(names(&modules), ["virtio", "virtio_ring", "virtio_blk", "virtio_rng"]);
        assert!(modules.iter().all(|module| module.object.starts_with(b"\x7fELF")));
    }

    #[test]
    fn what_is_missing_is_named() {
        let directory = tree(&[("a.ko", module("b"))]);
        let error = resolve(directory.path(), &Needs { required: &["a"], optional: &[] }).unwrap_err();
        assert!(error.to_string().ends_with("what guests need: b)"), "{error}");
    }

    #[test]
    fn a_circle_ends() {
        let directory = tree(&[("a.ko", module("b")), ("b.ko", module("a"))]);
        let modules = resolve(directory.path(), &Needs { required: &["a"], optional: &[] }).unwrap();
        assert_eq!(names(&modules), ["b", "a"]);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(junk in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
            let mut object = module("a,b");
            for (index, byte) in junk.into_iter().enumerate() {
                let index = 6 + (at + index) % (object.len() - 6);
                object[index] = byte;
            }
            let _ = dependencies(&object);
        }
    }
}
