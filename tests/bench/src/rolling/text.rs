//! The restarts as a section of Markdown.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Restart, Rolling, Series, Variant, contender::Contender, site::CHECK_EVERY, traffic::STREAMS};
use crate::{
    markdown::{Table, spread, whole},
    stats::{Spread, percentile},
};

pub(super) fn markdown(rolling: &Rolling) -> String {
    let Rolling { divisor, busy, idle } = rolling;
    let mut text = format!(
        "## Rolling restarts under load\n\nTwo replicas, each an Envoy and the app behind it as processes of their own, stand behind \
         HAProxy in TCP mode, which asks for their health every {} ms and tries nothing twice. {} keep-alive clients ({} of them over \
         HTTP/2, with {STREAMS} requests at a time; one at a time over HTTP/1.1) wait for each answer, then ask again, and try \
         nothing twice either; a few requests take up to 2 s, most take 1 to 40 ms. Each restart was measured from the signal until \
         both replicas were up again. In each round every contender in turn restarted one of its replicas.\n\n",
        CHECK_EVERY.as_millis(),
        busy.clients,
        busy.http2_clients,
    );
    text.push_str(&table(busy));
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "\nThe load reached {} requests/s.\n\nThe same with one idle keep-alive client: it has asked once, over HTTP/1.1 and straight \
         to the replica that is restarted, and then kept its connection without using it. As loops over connections take long then, \
         all contenders restarted side by side and shared the load: {} clients in all, {} requests/s.\n",
        rate(busy),
        idle.clients,
        rate(idle),
    );
    text.push_str(&table(idle));
    let absent = restarts(idle)
        .filter(|restart| restart.idle_client == Some(false))
        .count();
    if absent > 0 {
        let _ = writeln!(
            text,
            "\nIn {absent} of these restarts the idle client was gone before the signal."
        );
    }
    text.push_str("\nWho does what (what carries another product's name is an emulation, written anew from a description of its loop):\n\n");
    for series in &busy.series {
        let _ = writeln!(
            text,
            "- **{}**: {}.",
            series.contender.name(),
            series.contender.what()
        );
    }
    text.push_str(
        "\nTime is wasted from the last response of the replica's app, or from the signal if that is later, to the end of the replica's \
         last process. Ebb's exit includes the time for which it waits for the load balancer to notice, during which it serves; its \
         waste is a quiet period of 200 ms and the time in which listeners close and processes end. No way to stop an Envoy protects an idle connection on which a request arrives at the very \
         moment at which it is closed; nobody's idle client sent one. A client whose request has failed waits 100 ms before it comes \
         back, so that a replica that is gone is not hammered. A longer stop sees more requests, so compare failures and not shares.\n",
    );
    if *divisor > 1 {
        let _ = writeln!(
            text,
            "\n**A short run**: the times of everybody but Ebb were divided by {divisor}, with fewer clients and shorter requests. It \
             shows that the benchmark works, and no figures."
        );
    }
    text
}

fn table(variant: &Variant) -> String {
    let mut table = Table::new(&[
        "contender",
        "restarts",
        "requests",
        "failed",
        "signal to exit, s",
        "wasted after the last request, s",
    ]);
    for series in &variant.series {
        let seconds = |figure: fn(&Restart) -> f64| spread(Spread::of(&series.each(figure)), 2);
        let name = series.contender.name();
        table.row(&[
            if series.contender == Contender::Ebb {
                format!("**{name}**")
            } else {
                name.to_owned()
            },
            series.restarts.len().to_string(),
            whole(series.requests()),
            failed(&series.failures()),
            seconds(|restart| restart.exit) + &deadlines(series),
            seconds(Restart::wasted),
        ]);
    }
    table.finish()
}

fn failed(failures: &BTreeMap<String, u64>) -> String {
    let total = whole(failures.values().sum());
    let kinds: Vec<String> = failures
        .iter()
        .map(|(kind, number)| format!("{} {kind}", whole(*number)))
        .collect();
    if kinds.is_empty() {
        total
    } else {
        format!("{total} ({})", kinds.join(", "))
    }
}

/// How many restarts were ended by a deadline, if any were.
fn deadlines(series: &Series) -> String {
    match series.restarts.iter().filter(|restart| restart.deadline).count() {
        0 => String::new(),
        number => format!("; {number} at the deadline"),
    }
}

fn restarts(variant: &Variant) -> impl Iterator<Item = &Restart> {
    variant.series.iter().flat_map(|series| &series.restarts)
}

/// The median with the spread, in whole requests per second.
fn rate(variant: &Variant) -> String {
    let at = |percent| percentile(&variant.rates, percent).map_or(0, |rate| rate.round() as u64);
    format!("{} ({}–{})", whole(at(50.0)), whole(at(0.0)), whole(at(100.0)))
}
