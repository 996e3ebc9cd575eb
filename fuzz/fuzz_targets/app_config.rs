//! The app configuration file: any text is read or refused, and what is read makes machines.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match config::AppConfig::parse(text) {
        Ok(config) => {
            for group in config.groups() {
                let _ = config.machine_config(&group, "image");
            }
        }
        Err(found) => {
            assert!(found.has_errors());
            let _ = found.to_string();
        }
    }
    let _ = config::edit::set(text, &["http_service", "internal_port"], 8080);
    let _ = config::edit::inline_local_files(text, |_| Ok(String::new()));
});
