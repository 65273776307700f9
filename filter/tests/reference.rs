//! The reference names every key of the plugin configuration, with its default.

#![allow(clippy::unwrap_used, reason = "a test may panic, and so may what it calls")]

use std::fs;
use std::path::Path;

use ebb_filter::config::Config;

/// Key and default of each row of the first table.
fn rows(text: &str) -> Vec<(String, String)> {
    let table = text.lines().skip_while(|line| !line.starts_with("| key"));
    let rows = table.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells = row
            .split('|')
            .skip(1)
            .map(|cell| cell.trim().trim_matches('`').to_owned());
        (cells.next().unwrap(), cells.next().unwrap())
    })
    .collect()
}

#[test]
fn the_reference_has_the_keys_and_defaults_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/filter.md");
    let rows = rows(&fs::read_to_string(path).unwrap());
    let required = r#""listener":"a","control_plane_cluster":"b""#;
    let defaults = Config::parse(format!("{{{required}}}").as_bytes()).unwrap();
    let mut optional = Vec::new();
    for (key, default) in &rows {
        if default == "*required*" {
            let without = required.replace(key, "x");
            let refused = Config::parse(format!("{{{without}}}").as_bytes()).is_err();
            assert!(refused, "{key} is not required");
            continue;
        }
        let json = format!(r#"{{{required},"{key}":{default}}}"#);
        let config = Config::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(config, defaults, "the default of {key}");
        optional.push(key.as_str());
    }
    // What serde would take is what the reference names.
    let unknown = Config::parse(format!(r#"{{{required},"unknown":1}}"#).as_bytes());
    let known = unknown.unwrap_err().to_string();
    for (key, _) in &rows {
        assert!(known.contains(&format!("`{key}`")), "{key} is not in: {known}");
    }
    let count = known.matches('`').count() / 2 - 1;
    assert_eq!(rows.len(), count, "{known}");
}
