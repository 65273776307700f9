//! What the documents name is there.

use std::fs;

use anyhow::{Context as _, Result};
use ebb_e2e::bins::repository;

/// What stands between backticks and looks like a path of this repository: with a slash or a known ending, and
/// nothing that a path has not.
fn paths(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .map(|quoted| quoted.strip_prefix("./").unwrap_or(quoted))
        .filter(|quoted| {
            quoted
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        })
        .filter(|quoted| {
            let known = ["Makefile", "LICENSE"].contains(quoted);
            let ending = [".rs", ".md", ".toml", ".yaml", ".proto", ".py"]
                .iter()
                .any(|end| quoted.ends_with(end));
            // An absolute path, such as a socket's default, is one of the user's machine.
            !quoted.starts_with('/') && (known || ending || quoted.contains('/'))
        })
        .collect()
}

/// The targets of links that are no addresses.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .map(|target| target.split('#').next().unwrap_or(target))
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

fn missing(document: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(repository().join(document)).with_context(|| format!("no {document}"))?;
    let mut named = paths(&text);
    named.extend(links(&text));
    assert!(
        !named.is_empty(),
        "{document} names no path: this test would show nothing"
    );
    // What `make build` leaves is named, and not part of the repository.
    let named = named.into_iter().filter(|path| !path.starts_with("dist/"));
    Ok(named
        .filter(|path| !repository().join(path).exists())
        .map(str::to_owned)
        .collect())
}

#[test]
fn paths_named_in_architecture_exist() -> Result<()> {
    assert_eq!(missing("ARCHITECTURE.md")?, [""; 0]);
    Ok(())
}

#[test]
fn paths_named_in_the_readme_exist() -> Result<()> {
    assert_eq!(missing("README.md")?, [""; 0]);
    Ok(())
}

#[test]
fn a_path_that_is_not_there_is_found() {
    let text =
        "see `tests/src/nowhere.rs`, `Makefile`, `/run/ebb/ebb.sock`, `a b/c` and [this](docs/none.md#top)";
    assert_eq!(paths(text), ["tests/src/nowhere.rs", "Makefile"]);
    assert_eq!(links(text), ["docs/none.md"]);
}

#[test]
fn figures_in_the_readme_are_those_of_the_published_run() -> Result<()> {
    let read = |document: &str| {
        fs::read_to_string(repository().join(document)).with_context(|| format!("no {document}"))
    };
    let (readme, published) = (read("README.md")?, read("docs/bench/README.md")?);
    let part = readme.split("\n## ").find(|part| part.starts_with("In figures"));
    let rows = part.context("README.md has no figures")?.lines();
    let rows: Vec<&str> = rows.filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 8, "{rows:?}");
    let other: Vec<&&str> = rows.iter().filter(|row| !published.contains(**row)).collect();
    assert!(other.is_empty(), "not in docs/bench/README.md: {other:#?}");
    Ok(())
}
