//! What a control plane tells an edge on another host: whatever comes, cut anywhere, it does not panic, and what becomes a
//! picture keeps the rules.
#![no_main]

use std::sync::Arc;

use catalog::{Intake, Publisher};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let catalog = Arc::new(Publisher::in_memory());
    let mut intake = Intake::new(catalog.clone());
    let (cut, data) = data.split_first().map_or((1, data), |(cut, rest)| (usize::from(*cut) + 1, rest));
    for piece in data.chunks(cut) {
        if intake.hear(piece).is_err() {
            return;
        }
    }
    let picture = catalog.reader().load();
    for app in picture.apps.iter() {
        assert!(!app.machines.is_empty());
        assert!(app.machines.iter().all(|machine| machine.app == app.name && machine.network == app.network));
        assert!(app.ports.values().all(|port| !port.backends.is_empty()));
    }
});
