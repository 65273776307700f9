//! A journal as people read it.

use std::fmt;

use super::{Journal, Probe, Start};

impl fmt::Display for Journal {
    /// Line by line, in the order of time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        for (number, drain) in self.drains.iter().enumerate() {
            let mut line = |at, text| lines.push((at, format!("drain {number} {text}")));
            line(drain.asked, format!("asked for: {}", drain.plan));
            match &drain.start {
                Start::Accepted(at) => line(*at, "has begun".to_owned()),
                Start::Refused(at, text) => line(*at, format!("refused: {text}")),
                Start::Nobody(text) => line(drain.asked, format!("not asked: {text}")),
            }
            if let Some((at, outcome)) = drain.end {
                line(at, format!("ended {}", outcome.name()));
            }
            if let Some((at, code, outcome)) = &drain.exit {
                line(
                    *at,
                    format!("its command line exits with {code:?}, outcome {outcome:?}"),
                );
            }
            if let Some(at) = drain.earliest_end {
                line(at, "may have ended by now".to_owned());
            }
            if let Some(at) = drain.cancelled {
                line(at, "cancelled".to_owned());
            }
            if let Some(at) = drain.lost {
                line(at, "IS NOT KNOWN ANY MORE".to_owned());
            }
        }
        for request in &self.requests {
            let who = format!(
                "request {} on {} of Envoy {}",
                request.id,
                request.listener.name(),
                request.envoy
            );
            lines.push((request.sent, format!("{who} sent")));
            for (place, span) in [("ext_authz", request.authz), ("the upstream", request.upstream)] {
                let Some(span) = span else { continue };
                lines.push((span.began, format!("{who} is at {place}")));
                if let Some(at) = span.ended {
                    let how = if span.cut { "was cut at" } else { "is done at" };
                    lines.push((at, format!("{who} {how} {place}")));
                }
            }
            lines.push((request.done, format!("{who}: {:?}", request.answer)));
        }
        for seen in &self.faults {
            match &seen.skipped {
                None => {
                    lines.push((seen.from, format!("FAULT {:?}", seen.fault)));
                    lines.push((seen.until, format!("end of fault {:?}", seen.fault)));
                }
                Some(reason) => lines.push((seen.from, format!("no fault {:?}: {reason}", seen.fault))),
            }
        }
        for outage in &self.outages {
            lines.push((
                outage.from,
                format!("the control plane is away: {:?}", outage.away),
            ));
            lines.push((outage.until, "the control plane is back".to_owned()));
        }
        for end in &self.ends {
            lines.push((end.at, format!("Envoy {} is stopped: {:?}", end.envoy, end.why)));
        }
        for stall in self.stalls.iter().filter(|stall| stall.length.as_millis() >= 20) {
            lines.push((
                stall.at,
                format!("the machine stands still for {:?}", stall.length),
            ));
        }
        for probe in &self.probes {
            let Probe { envoy, listener, .. } = probe;
            let name = listener.name();
            lines.push((
                probe.at,
                format!("probe of {name} of Envoy {envoy}: {:?}", probe.answer),
            ));
        }
        lines.sort();
        lines
            .iter()
            .try_for_each(|(at, text)| writeln!(f, "    {:>8.3} {text}", at.as_secs_f64()))
    }
}
