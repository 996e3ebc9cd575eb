//! Load that counts what is lost.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Requests one after the other from several threads until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    lost: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts so many threads that each repeat `request`; an error is a lost request.
    pub fn start(threads: usize, request: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        let request = Arc::new(request);
        let (stop, answered, lost) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let repeat = |_| {
            let (request, stop, answered, lost) = (
                Arc::clone(&request),
                Arc::clone(&stop),
                Arc::clone(&answered),
                Arc::<Mutex<Vec<String>>>::clone(&lost),
            );
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match request() {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => lost.lock().expect("no thread panics with it").push(error),
                    }
                }
            })
        };
        let threads = (0..threads).map(repeat).collect();
        Self { stop, answered, lost, threads }
    }

    /// Stops and asserts that something was answered and nothing lost. Returns how many were answered.
    ///
    /// # Panics
    /// If a request was lost, or none was made.
    pub fn stop_without_loss(self, what: &str) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a request does not panic");
        }
        let lost = self.lost.lock().expect("no thread panics with it");
        let answered = self.answered.load(Ordering::Relaxed);
        assert!(lost.is_empty(), "{what}: {} of {} requests were lost: {lost:#?}", lost.len(), answered + lost.len());
        assert!(answered > 0, "{what}: no request was made");
        answered
    }
}
