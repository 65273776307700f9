//! The benchmarks of single drains still work: everything that was asked for was measured.

use anyhow::Result;
use ebb_bench::{Mode, announcement, detection, progress::Progress, stats::percentile};

#[tokio::test]
async fn detection_is_measured_for_everybody() -> Result<()> {
    let detection = detection::run(Mode::Short, &Progress::default()).await?;
    let counts: Vec<usize> = detection.ways.iter().map(|way| way.times.len()).collect();
    assert_eq!(counts, [5, 6, 6]);
    // A drain never ends before its quiet period is over; the client hears of the response a moment later than Envoy.
    let least = percentile(&detection.ways[0].times, 0.0);
    assert!(
        least.is_some_and(|least| least > detection.quiet_period / 2.0),
        "{detection:?}"
    );
    let text = detection.markdown();
    assert!(text.contains("| asking every 0.5 s | 6 |"), "{text}");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("plot.svg");
    detection.plot(&file)?;
    assert!(std::fs::read_to_string(file)?.contains("asking every 0.5 s"));
    Ok(())
}

#[tokio::test]
async fn announcement_is_measured_for_every_way() -> Result<()> {
    let announcement = announcement::run(Mode::Short, &Progress::default()).await?;
    let counts: Vec<usize> = announcement.ways.iter().map(|way| way.times.len()).collect();
    assert_eq!(counts, [4, 4, 4]);
    assert!(
        announcement
            .ways
            .iter()
            .flat_map(|way| &way.times)
            .all(|time| *time > 0.0)
    );
    assert!(announcement.markdown().contains("`POST /healthcheck/fail`"));
    Ok(())
}
