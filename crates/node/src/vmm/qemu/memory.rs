//! Keeping a guest's memory in a file of its own machine, and going on with it.
//!
//! QEMU gets the file as an open descriptor, like all others: its user needs no right to the path.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::{control, freeze};
use crate::vmm::{VmRecord, VmmError, setup_error};

/// Writes a VM's memory into a file, which only root can read. On an error the guest goes on.
pub(super) async fn write(vm: &VmRecord, memory: &Path) -> Result<(), VmmError> {
    let _ = fs::remove_file(memory);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(memory);
    let file = file.map_err(setup_error("create", memory))?;
    let written = match freeze(vm, &file).await {
        Ok(()) => sync(file, memory).await,
        Err(error) => Err(error),
    };
    if written.is_err() {
        if let Ok(mut qmp) = control(vm).await {
            let _ = qmp.command("migrate_cancel").await;
            let _ = qmp.command("cont").await;
        }
        let _ = fs::remove_file(memory);
    }
    written
}

/// Opens kept memory to go on with.
pub(super) fn open(memory: &Path) -> Result<File, VmmError> {
    File::open(memory).map_err(setup_error("open", memory))
}

/// What is noted in the ledger as kept must be on the disk.
async fn sync(file: File, memory: &Path) -> Result<(), VmmError> {
    let synced = tokio::task::spawn_blocking(move || file.sync_all()).await;
    synced.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(setup_error("write", memory))
}
