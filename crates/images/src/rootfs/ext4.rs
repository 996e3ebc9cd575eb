//! A tree written as an ext4 image, without mounting anything. `mkext4` decides on the layout and makes all metadata;
//! the content of files is copied from the archives to the places that the layout gives it.

mod declare;
mod output;
mod place;
mod size;

use std::{
    fs::File,
    sync::atomic::{AtomicBool, Ordering},
};

use mkext4::{InodeHandle, Layout};

use self::{declare::Declaration, output::Output};
use super::{
    fault::{Fault, storage},
    limits::Limits,
    tree::{Body, Id, Inode, Tree},
};

/// Who writes the images, and the version of what it writes. Images of another maker are made anew.
pub const MAKER: &str = "dunlin-1 mkext4-0.0.3";
/// The size of a block of the filesystem.
const BLOCK: u64 = 4096;

/// An image laid out: all is decided, nothing is written.
pub struct Image {
    layout: Layout,
    /// Files with content, in the order in which they lie in the image and in their archives.
    files: Vec<(InodeHandle, Id)>,
}

/// Lays a tree out. The same tree and `uuid` give the same image, byte by byte.
pub fn lay_out(tree: &Tree, uuid: [u8; 16], limits: &Limits) -> Result<Image, Fault> {
    let need = size::measure(tree);
    if need.own_blocks * BLOCK > limits.block_bytes {
        let (bytes, limit) = (need.own_blocks * BLOCK, limits.block_bytes);
        let what = "directories, long links, attributes and fragmented files";
        return Err(Fault::unusable(format!("its {what} take {bytes} bytes; the limit of this host is {limit}")));
    }
    let (builder, files) = Declaration::of(tree, &need, uuid)?;
    let layout = builder.seal().map_err(|error| refused("the image as a whole", error))?;
    Ok(Image { layout, files })
}

impl Image {
    /// The size of the image in bytes. On disk it takes less: what is free in it is a hole.
    pub fn size_bytes(&self) -> u64 {
        self.layout.image_len()
    }

    /// Writes the image to an empty file. `archives` are those of the tree's layers, in order.
    pub fn write(&self, tree: &Tree, archives: &[File], file: &File, stop: &AtomicBool) -> Result<(), Fault> {
        file.set_len(self.size_bytes()).map_err(storage("writing the filesystem"))?;
        let mut output = Output::new(file);
        let metadata = self.layout.writer(&mut output);
        metadata.map(drop).map_err(|error| refused("the image as a whole", error))?;
        for (handle, id) in &self.files {
            if stop.load(Ordering::Relaxed) {
                return Err(Fault::Stopped);
            }
            let inode = tree.inode(*id);
            self.copy(*handle, inode, &archives[inode.layer as usize], &mut output)?;
        }
        output.flush().map_err(storage("writing the filesystem"))
    }

    fn copy(&self, handle: InodeHandle, inode: &Inode, archive: &File, output: &mut Output<'_>) -> Result<(), Fault> {
        let Body::File { size, content } = &inode.body else { return Ok(()) };
        let (pieces, extents) = (place::pieces(*size, content), self.layout.extents(handle));
        for copy in place::copies(&pieces, *size, &extents) {
            output.copy(archive, &copy).map_err(storage("writing the filesystem"))?;
        }
        Ok(())
    }
}

/// What it means that `mkext4` refuses something: all that it is known to refuse was refused before, with a better
/// reason.
fn refused(what: &str, error: mkext4::Error) -> Fault {
    match error {
        mkext4::Error::Io(source) => Fault::Storage { doing: "writing the filesystem", source },
        error => Fault::entry(what.as_bytes(), format!("it cannot be stored in an ext4 filesystem: {error}")),
    }
}
