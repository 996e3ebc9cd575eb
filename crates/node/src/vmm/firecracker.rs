//! Firecracker.

use std::{io, path::Path};

use model::MachineId;
use tokio::net::UnixStream;

use super::{Console, VmRecord};

pub(super) async fn channel(dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(dir.join("vsock.sock")).await
}

pub(super) fn console(dir: &Path) -> io::Result<Console> {
    Ok(Box::new(tokio::net::unix::pipe::OpenOptions::new().open_receiver(dir.join("console"))?))
}

pub(super) fn find(_machine: &MachineId, _dir: &Path) -> Option<VmRecord> {
    None
}
