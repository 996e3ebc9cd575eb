//! What comes with a project's directory: its Dockerfile and its ignore file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, path) = input;
    let _ = build::scan::scan(text, &Default::default(), Some(path));
    if let Ok(ignore) = build::ignore::Ignore::parse(text, Path::new(".dockerignore")) {
        let _ = ignore.ignores(path);
    }
});
