//! What the sources must not do: know Proxy-Wasm, or be unsafe, anywhere but in one place.

#![allow(clippy::unwrap_used, reason = "a test may panic, and so may what it calls")]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The source files in which a line of code contains `word`.
fn files_with(word: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let code = |text: &str| {
        text.lines()
            .any(|line| !line.trim_start().starts_with("//") && line.contains(word))
    };
    let with = sources(&folder)
        .into_iter()
        .filter(|path| code(&fs::read_to_string(path).unwrap()));
    with.map(|path| path.strip_prefix(&folder).unwrap().display().to_string())
        .collect()
}

#[test]
fn one_file_knows_proxy_wasm() {
    assert_eq!(files_with("proxy_wasm"), ["host.rs"]);
}

#[test]
fn one_file_is_unsafe() {
    assert_eq!(files_with("unsafe "), ["hostcalls.rs"]);
}
