//! The node's picture of its machines: one value, numbered, swapped whole.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use api::internal::NodeView;
use model::{
    MachineId,
    machine::{MachineState, Observed},
};
use tokio::sync::watch;

/// How many numbers are taken from the disk at a time, so that publishing writes nothing most of the time.
const BLOCK: u64 = 1 << 32;
/// How long a destroyed machine stays in the picture.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Publishes the picture. Its numbers grow for the whole life of a data directory: each start takes a block of
/// them, which is noted on the disk before the first is used.
#[derive(Debug)]
pub struct View {
    picture: watch::Sender<Arc<NodeView>>,
}

impl View {
    /// A picture without machines, whose numbers are above all that were used before. `file` keeps the block's number.
    pub fn open(file: PathBuf) -> io::Result<Self> {
        let block = match fs::read_to_string(&file) {
            Ok(text) => {
                text.trim().parse::<u64>().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        kit::durable::write(&file, (block + 1).to_string().as_bytes(), 0o600)?;
        let generation = block * BLOCK;
        let picture = watch::Sender::new(Arc::new(NodeView { generation, machines: Default::default() }));
        Ok(Self { picture })
    }

    /// Puts a machine into the picture, unless nothing of it has changed since it last was.
    pub fn publish(&self, observed: Observed) {
        self.picture.send_if_modified(|picture| {
            let id = observed.spec.id.clone();
            let before = picture.machines.get(&id);
            if before.is_some_and(|before| same(before, &observed)) {
                return false;
            }
            let mut machines = picture.machines.clone();
            machines.retain(|_, it| !is_forgotten(it, observed.updated_at.0));
            machines.insert(id, Arc::new(observed));
            *picture = Arc::new(NodeView { generation: picture.generation + 1, machines });
            true
        });
    }

    /// A machine as it was last published.
    pub fn get(&self, id: &MachineId) -> Option<Arc<Observed>> {
        self.picture.borrow().machines.get(id).cloned()
    }

    /// The picture, now and at every change.
    pub fn observe(&self) -> watch::Receiver<Arc<NodeView>> {
        self.picture.subscribe()
    }
}

fn same(before: &Observed, now: &Observed) -> bool {
    before == &Observed { updated_at: before.updated_at, ..now.clone() }
}

fn is_forgotten(observed: &Observed, now_ms: u64) -> bool {
    let age = Duration::from_millis(now_ms.saturating_sub(observed.updated_at.0));
    observed.state == MachineState::Destroyed && age > REMEMBERED
}
