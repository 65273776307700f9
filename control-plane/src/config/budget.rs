//! Whether a shutdown fits its grace period: the sum of its phases along the longest dependency chain.

use std::time::Duration;

use super::{Config, DrainTimes, defaults, process::Process};
use crate::core::policy::Policy;

/// What a drain must leave for requests to end, beside what it waits for in any case.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// What drains of a shutdown may take, or the sum that does not fit.
///
/// A `[drain] timeout` that is unset becomes what the grace period leaves.
///
/// # Errors
/// The arithmetic, if even what is kept for the stops, or the configured drain with that, does not fit.
pub(super) fn drain_times(config: &Config) -> Result<DrainTimes, String> {
    let grace = config.shutdown.grace_period;
    let policy = policy(config);
    // Without a grace period everything is killed at once: nothing has to fit.
    if grace.is_zero() {
        return Ok(DrainTimes {
            least: policy.timeout,
            most: policy.timeout,
        });
    }
    let (smallest, most) = match config.drain.timeout {
        Some(timeout) => (timeout, timeout),
        None => ((policy.least() + SHORTEST_WAIT).min(grace), grace),
    };
    let path = longest(config, smallest);
    if path.total() > grace {
        return Err(path.arithmetic(grace));
    }
    // The largest whole number of milliseconds that fits: the total grows with it.
    let (mut fits, mut too_long) = (smallest.as_millis(), most.as_millis());
    while too_long.saturating_sub(fits) > 1 {
        let middle = fits.midpoint(too_long);
        if longest(config, milliseconds(middle)).total() <= grace {
            fits = middle;
        } else {
            too_long = middle;
        }
    }
    let least = if smallest == most {
        most
    } else {
        milliseconds(fits)
    };
    Ok(DrainTimes { least, most })
}

/// Every key has a value; one that is refused elsewhere has its default.
fn policy(config: &Config) -> Policy {
    Policy::default().with(&config.drain).unwrap_or_default()
}

fn milliseconds(count: u128) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(u64::MAX))
}

/// The phases of a chain of processes, each with its bound.
#[derive(Clone, Default)]
struct Path(Vec<(String, Duration)>);

impl Path {
    fn total(&self) -> Duration {
        self.0
            .iter()
            .fold(defaults::RESERVE, |sum, (_, phase)| sum.saturating_add(*phase))
    }

    fn arithmetic(&self, grace: Duration) -> String {
        let mut terms: Vec<String> = self
            .0
            .iter()
            .map(|(what, phase)| format!("{what} {}", humantime::format_duration(*phase)))
            .collect();
        terms.push(format!(
            "reserve {}",
            humantime::format_duration(defaults::RESERVE)
        ));
        format!(
            "too short: {} = {}, but the grace period is {}: shorten the drain or the stop timeouts, or lengthen it here \
             and at the orchestrator",
            terms.join(" + "),
            humantime::format_duration(self.total()),
            humantime::format_duration(grace)
        )
    }
}

/// The longest way from a process that nothing depends on down to one that depends on nothing.
fn longest(config: &Config, drain: Duration) -> Path {
    let mut below: Vec<Option<Path>> = vec![None; config.processes.len()];
    let announce = policy(config).announce;
    let mut longest = Path::default();
    for (index, process) in config.processes.iter().enumerate() {
        let mut path = Path::default();
        // A drain contains the announcement; a chain that begins without one waits for it alone.
        if process.drain.is_none() && !announce.is_zero() {
            path.0.push(("announce".to_owned(), announce));
        }
        path.0.extend(chain(config, index, drain, &mut below).0);
        if path.total() > longest.total() {
            longest = path;
        }
    }
    longest
}

/// The longest chain that begins with this process. The graph has no cycle: it was refused before.
fn chain(config: &Config, index: usize, drain: Duration, below: &mut [Option<Path>]) -> Path {
    if let Some(Some(known)) = below.get(index) {
        return known.clone();
    }
    let Some(process) = config.processes.get(index) else {
        return Path::default();
    };
    let mut path = Path::default();
    if process.drain.is_some() {
        path.0.push((format!("drain of {}", process.name), drain));
    }
    let Process { name, stop, .. } = process;
    let least = if stop.timeout.is_none() { " at least" } else { "" };
    let kept = stop.kept(config.shutdown.grace_period);
    path.0.push((format!("stop of {name}{least}"), kept));
    let rest = process
        .depends_on
        .iter()
        .map(|dependency| chain(config, *dependency, drain, below))
        .max_by_key(Path::total);
    path.0.extend(rest.unwrap_or_default().0);
    if let Some(slot) = below.get_mut(index) {
        *slot = Some(path.clone());
    }
    path
}

#[cfg(test)]
mod tests {
    use super::super::{
        parse,
        tests::{EXAMPLE, named, only},
    };
    use super::*;

    #[test]
    fn a_grace_period_that_cannot_fit_is_refused_with_the_arithmetic() {
        let short = EXAMPLE.replace("grace_period = \"30s\"", "grace_period = \"20s\"");
        let problem = only(&short);
        assert!(
            problem.starts_with(
                "12: shutdown.grace_period = \"20s\": too short: drain of router 15s + stop of router 5s + stop of \
                 policy-engine at least 1s + stop of python-executor at least 1s + reserve 500ms = 22s 500ms, but the grace \
                 period is 20s"
            ),
            "{problem}"
        );
        let problems = parse(EXAMPLE, Some("22s")).expect_err("refused");
        assert!(
            problems[0]
                .to_string()
                .starts_with(" EBB_GRACE_PERIOD = \"22s\": too short: "),
            "{}",
            problems[0]
        );
        assert!(parse(EXAMPLE, Some("23s")).is_ok());
        assert!(parse(&short, Some("1m")).is_ok());
        assert!(parse(EXAMPLE, Some("soon")).is_err());
        assert!(
            parse(EXAMPLE, Some("0s")).is_ok(),
            "0 = no grace period: nothing has to fit"
        );
    }

    #[test]
    fn the_longest_of_several_chains_counts() {
        let source = |grace: &str| {
            [
                format!("[drain]\nannounce = \"2s\"\n[shutdown]\ngrace_period = \"{grace}\"\n"),
                named("top", "depends_on = [\"slow\", \"quick\"]"),
                named("slow", "stop = { timeout = \"9s\" }"),
                named("quick", "stop = { timeout = \"1s\" }"),
                named("alone", "stop = { timeout = \"14s\" }"),
            ]
            .concat()
        };
        let problem = only(&source("16s"));
        assert!(
            problem.contains("announce 2s + stop of alone 14s + reserve 500ms = 16s 500ms"),
            "{problem}"
        );
        assert!(parse(&source("16500ms"), None).is_ok());
    }

    #[test]
    fn an_unset_drain_timeout_takes_what_the_grace_period_leaves() {
        let source = |drain: &str| {
            [
                drain.to_owned(),
                named("edge", "drain = {}\ndepends_on = [\"inner\"]"),
                named("inner", "drain = {}"),
            ]
            .concat()
        };
        let times = |source: &str, grace| parse(source, Some(grace)).expect("accepted").shutdown.drain;
        // (30 s - 0.5 s reserve - 2 x 1.5 s) / 2 drains.
        let both = times(&source(""), "30s");
        assert_eq!(both.least, Duration::from_millis(13_250));
        assert_eq!(
            both.most,
            Duration::from_secs(30),
            "as much as the other does not need"
        );
        // What the file promises, and not the 30 s of other drains.
        let roomy = times(&source(""), "10m");
        assert_eq!(roomy.least, Duration::from_millis((600_000 - 500 - 8_000) / 2));
        let explicit = only(&source("[drain]\ntimeout = \"14s\"\n"));
        assert!(
            explicit.contains("drain of edge 14s + stop of edge at least 1s 500ms + drain of inner 14s"),
            "{explicit}"
        );
        assert!(
            parse(&source(""), Some("1s")).is_err(),
            "no room for a quiet period"
        );
    }

    #[test]
    fn a_stop_timeout_that_is_unset_is_lent_to_drains_and_one_that_is_set_is_not() {
        let source = |stop: &str| {
            [
                named("proxy", &format!("drain = {{}}\ndepends_on = [\"app\"]\n{stop}")),
                named("app", stop),
            ]
            .concat()
        };
        let least =
            |stop: &str, grace| parse(&source(stop), Some(grace)).map(|config| config.shutdown.drain.least);
        let ms = Duration::from_millis;
        for (grace, lent) in [("5s", 4_000), ("10s", 8_500), ("30s", 26_500), ("10m", 591_500)] {
            assert_eq!(least("", grace).expect("accepted"), ms(lent), "of {grace}");
        }
        let set = "stop = { timeout = \"4s\" }";
        assert!(least(set, "5s").is_err());
        assert_eq!(least(set, "10s").expect("accepted"), ms(1_500));
        assert_eq!(
            least("stop = { timeout = \"0s\" }", "10s").expect("accepted"),
            ms(9_500)
        );
    }
}
