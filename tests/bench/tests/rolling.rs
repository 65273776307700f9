//! Restarts under load, once each: who is there loses what it must, and Ebb nothing. Times are not looked at.

use anyhow::{Context as _, Result, ensure};
use ebb_bench::{
    Mode,
    progress::Progress,
    rolling::{self, Series, Variant, contender::Contender},
};

fn series(variant: &Variant, contender: Contender) -> Result<&Series> {
    let series = variant.of(contender);
    series.with_context(|| format!("{} took no part", contender.name()))
}

#[tokio::test]
async fn ebb_fails_no_request_where_a_plain_sigterm_does_and_everybody_is_shown() -> Result<()> {
    let rolling = rolling::run(Mode::Short, &Progress::default()).await?;
    for variant in [&rolling.busy, &rolling.idle] {
        for series in &variant.series {
            ensure!(!series.restarts.is_empty() && series.requests() > 0, "{series:?}");
        }
        let ebb = series(variant, Contender::Ebb)?;
        ensure!(ebb.failed() == 0, "Ebb failed requests: {ebb:?}");
        let plain = series(variant, Contender::Plain)?;
        ensure!(plain.failed() > 0, "a plain SIGTERM failed no request: {plain:?}");
    }
    let restarts = |variant: &Variant| {
        variant
            .series
            .iter()
            .flat_map(|series| series.restarts.clone())
            .collect::<Vec<_>>()
    };
    ensure!(
        restarts(&rolling.busy)
            .iter()
            .all(|restart| restart.idle_client.is_none())
    );
    ensure!(
        restarts(&rolling.idle)
            .iter()
            .all(|restart| restart.idle_client == Some(true)),
        "an idle client was not there: {:?}",
        rolling.idle
    );
    let counting = series(&rolling.idle, Contender::EnvoyGateway)?;
    ensure!(
        counting.restarts.iter().all(|restart| restart.deadline),
        "a loop over connections did not wait for the idle client: {counting:?}"
    );

    let text = rolling.markdown();
    for contender in Contender::FEW {
        ensure!(
            text.contains(contender.name()),
            "{} is not in the text:\n{text}",
            contender.name()
        );
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("rolling.svg");
    rolling.plot(&file)?;
    ensure!(
        std::fs::read_to_string(&file)?.contains("Ebb"),
        "Ebb is not in the plot"
    );
    Ok(())
}
