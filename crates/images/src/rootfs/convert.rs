//! From layers to an image file.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    blob::{self, Unpacked},
    ext4::{self, Image},
    fault::{Fault, storage},
    limits::{Budget, Limits},
    tree::Tree,
};
use crate::layers::{ImageLayers, Layer};

/// An image that is written and synced but does not have its name yet. Dropping it removes it.
pub struct Draft {
    path: PathBuf,
    /// The size of the file as it appears, in bytes.
    pub size_bytes: u64,
}

/// Converts an image in `directory`.
pub fn convert(image: &ImageLayers, directory: &Path, limits: &Limits, stop: &AtomicBool) -> Result<Draft, Fault> {
    let budget = Budget::new(limits);
    let mut tree = Tree::new(limits);
    let mut archives = Vec::with_capacity(image.layers.len());
    for (number, unpacked) in unpack_all(&image.layers, directory, &budget, stop)?.into_iter().enumerate() {
        let Unpacked { index, archive } = unpacked;
        tree.apply(number as u32, index).map_err(|fault| fault.within(&place(&image.layers, number)))?;
        archives.push(archive);
    }
    let layout = ext4::lay_out(&tree, uuid(image), limits)?;
    let (draft, file) = Draft::create(image, directory, &layout)?;
    layout.write(&tree, &archives, &file, stop)?;
    file.sync_all().map_err(storage("writing the filesystem"))?;
    Ok(draft)
}

/// Reads all layers, some at a time. If several are bad, the fault of the lowest that was read is returned.
fn unpack_all(
    layers: &[Layer],
    directory: &Path,
    budget: &Budget<'_>,
    stop: &AtomicBool,
) -> Result<Vec<Unpacked>, Fault> {
    let at_once = thread::available_parallelism().map_or(1, usize::from).min(layers.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results = Mutex::new(layers.iter().map(|_| None).collect::<Vec<_>>());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(layer) = layers.get(number) else { return };
                    let result = blob::unpack(layer, directory, budget, stop);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    let result = result.map_err(|fault| fault.within(&place(layers, number)));
                    results.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(result);
                }
            });
        }
    });
    // After a fault the layers above it may be missing; the fault comes first.
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

/// A layer as people may find it again.
fn place(layers: &[Layer], number: usize) -> String {
    format!("layer {} of {} ({})", number + 1, layers.len(), layers[number].digest)
}

/// The filesystem's own name: the first half of the manifest's digest.
fn uuid(image: &ImageLayers) -> [u8; 16] {
    let mut uuid = [0; 16];
    let hex = &image.manifest.hex()[..32];
    hex::decode_to_slice(hex, &mut uuid).expect("a digest is hexadecimal");
    uuid
}

impl Draft {
    fn create(image: &ImageLayers, directory: &Path, layout: &Image) -> Result<(Self, File), Fault> {
        let path = directory.join(format!("{}.{}.tmp", image.manifest.hex(), kit::random::token()));
        let options = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        let file = options.map_err(storage("writing the filesystem"))?;
        Ok((Self { path, size_bytes: layout.size_bytes() }, file))
    }

    /// Gives the image its name, for good.
    pub fn publish(self, path: &Path) -> std::io::Result<()> {
        fs::rename(&self.path, path)?;
        kit::durable::sync_directory_of(path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Absent once it is published.
        let _ = fs::remove_file(&self.path);
    }
}
