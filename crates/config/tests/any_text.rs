//! No text, however strange, makes the reader panic, and what it says fits the text.

use config::AppConfig;
use proptest::prelude::*;

/// Text that looks like a configuration file often enough to get past the first lines.
fn nearly_toml() -> impl Strategy<Value = String> {
    let keys = [
        "app",
        "primary_region",
        "kill_timeout",
        "internal_port",
        "processes",
        "checks",
        "ports",
        "handlers",
        "size",
        "memory",
        "type",
        "interval",
        "source",
        "destination",
        "concurrency",
        "strategy",
        "max_unavailable",
        "gpus",
        "headers",
        "image",
        "guest_path",
        "raw_value",
        "policy",
        "ä",
        "\"x y\"",
        "a.b",
    ];
    let values = [
        "1",
        "-1",
        "0.5",
        "nan",
        "inf",
        "true",
        "\"5s\"",
        "\"a\"",
        "[]",
        "[1, \"a\"]",
        "{}",
        "{ a = 1 }",
        "[{}]",
        "1979-05-27",
        "99999999999999999999",
        "0xff",
        "\"\"",
        "\"\\u0000\"",
        "'''\nx'''",
        "[\"http\", \"tls\"]",
        "\"20,25\"",
    ];
    let sections = [
        "[http_service]",
        "[[services]]",
        "[[services.ports]]",
        "[checks.a]",
        "[[vm]]",
        "[env]",
        "[processes]",
        "[[mounts]]",
        "[[files]]",
        "[deploy]",
        "[build]",
        "[build.args]",
        "[experimental]",
        "[[restart]]",
        "[x",
        "[[[",
    ];
    let line = prop_oneof![
        (prop::sample::select(keys.to_vec()).prop_map(str::to_owned), prop::sample::select(values.to_vec()))
            .prop_map(|(key, value)| format!("{key} = {value}")),
        prop::sample::select(sections.to_vec()).prop_map(str::to_owned),
        ".*",
    ];
    prop::collection::vec(line, 0..20).prop_map(|lines| lines.join("\n"))
}

fn check(text: &str) -> Result<(), TestCaseError> {
    match AppConfig::parse(text) {
        Ok(config) => {
            prop_assert!(!config.warnings().has_errors());
            for group in config.groups() {
                let _ = config.machine_config(&group, "image");
            }
        }
        Err(found) => {
            prop_assert!(found.has_errors());
            let lines = text.matches('\n').count() + 1;
            prop_assert!(found.iter().all(|item| (1..=lines).contains(&item.line)));
            let terminal_codes = ['\0', '\u{1b}'];
            prop_assert!(!found.to_string().contains(terminal_codes));
        }
    }
    let _ = config::edit::set(text, &["http_service", "internal_port"], 1);
    let _ = config::edit::inline_local_files(text, |_| Ok(String::new()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text(text in ".{0,200}") {
        check(&text)?;
    }

    #[test]
    fn nearly_a_configuration_file(text in nearly_toml()) {
        check(&text)?;
    }
}
