//! Uploads under way: each is a blob being written, known by a random id, bound to its repository.
//!
//! ```text
//!   POST ─▶ open ── PATCH ─▶ open ── PUT ─▶ committed
//!             │                │
//!             └── DELETE, idle too long, digest wrong, disk full, process ends ──▶ gone, with its file
//! ```

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::OwnedMutexGuard;

use super::{
    error::{Code, Refusal},
    repository::RepositoryName,
};
use crate::store::BlobWriter;

/// The most uploads that a repository may have open, and all repositories together.
const MAX_PER_REPOSITORY: usize = 64;
const MAX_TOGETHER: usize = 512;

/// All uploads under way.
pub struct Uploads {
    open: Mutex<HashMap<String, Upload>>,
    idle: Duration,
}

struct Upload {
    repository: RepositoryName,
    /// `None` once it was committed or given up by the request that holds it.
    writer: Arc<tokio::sync::Mutex<Option<BlobWriter>>>,
    used: Instant,
}

/// One upload, held by one request.
pub type Held = OwnedMutexGuard<Option<BlobWriter>>;

impl Uploads {
    /// None yet. An upload that nobody touches for `idle` is forgotten.
    pub fn new(idle: Duration) -> Self {
        Self { open: Mutex::default(), idle }
    }

    /// Registers an upload and returns its id.
    pub fn begin(&self, repository: &RepositoryName, writer: BlobWriter) -> Result<String, Refusal> {
        self.expire();
        let mut open = self.open();
        let here = open.values().filter(|upload| upload.repository == *repository).count();
        if here >= MAX_PER_REPOSITORY || open.len() >= MAX_TOGETHER {
            let message = format!(
                "there are {here} unfinished uploads to {repository}, {} together; finish or cancel some, then try again",
                open.len()
            );
            return Err(Refusal::new(Code::TooManyRequests, message));
        }
        let id = kit::random::token();
        let writer = Arc::new(tokio::sync::Mutex::new(Some(writer)));
        open.insert(id.clone(), Upload { repository: repository.clone(), writer, used: Instant::now() });
        Ok(id)
    }

    /// Takes hold of an upload for the length of a request.
    pub fn hold(&self, repository: &RepositoryName, id: &str) -> Result<Held, Refusal> {
        let mut open = self.open();
        let upload = open.get_mut(id).filter(|upload| upload.repository == *repository).ok_or_else(unknown)?;
        upload.used = Instant::now();
        let held = Arc::clone(&upload.writer).try_lock_owned().map_err(|_| {
            let message = "another request is writing to this upload; wait for it, then ask for the upload's range";
            Refusal::new(Code::BlobUploadInvalid, message).status(http::StatusCode::CONFLICT)
        })?;
        if held.is_some() { Ok(held) } else { Err(unknown()) }
    }

    /// Notes that an upload was used just now.
    pub fn touch(&self, id: &str) {
        if let Some(upload) = self.open().get_mut(id) {
            upload.used = Instant::now();
        }
    }

    /// Forgets an upload, with its file unless a request has taken the writer out.
    pub fn end(&self, id: &str) {
        let ended = self.open().remove(id);
        drop(ended);
    }

    /// Forgets the uploads to repositories that are removed.
    pub fn end_of(&self, gone: impl Fn(&RepositoryName) -> bool) {
        let ended = extract(&mut self.open(), |upload| gone(&upload.repository));
        drop(ended);
    }

    /// Forgets what nobody has touched for too long.
    pub fn expire(&self) {
        let idle = |upload: &Upload| upload.used.elapsed() > self.idle && upload.writer.try_lock().is_ok();
        let ended = extract(&mut self.open(), idle);
        drop(ended);
    }

    /// The repositories that uploads are under way to.
    pub fn repositories(&self) -> HashSet<RepositoryName> {
        self.open().values().map(|upload| upload.repository.clone()).collect()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes uploads out of the map, so that their files are removed after its lock is free.
fn extract(open: &mut HashMap<String, Upload>, which: impl Fn(&Upload) -> bool) -> Vec<Upload> {
    open.extract_if(|_, upload| which(upload)).map(|(_, upload)| upload).collect()
}

fn unknown() -> Refusal {
    let message = "there is no such upload to this repository: it was finished, canceled, idle for too long, or the \
                   platform was restarted; start it again";
    Refusal::new(Code::BlobUploadUnknown, message)
}
