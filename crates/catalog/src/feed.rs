//! The catalog for followers on other hosts: what changes, as lines (`lines`).
//!
//! ```text
//!  follower: I have generation 7 ─▶ is 7 still kept? ─ yes ─▶ what leads from 7 to now ─▶ what changes ─▶ …
//!                                         └─────────── no ──▶ all of it ──────────────────▲
//! ```
//!
//! Nothing waits for a slow follower: it is sent what leads from the picture that it was sent last to that of the moment,
//! and the pictures between are skipped. What is sent is made piece by piece, so that a follower costs a piece of memory,
//! not a catalog.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use api::internal::CatalogFeed;
use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    AppRoute, Change, Reader, Snapshot,
    lines::{Written, put, put_gone, put_rows},
};

/// About how much is sent at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// How many pieces lie ready for a follower.
const PIECES_READY: usize = 2;
/// How often something is sent where nothing changes, so that both ends know that the other is there.
const BEAT: Duration = Duration::from_secs(5);

/// What one follower is sent.
struct Feed {
    catalog: Reader,
    changes: watch::Receiver<u64>,
    /// What it has, once `rest` has been sent.
    at: Arc<Snapshot>,
    rest: VecDeque<(What, Change<AppRoute>)>,
    /// It is to forget what it is not told.
    whole: bool,
}

/// What is to be told of a change.
#[derive(Clone, Copy)]
enum What {
    Gone,
    Rows,
}

impl CatalogFeed for Reader {
    fn feed(&self, since: Option<u64>) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(PIECES_READY);
        tokio::spawn(Feed::new(self.clone(), since).run(sender));
        receiver
    }
}

impl Feed {
    fn new(catalog: Reader, since: Option<u64>) -> Self {
        let kept = since.and_then(|generation| catalog.kept(generation));
        let (changes, whole) = (catalog.changed(), kept.is_none());
        Self { catalog, changes, at: kept.unwrap_or_default(), rest: VecDeque::new(), whole }
    }

    /// Sends until the follower is gone, or the catalog.
    async fn run(mut self, follower: mpsc::Sender<Bytes>) {
        loop {
            self.plan();
            loop {
                let piece = self.piece();
                if follower.send(piece.into()).await.is_err() {
                    return;
                }
                if self.rest.is_empty() {
                    break;
                }
            }
            while let Err(_silence) = timeout(BEAT, self.changes.changed()).await {
                if follower.send(Bytes::from_static(b"\n")).await.is_err() {
                    return;
                }
            }
            if self.changes.has_changed().is_err() {
                return;
            }
        }
    }

    /// Plans the way to the picture of this moment.
    fn plan(&mut self) {
        self.changes.mark_unchanged();
        let now = self.catalog.load();
        let steps = |what| now.apps.changes(&self.at.apps).map(move |change| (what, change));
        self.rest = steps(What::Gone).chain(steps(What::Rows)).collect();
        self.at = now;
    }

    /// The next lines; the last piece of a way says that all counts.
    fn piece(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        if std::mem::take(&mut self.whole) {
            put(&mut lines, &Written::Whole(()));
        }
        while lines.len() < PIECE_BYTES {
            match self.rest.pop_front() {
                Some((What::Gone, change)) => put_gone(&mut lines, &change),
                Some((What::Rows, change)) => put_rows(&mut lines, &change),
                None => break,
            }
        }
        if self.rest.is_empty() {
            put(&mut lines, &Written::Generation(self.at.generation));
        }
        lines
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
