//! The task that owns the channel.

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Command, LinkStatus, LogTaker};
use crate::vmm::VmRecord;

pub(super) async fn run(
    record: VmRecord,
    commands: mpsc::Receiver<Command>,
    inbox: mpsc::WeakSender<Command>,
    publish: watch::Sender<LinkStatus>,
    logs: LogTaker,
    stop: CancellationToken,
) {
    let _ = (record, commands, inbox, publish, logs, stop);
}
