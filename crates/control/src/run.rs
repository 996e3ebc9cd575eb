//! The work behind the requests, owned by one task: deployments and the destruction of apps, one worker per app, and
//! a sweep now and then.
//!
//! Work is found in the database, never handed over in memory, so that a restart finds the same work. A worker that is
//! dropped at any point is as good as one that was killed: what it did is stored, and the next goes on there.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kit::report::Report;
use tokio::{
    task::{Id, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    Control,
    error::Error,
    store::{apps, deployments, leases, machines, tokens},
};
use tokio_util::task::AbortOnDropHandle;

/// Time between two sweeps.
const SWEEP: Duration = Duration::from_secs(30);
/// Time before a worker that failed is followed by the next.
const PAUSE: Duration = Duration::from_secs(1);

impl Control {
    /// Repairs what the last process left open, then works until [`Control::shutdown`]. Dropping it is safe.
    pub async fn run(self: Arc<Self>) {
        let _at_work = self.at_work.lock().await;
        if let Err(error) = self.reconcile().await {
            tracing::error!("cannot compare the machines wanted with those there are: {}", Report(&error));
        }
        let keeper = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&self).keep_hostnames()));
        let mut workers = JoinSet::new();
        let mut busy: HashMap<Id, i64> = HashMap::new();
        let mut changes = self.store.changes();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            changes.borrow_and_update();
            for app in self.apps_with_work().await {
                if !busy.values().any(|busy| *busy == app) {
                    let worker = workers.spawn(Arc::clone(&self).work_on(app));
                    busy.insert(worker.id(), app);
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                _ = changes.changed() => {}
                Some(ended) = workers.join_next_with_id() => {
                    let id = match &ended {
                        Ok((id, ())) => *id,
                        Err(error) => {
                            tracing::error!("a worker died: {error}");
                            // What killed it would kill the next one as fast.
                            sleep(PAUSE).await;
                            error.id()
                        }
                    };
                    busy.remove(&id);
                }
                _ = sweep.tick() => self.sweep().await,
            }
        }
        workers.shutdown().await;
        if let Err(error) = keeper.await {
            tracing::error!("whoever looks after host names died: {error}");
        }
    }

    /// Ends [`Control::run`] and every stream that a client reads, then closes the database: requests that come later
    /// fail. Deployments under way go on at the next start.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let _at_rest = self.at_work.lock().await;
        self.store.close().await;
    }

    async fn apps_with_work(&self) -> Vec<i64> {
        let found = async {
            let mut found = apps::being_destroyed(self.store.reader()).await?;
            found.extend(deployments::apps_under_way(self.store.reader()).await?);
            found.sort_unstable();
            found.dedup();
            Ok::<_, Error>(found)
        };
        found.await.unwrap_or_else(|error| {
            tracing::error!("cannot look for work: {}", Report(&error));
            Vec::new()
        })
    }

    /// Does an app's next piece of work. A deployment under way is dropped once its app is to be destroyed.
    async fn work_on(self: Arc<Self>, app: i64) {
        let work = async {
            if apps::stays(self.store.reader(), app).await? {
                tokio::select! {
                    biased;
                    gone = self.until_unwanted(app) => gone?,
                    done = self.work_on_deployments(app) => done?,
                }
                Ok(())
            } else {
                self.destroy_app(app).await
            }
        };
        let done: Result<(), Error> = work.await;
        if let Err(error) = done {
            tracing::error!(app, "work on an app failed and will be tried again: {}", Report(&error));
            sleep(PAUSE).await;
        }
    }

    async fn until_unwanted(&self, app: i64) -> Result<(), Error> {
        let mut changes = self.store.changes();
        while apps::stays(self.store.reader(), app).await? {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }

    async fn sweep(&self) {
        let swept = async {
            self.remove_leftovers().await?;
            let mut tx = self.store.begin().await?;
            leases::delete_expired(&mut tx).await?;
            tokens::delete_expired(&mut tx).await?;
            machines::forget_old(&mut tx).await?;
            self.store.commit(tx).await
        };
        if let Err(error) = swept.await {
            tracing::warn!("the sweep failed: {}", Report(&error));
        }
    }
}
