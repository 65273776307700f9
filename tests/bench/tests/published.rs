//! The figures that are published are those of their run: the documents are what `bench --render` makes of it.

use std::fs;

use anyhow::{Context as _, Result};
use ebb_bench::record::Record;
use ebb_e2e::bins::repository;

#[test]
fn published_tables_and_plots_are_made_of_the_published_run() -> Result<()> {
    let published = repository().join("docs/bench");
    let made = tempfile::tempdir()?;
    Record::read(&published.join("run.json"))?.write(made.path())?;
    for file in ["README.md", "rolling.svg", "detection.svg"] {
        let (published, made) = (published.join(file), made.path().join(file));
        let published =
            fs::read_to_string(&published).with_context(|| format!("no {}", published.display()))?;
        // Not `assert_eq`: nobody wants to read two whole pictures.
        assert!(
            published == fs::read_to_string(made)?,
            "docs/bench/{file} is not what `bench --render docs/bench/run.json --out docs/bench` makes"
        );
    }
    Ok(())
}
