//! Waiting for a condition, with a bound and a message.

use std::{
    fmt::Display,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The bound for what takes milliseconds on an idle machine: long enough for a busy one.
pub const PATIENCE: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again and again until `probe` answers `Ok(Some(value))`.
///
/// An `Err` counts as "not yet" and is told when the bound is reached.
///
/// # Errors
/// When `bound` has passed; the message names `what` and the last error.
pub async fn eventually<T, F, Fut>(what: impl Display, bound: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < bound {
        match tokio::time::timeout(bound.saturating_sub(start.elapsed()), probe()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => last = None,
            Ok(Err(error)) => last = Some(error),
            Err(_) => break,
        }
        tokio::time::sleep(PAUSE).await;
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("waited {bound:?} in vain: {what}")),
        None => bail!("waited {bound:?} in vain: {what}"),
    }
}

/// Asks again and again until `probe` answers `Ok(true)`.
///
/// # Errors
/// As [`eventually`].
pub async fn until<F, Fut>(what: impl Display, bound: Duration, mut probe: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool>>,
{
    eventually(what, bound, || {
        let answer = probe();
        async move { Ok(answer.await?.then_some(())) }
    })
    .await
}

/// Gives `future` at most `bound`.
///
/// # Errors
/// When `bound` has passed; the message names `what`.
pub async fn within<T>(what: impl Display, bound: Duration, future: impl Future<Output = T>) -> Result<T> {
    match tokio::time::timeout(bound, future).await {
        Ok(value) => Ok(value),
        Err(_) => bail!("waited {bound:?} in vain: {what}"),
    }
}
