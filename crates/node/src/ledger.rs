//! The ledger: one file per machine, `machines/<id>/record.json`, which holds all that must outlive this process.
//!
//! A record is replaced atomically *before* the step that it announces takes effect, so whatever moment the process
//! ends at, the next one finds in it everything that may exist on the host. Only the machine's owner task writes it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use model::{
    MachineId, Timestamp,
    machine::{Event, ExitEvent, Isolation, MachineSpec},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{disk::VolumeClaim, vmm::VmRecord};

/// The layout of records that this release writes.
const SCHEMA: u32 = 1;

/// Why the ledger could not be read or written.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The disk refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record cannot be understood.
    #[error("the record {} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Where a machine is meant to end up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Its program runs.
    Run,
    /// Nothing of it runs.
    Rest,
    /// Nothing of it runs, and its memory lies on the disk as far as that was possible.
    Suspend,
    /// Nothing of it exists.
    Gone,
}

/// Whether a machine's image and volume are at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preparation {
    /// Not yet: it is being created.
    New,
    /// Not yet: it has just been given another spec.
    Replaced,
    /// They are.
    Done,
}

/// Why a virtual machine goes down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody asked for it.
    #[default]
    Asked,
    /// It has nothing to do. What comes for it before its program has been asked to end keeps it up.
    Idle,
}

/// A machine whose memory lies on the disk. Its writable layer goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// Names the boot that goes on.
    pub boot_id: String,
    /// The writable layer.
    pub overlay: PathBuf,
    /// The memory, and what its devices knew.
    pub memory: PathBuf,
    /// The driver that wrote it: no other can read it.
    pub isolation: Isolation,
}

/// An order to bring the virtual machine down before anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// Kill the virtual machine without asking.
    pub kill: bool,
    /// The signal that asks the program to end, by number; 0 means the one that the guest was told when it started.
    pub signal: i32,
    /// How long the program may take.
    pub timeout_ms: u64,
    /// How long what is under way to it may take to end before the program is asked.
    #[serde(default)]
    pub drain_ms: u64,
    /// Why.
    #[serde(default)]
    pub cause: Cause,
}

/// What of a machine may exist on the host. Written before the first of it is made, removed after the last is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Names this boot to the guest.
    pub boot_id: String,
    /// The tap.
    pub tap: String,
    /// Who the VMM runs as, and whom its disks belong to.
    pub uid: u32,
    /// The cgroup's directories, one per hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// The writable layer.
    pub overlay: PathBuf,
    /// The VMM, once it is launched.
    pub vm: Option<VmRecord>,
    /// The program has been started.
    pub started: bool,
    /// Its checks that take part in routing have all passed once.
    #[serde(default)]
    pub ready: bool,
    /// The program has ended, and that has been recorded.
    pub exited: bool,
}

/// All that must be known of a machine to go on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The layout of this record.
    pub schema: u32,
    /// The spec in force.
    pub spec: MachineSpec,
    /// The spec that replaces it as soon as nothing runs.
    pub next_spec: Option<Box<MachineSpec>>,
    /// The machine's number on this host, from 1: its addresses, its tap and its user follow from it.
    pub slot: u32,
    /// Where it is meant to end up.
    pub goal: Goal,
    /// What runs must end first.
    pub down: Option<Down>,
    /// The program ended by itself and is started again, not before this moment.
    pub respawn: Option<Timestamp>,
    /// Whether its image and volume are at hand.
    pub preparation: Preparation,
    /// It has been started at least once.
    pub ever_started: bool,
    /// What of it may exist on the host.
    pub made: Option<Made>,
    /// Its memory, if that lies on the disk.
    #[serde(default)]
    pub suspended: Option<Suspended>,
    /// Its volume, which outlives it.
    pub volume: Option<VolumeClaim>,
    /// Why it rests although it should not.
    pub failure: Option<String>,
    /// It gets no traffic from the edge.
    pub cordoned: bool,
    /// What happened, newest first.
    pub events: Vec<Event>,
    /// How its program last ended.
    pub last_exit: Option<ExitEvent>,
    /// Nobody waits for its present start: after a failure it is tried again as its restart policy says.
    pub unattended: bool,
    /// When the restart policy started it again, within the policy's window.
    pub restarts: Vec<Timestamp>,
    /// The wall around it when it last ran.
    pub isolation: Option<Isolation>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When anything last changed.
    pub updated_at: Timestamp,
}

impl Record {
    /// The record of a machine that has just been asked for.
    pub fn new(spec: MachineSpec, slot: u32, goal: Goal, cordoned: bool, now: Timestamp) -> Self {
        Self {
            schema: SCHEMA,
            spec,
            next_spec: None,
            slot,
            goal,
            down: None,
            respawn: None,
            preparation: Preparation::New,
            ever_started: false,
            made: None,
            suspended: None,
            volume: None,
            failure: None,
            cordoned,
            events: Vec::new(),
            last_exit: None,
            unattended: false,
            restarts: Vec::new(),
            isolation: None,
            created_at: now,
            updated_at: now,
        }
    }
}

/// What a ledger holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every machine's record.
    pub records: Vec<Record>,
    /// Directories without a record: what is left of a creation that was cut off before its first step, or of a
    /// removal before its last one.
    pub strays: Vec<MachineId>,
    /// Machines whose record cannot be read. They may run, so nothing is done to them.
    pub unreadable: Vec<(MachineId, LedgerError)>,
}

/// The directory that holds the machines' directories.
#[derive(Debug, Clone)]
pub struct Ledger {
    root: PathBuf,
}

impl Ledger {
    /// The ledger at `root`, which is made if it does not exist.
    pub fn open(root: PathBuf) -> Result<Self, LedgerError> {
        fs::create_dir_all(&root).map_err(failed("create", &root))?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A machine's directory.
    pub fn directory(&self, id: &MachineId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Everything in the ledger.
    pub fn load(&self) -> Result<Loaded, LedgerError> {
        let entries = fs::read_dir(&self.root).map_err(failed("list", &self.root))?;
        let mut loaded = Loaded::default();
        for entry in entries {
            let name = entry.map_err(failed("list", &self.root))?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<MachineId>().ok()) else { continue };
            match self.read(&id) {
                Ok(Some(record)) => loaded.records.push(record),
                Ok(None) => loaded.strays.push(id),
                Err(error) => loaded.unreadable.push((id, error)),
            }
        }
        Ok(loaded)
    }

    /// Replaces a machine's record.
    pub fn write(&self, record: &Record) -> Result<(), LedgerError> {
        let directory = self.directory(&record.spec.id);
        fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        let path = directory.join("record.json");
        let text = serde_json::to_vec(record).expect("a record is JSON");
        kit::durable::write(&path, &text, 0o600).map_err(failed("write", &path))
    }

    /// Forgets a machine: its record, then all of its directory.
    pub fn remove(&self, id: &MachineId) -> Result<(), LedgerError> {
        let path = self.directory(id).join("record.json");
        kit::durable::remove(&path).map_err(failed("remove", &path))?;
        self.remove_directory(id)
    }

    fn read(&self, id: &MachineId) -> Result<Option<Record>, LedgerError> {
        let path = self.directory(id).join("record.json");
        let unreadable = |reason: String| LedgerError::Unreadable { path: path.clone(), reason };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if record.schema > SCHEMA {
            return Err(unreadable("a later release of dunlin wrote it; run that one".into()));
        }
        if record.spec.id != *id {
            return Err(unreadable(format!("it is of machine {}", record.spec.id)));
        }
        Ok(Some(record))
    }

    /// Removes a machine's directory, which has no record.
    pub fn remove_directory(&self, id: &MachineId) -> Result<(), LedgerError> {
        let path = self.directory(id);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io { what, path: path.clone(), source }
}
