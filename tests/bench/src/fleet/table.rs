//! The figures of a fleet as Markdown.

use super::figures::{DrainRound, Fleet, Size};
use crate::{
    markdown::{Table, spread, whole},
    stats::Spread,
};

/// Goals: 99 of 100 filters are told in this time, in milliseconds, and a stream needs no more than this memory, in KiB.
const TOLD_WITHIN: f64 = 100.0;
const MEMORY: f64 = 10.0;

/// Growth beyond linear that is more than noise.
const SUPERLINEAR: f64 = 1.25;

/// How a figure grows when all is linear.
#[derive(Clone, Copy, PartialEq)]
enum Linear {
    /// As the number of streams.
    Streams,
    /// Not at all: it is a figure per stream, or per report.
    Constant,
    /// It is not known to: a figure of a machine that is busy anyway, or a count of what should not be.
    None,
}

struct Row {
    name: &'static str,
    decimals: usize,
    linear: Linear,
    figures: fn(&Size) -> Vec<f64>,
}

const ROWS: [Row; 23] = [
    row(
        "attach: until the last has its first command, ms",
        0,
        Linear::Streams,
        |size| vec![size.attach.attached],
    ),
    row(
        "attach: until all are shown as live, ms",
        0,
        Linear::Streams,
        |size| vec![size.attach.shown],
    ),
    row(
        "`ListNodes`, which asks everybody, ms",
        0,
        Linear::Streams,
        |size| vec![size.attach.listing],
    ),
    row(
        "`ListNodes`: % that answered in its 250 ms",
        1,
        Linear::None,
        |size| vec![size.attach.listed as f64 * 100.0 / size.streams.max(1) as f64],
    ),
    row("told: median filter, ms", 1, Linear::Streams, |size| {
        of_drains(size, |drain| drain.told_p50)
    }),
    row("told: p99, ms", 1, Linear::Streams, |size| {
        of_drains(size, |drain| drain.told_p99)
    }),
    row("told: last filter, ms", 1, Linear::Streams, |size| {
        of_drains(size, |drain| drain.told_max)
    }),
    row(
        "told: until `StartDrain` answers, ms",
        1,
        Linear::Streams,
        |size| of_drains(size, |drain| drain.answered),
    ),
    row(
        "all requests end at once, until `drained`, ms",
        1,
        Linear::Streams,
        |size| of_drains(size, |drain| drain.drained),
    ),
    row(
        "of that, after the last filter's answer, ms",
        1,
        Linear::Streams,
        |size| of_drains(size, |drain| drain.after_last_answer),
    ),
    row("commands of a drain, per filter", 2, Linear::Constant, |size| {
        per_filter(size, |drain| drain.commands)
    }),
    row("reports of a drain, per filter", 2, Linear::Constant, |size| {
        per_filter(size, |drain| drain.reports)
    }),
    row("a drain waits: reports per second", 0, Linear::Streams, |size| {
        vec![size.load.rate()]
    }),
    row("a drain waits: CPU, % of a core", 1, Linear::Streams, |size| {
        vec![size.load.cpu * 100.0]
    }),
    row("a drain waits: CPU per report, µs", 1, Linear::Constant, |size| {
        vec![size.load.cpu_per_report()]
    }),
    row("idle: CPU, % of a core", 2, Linear::Streams, |size| {
        vec![size.idle.cpu * 100.0]
    }),
    row("idle: the same of the bare server", 2, Linear::Streams, |size| {
        vec![size.bare.idle.cpu * 100.0]
    }),
    row("memory per stream, KiB", 1, Linear::Constant, |size| {
        vec![size.memory() / 1024.0]
    }),
    row(
        "memory per stream after the drains, KiB",
        1,
        Linear::Constant,
        |size| vec![size.memory_later() / 1024.0],
    ),
    row(
        "memory per stream of the bare server, KiB",
        1,
        Linear::Constant,
        |size| vec![size.memory_bare() / 1024.0],
    ),
    row(
        "killed and restarted: until it answers, ms",
        0,
        Linear::None,
        |size| vec![size.storm.up],
    ),
    row(
        "killed and restarted: until all are back and told, ms",
        0,
        Linear::Streams,
        |size| vec![size.storm.back],
    ),
    row(
        "killed and restarted: streams opened in vain, or lost after that",
        0,
        Linear::None,
        |size| vec![(size.storm.extra + size.storm.unsettled) as f64],
    ),
];

const fn row(name: &'static str, decimals: usize, linear: Linear, figures: fn(&Size) -> Vec<f64>) -> Row {
    Row {
        name,
        decimals,
        linear,
        figures,
    }
}

fn of_drains(size: &Size, figure: fn(&DrainRound) -> f64) -> Vec<f64> {
    size.drains.iter().map(figure).collect()
}

fn per_filter(size: &Size, figure: fn(&DrainRound) -> u64) -> Vec<f64> {
    let drains = size.drains.iter();
    drains
        .map(|drain| figure(drain) as f64 / size.streams.max(1) as f64)
        .collect()
}

impl Row {
    fn cells(&self, sizes: &[&Size]) -> Vec<String> {
        let spreads: Vec<_> = sizes
            .iter()
            .map(|size| Spread::of(&(self.figures)(size)))
            .collect();
        let mut cells = vec![self.name.to_owned()];
        cells.extend(spreads.iter().map(|of_size| match of_size {
            Some(one) if one.least == one.most => format!("{:.*}", self.decimals, one.median),
            of_size => spread(*of_size, self.decimals),
        }));
        cells.push(self.growth(sizes, &spreads));
        cells
    }

    /// From the smallest to the largest.
    fn growth(&self, sizes: &[&Size], spreads: &[Option<Spread>]) -> String {
        let (Some(small), Some(large)) = (sizes.first(), sizes.last()) else {
            return String::new();
        };
        let (Some(Some(before)), Some(Some(after))) = (spreads.first(), spreads.last()) else {
            return String::new();
        };
        let linear = match self.linear {
            Linear::Streams => large.streams as f64 / small.streams.max(1) as f64,
            Linear::Constant => 1.0,
            Linear::None => return "–".to_owned(),
        };
        if before.median <= 0.0 {
            return "–".to_owned();
        }
        let grown = after.median / before.median;
        if grown > linear * SUPERLINEAR {
            format!("**×{grown:.1}** of ×{linear:.0}")
        } else {
            format!("×{grown:.1} of ×{linear:.0}")
        }
    }
}

impl Fleet {
    /// As a section of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = "## Fleet: many filters on one control plane\n\n\
            Simulated filters on one real `ebb serve` with a durable store, over a Unix socket. Each is the real filter's state \
            machine, with its intervals and its backoff, on an HTTP/2 stream of its own; four make up a node, and each has a \
            request in flight when a drain of everything starts. `told` is the time from the call of `StartDrain` to the \
            command at a filter. The bare server is tonic with the same service, which reads reports and does nothing.\n"
            .to_owned();
        let mut layouts: Vec<u64> = self.sizes.iter().map(|size| size.per_connection).collect();
        layouts.sort_unstable();
        layouts.dedup();
        for per_connection in layouts {
            let sizes: Vec<&Size> = self
                .sizes
                .iter()
                .filter(|size| size.per_connection == per_connection)
                .collect();
            text.push_str(&match per_connection {
                1 => "\nA connection per stream, as Envoy's workers have it:\n\n".to_owned(),
                many => format!("\n{many} streams share a connection, which tells what is per stream:\n\n"),
            });
            text.push_str(&table(&sizes));
        }
        text.push_str(&self.goals());
        text.push_str(
            "\nGrowth is that of the median, and what it would be if it were linear; bold is faster than that. Control plane, \
             bare server and filters share the machine's cores, and the filters' part is about as large as the control \
             plane's, so times are those of a fleet whose Envoys all run on the control plane's own machine. Memory is \
             what the process shares with nobody, less what it had before anybody attached.\n",
        );
        text
    }

    fn goals(&self) -> String {
        let mut text = String::new();
        for size in self.sizes.iter().filter(|size| size.per_connection == 1) {
            let told =
                Spread::of(&of_drains(size, |drain| drain.told_p99)).map_or(f64::NAN, |told| told.median);
            let (memory, bare) = (size.memory() / 1024.0, size.memory_bare() / 1024.0);
            let met = |is_met: bool| if is_met { "met" } else { "not met" };
            text.push_str(&format!(
                "\nGoals at {} filters: 99 of 100 told within {TOLD_WITHIN:.0} ms: {} ({told:.0} ms). At most {MEMORY:.0} KiB per \
                 stream: {} ({memory:.1} KiB, of which a server that does nothing needs {bare:.1}).\n",
                whole(size.streams),
                met(told <= TOLD_WITHIN),
                met(memory <= MEMORY),
            ));
        }
        text
    }
}

fn table(sizes: &[&Size]) -> String {
    let mut headings = vec![String::new()];
    headings.extend(
        sizes
            .iter()
            .map(|size| format!("{} filters", whole(size.streams))),
    );
    headings.push("growth".to_owned());
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut table = Table::new(&headings);
    for row in &ROWS {
        table.row(&row.cells(sizes));
    }
    table.finish()
}
