//! A plugin configuration that is wrong is refused with a log line that says what is wrong.

use anyhow::Result;
use ebb_e2e::{
    bootstrap::Bootstrap,
    envoy::{EnvoyOptions, Starting},
    upstream::Upstream,
    world::folder,
};

/// Starts Envoy with a changed configuration, which it has to refuse, and returns its log.
async fn refused(edit: fn(&mut Bootstrap) -> Result<()>) -> Result<String> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions {
        edit,
        ..EnvoyOptions::default()
    };
    let control_plane = folder.path().join("ebb.sock");
    Starting::spawn(&options, folder.path(), &control_plane, upstream.address())?
        .refused()
        .await
}

fn assert_one_line_says(log: &str, words: &[&str]) {
    let found = log
        .lines()
        .any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "no line says {words:?}");
}

#[tokio::test]
async fn unknown_key_is_refused_and_named() -> Result<()> {
    let log = refused(|bootstrap| bootstrap.configure_plugins("report_intervall", &"1s".into())).await?;
    assert_one_line_says(&log, &["report_intervall"]);
    Ok(())
}

#[tokio::test]
async fn empty_cluster_name_is_refused() -> Result<()> {
    let log = refused(|bootstrap| bootstrap.configure_plugins("control_plane_cluster", &"".into())).await?;
    assert_one_line_says(&log, &["control_plane_cluster"]);
    Ok(())
}

#[tokio::test]
async fn bad_duration_is_refused_and_its_key_named() -> Result<()> {
    let log = refused(|bootstrap| bootstrap.configure_plugins("reconnect_min", &"fast".into())).await?;
    assert_one_line_says(&log, &["reconnect_min"]);
    Ok(())
}
