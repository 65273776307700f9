//! What the kernel says of a process: CPU time and memory, from `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// CPU time that the live threads of a process have used, in user and kernel mode, to the nanosecond. A thread that ends
/// takes its time with it, so the difference between two readings is right only while none does.
///
/// # Errors
/// When there is no such process.
pub fn cpu(pid: u32) -> Result<Duration> {
    let folder = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    let mut total = 0;
    for task in tasks {
        // A thread may end in between.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let first = text.split_whitespace().next().context("an empty schedstat")?;
        total += first.parse::<u64>().context("schedstat is no number")?;
    }
    Ok(Duration::from_nanos(total))
}

/// Memory that a process keeps resident and shares with nobody, in bytes: what would be free without it.
///
/// # Errors
/// When there is no such process.
pub fn private_memory(pid: u32) -> Result<u64> {
    rollup(pid, &["Private_Clean:", "Private_Dirty:"])
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident_memory(pid: u32) -> Result<u64> {
    rollup(pid, &["Rss:"])
}

fn rollup(pid: u32, keys: &[&str]) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kilobytes = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let key = words.next()?;
        keys.contains(&key).then(|| words.next()?.parse::<u64>().ok())?
    });
    Ok(kilobytes.sum::<u64>() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        assert!(cpu(pid).unwrap() > Duration::ZERO);
        let (resident, private) = (resident_memory(pid).unwrap(), private_memory(pid).unwrap());
        assert!(private > 0 && resident >= private, "{resident} {private}");
    }

    #[test]
    fn nobody_is_an_error() {
        assert!(cpu(u32::MAX).is_err());
        assert!(resident_memory(u32::MAX).is_err());
    }
}
