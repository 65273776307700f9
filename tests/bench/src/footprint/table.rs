//! The figures as Markdown.

use super::{
    Footprint, IdleRound,
    envoys::{EnvoyRound, WORKERS, Way},
};
use crate::{
    markdown::{Table, figure, spread, whole},
    stats::{Spread, percentile},
};

const MIB: f64 = 1024.0 * 1024.0;

impl Way {
    fn in_words(self) -> &'static str {
        match self {
            Self::None => "no filter",
            Self::Lua => "Lua alone (the gated closer)",
            Self::Ebb => "Ebb (filter and closer)",
        }
    }
}

impl Footprint {
    /// As a section of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let idle = |value: fn(&IdleRound) -> f64, decimals| {
            let values: Vec<f64> = self.idle.iter().map(value).collect();
            spread(Spread::of(&values), decimals)
        };
        let mut sizes = Table::new(&["", "figure"]);
        let mut row = |name: &str, value: String| sizes.row(&[name.to_owned(), value]);
        row("`ebb`, bytes", whole(self.binary));
        row("`ebb_filter.wasm`, bytes", whole(self.module));
        if let Some(unpacked) = self.unpacked {
            row(
                "the module before its unused exports are dropped, bytes",
                whole(unpacked),
            );
        }
        row(
            "`ebb serve`: resident memory, MiB",
            idle(|round| round.resident as f64 / MIB, 1),
        );
        row(
            "`ebb serve`: private memory, MiB",
            idle(|round| round.private as f64 / MIB, 1),
        );
        row(
            "`ebb serve`: from its start to its first answer, ms",
            idle(|round| round.start, 1),
        );
        row(
            "`/bin/true`, started the same way, from start to end, ms",
            idle(|round| round.nothing, 1),
        );
        format!(
            "## Footprint\n\nOn disk, and a control plane with a durable store that nobody has attached to:\n\n{}\n\
             Envoy with one listener that has filter and closer and one that has the filter, as shipped, beside the same Envoy \
             without them. Memory is what the process shares with nobody, in MiB. Each worker has a VM of its own, and so has \
             the main thread; what a further worker costs is the difference between {} and {} workers, divided.\n\n{}\n\
             `ready` is the time from Envoy's start until its admin says so; with the filter it compiles the module first. \
             All of Envoy's own code and V8's that is touched counts as its memory, as one Envoy alone maps it: on a host \
             with several, that part is shared.\n",
            sizes.finish(),
            WORKERS[0],
            WORKERS[1],
            self.envoys_table(),
        )
    }

    fn envoys_table(&self) -> String {
        let [few, many] = WORKERS;
        let few_heading = format!("{few} worker");
        let many_heading = format!("{many} workers");
        let ready = format!("ready with {few}, ms");
        let mut table = Table::new(&[
            "",
            &few_heading,
            &many_heading,
            "per worker",
            "more than without, per worker",
            "the same, after requests",
            &ready,
        ]);
        for way in Way::ALL {
            let memory = |workers| self.spread(way, workers, |round| round.memory as f64 / MIB);
            let more = |value: fn(&EnvoyRound) -> f64| {
                Some(self.per_worker(way, value)? - self.per_worker(Way::None, value)?)
                    .filter(|_| way != Way::None)
            };
            table.row(&[
                way.in_words().to_owned(),
                spread(memory(few), 1),
                spread(memory(many), 1),
                figure(self.per_worker(way, |round| round.memory as f64 / MIB), 2),
                figure(more(|round| round.memory as f64 / MIB), 2),
                figure(more(|round| round.memory_used as f64 / MIB), 2),
                spread(self.spread(way, few, |round| round.ready), 0),
            ]);
        }
        table.finish()
    }

    fn of(&self, way: Way, workers: u32, value: fn(&EnvoyRound) -> f64) -> Vec<f64> {
        let rounds = self
            .envoys
            .iter()
            .filter(|round| round.way == way && round.workers == workers);
        rounds.map(value).collect()
    }

    fn spread(&self, way: Way, workers: u32, value: fn(&EnvoyRound) -> f64) -> Option<Spread> {
        Spread::of(&self.of(way, workers, value))
    }

    /// What a further worker adds.
    fn per_worker(&self, way: Way, value: fn(&EnvoyRound) -> f64) -> Option<f64> {
        let [few, many] = WORKERS;
        let median = |workers| percentile(&self.of(way, workers, value), 50.0);
        Some((median(many)? - median(few)?) / f64::from(many - few))
    }
}
