//! QEMU's `microvm` machine.

use std::{io, path::Path};

use model::MachineId;
use tokio::net::UnixStream;

use super::{Console, VmRecord};

pub(super) async fn channel(dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(dir.join("channel.sock")).await
}

pub(super) async fn console(dir: &Path) -> io::Result<Console> {
    Ok(Box::new(UnixStream::connect(dir.join("console.sock")).await?))
}

pub(super) fn find(_machine: &MachineId, _dir: &Path) -> Option<VmRecord> {
    None
}
