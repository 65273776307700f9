//! TCP sessions of some listeners of an Envoy.
//!
//! Envoy counts the connections of a listener and the HTTP connections of a `stat_prefix`; sessions are the difference, over
//! all listeners that have their `stat_prefix`es in common.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    gauges::Gauges,
    layout::{Layout, Listener},
};
use crate::core::reading::{in_statistics, sum};

/// The listeners that have one name in the statistics.
#[derive(Default)]
struct Group<'l> {
    http: BTreeSet<&'l str>,
    has_sessions: bool,
}

/// Sessions of the listeners that have these names; 0 of names that no listener has.
///
/// `None` = its gauges do not tell them from HTTP connections: two listeners that have both share a `stat_prefix`.
pub(super) fn of(names: &[String], gauges: &Gauges, layout: &Layout) -> Option<u64> {
    let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    for listener in &layout.listeners {
        let group = groups.entry(&listener.stat_name).or_default();
        group.http.extend(listener.http.iter().map(String::as_str));
        group.has_sessions |= listener.has_sessions;
    }
    let wanted: BTreeSet<&str> = names
        .iter()
        .flat_map(|name| layout.named(name).filter(|listener| has_sessions(listener, name)))
        .map(|listener| &*listener.stat_name)
        .collect();
    wanted.into_iter().try_fold(0_u64, |sum, stat_name| {
        Some(sum.saturating_add(of_group(stat_name, gauges, &groups)?))
    })
}

/// Whether a name means the sessions of this listener: that of its HTTP connections alone does not.
fn has_sessions(listener: &Listener, name: &str) -> bool {
    listener.has_sessions && (listener.name == name || listener.tcp.contains(&*in_statistics(name)))
}

fn of_group(stat_name: &str, gauges: &Gauges, groups: &BTreeMap<&str, Group<'_>>) -> Option<u64> {
    let connections = |name: &str| gauges.connections.get(name).copied();
    let group = groups.get(stat_name)?;
    let of_http = group.http.iter().filter_map(|prefix| gauges.http.get(*prefix));
    let mut http = sum(of_http.map(|http| http.connections));
    for (other_name, other) in groups {
        if *other_name == stat_name || other.http.is_disjoint(&group.http) {
            continue;
        }
        // All that it has are HTTP connections, counted under the same prefixes.
        if other.has_sessions || !other.http.is_subset(&group.http) {
            return None;
        }
        http = http.saturating_sub(connections(other_name)?);
    }
    Some(connections(stat_name)?.saturating_sub(http))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, stat_name: &str, http: &[&str], tcp: &[&str]) -> Listener {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Listener {
            name: name.to_owned(),
            stat_name: stat_name.to_owned(),
            http: set(http),
            tcp: set(tcp),
            has_sessions: !tcp.is_empty(),
        }
    }

    fn sessions(names: &[&str], stats: &[(&str, u64)], listeners: Vec<Listener>) -> Option<u64> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let layout = Layout {
            listeners,
            ..Layout::default()
        };
        of(&names, &Gauges::of(stats), &layout)
    }

    #[test]
    fn all_connections_of_a_listener_without_http_are_sessions_by_any_of_its_names() {
        let listeners = || {
            vec![
                listener("web", "0.0.0.0_80", &["ingress"], &[]),
                listener("db", "0.0.0.0_5432", &[], &["db_tcp"]),
            ]
        };
        let stats = [
            ("listener.0.0.0.0_80.downstream_cx_active", 9),
            ("listener.0.0.0.0_5432.downstream_cx_active", 2),
            ("http.ingress.downstream_cx_active", 9),
        ];
        for names in [&["db"][..], &["db_tcp"], &["db", "db_tcp"]] {
            assert_eq!(sessions(names, &stats, listeners()), Some(2), "{names:?}");
        }
        assert_eq!(sessions(&["ingress"], &stats, listeners()), Some(0));
        assert_eq!(sessions(&["nobody"], &stats, listeners()), Some(0));
        let without = &stats[..1];
        assert_eq!(
            sessions(&["db"], without, listeners()),
            None,
            "a gauge that is missing is not 0"
        );
    }

    #[test]
    fn a_listener_with_both_has_what_its_http_connections_leave() {
        let both = || listener("mixed", "mixed", &["ingress"], &["raw"]);
        let stats = [
            ("listener.mixed.downstream_cx_active", 5),
            ("listener.web.downstream_cx_active", 4),
            ("http.ingress.downstream_cx_active", 6),
        ];
        // Of the six HTTP connections four are those of the other listener.
        let web = listener("web", "web", &["ingress"], &[]);
        assert_eq!(sessions(&["mixed"], &stats, vec![both(), web]), Some(3));
        let web = listener("web", "web", &["ingress", "other"], &[]);
        assert_eq!(sessions(&["mixed"], &stats, vec![both(), web]), None);
        let mixed_too = listener("web", "web", &["ingress"], &["raw2"]);
        assert_eq!(sessions(&["raw"], &stats, vec![both(), mixed_too]), None);
    }

    #[test]
    fn the_name_of_http_connections_does_not_mean_the_sessions_beside_them() {
        let both = vec![listener("mixed", "mixed", &["ingress"], &["raw"])];
        let stats = [("listener.mixed.downstream_cx_active", 5)];
        assert_eq!(sessions(&["ingress"], &stats, both), Some(0));
    }

    #[test]
    fn listeners_that_share_their_statistics_are_taken_together() {
        let stats = [
            ("listener.127.0.0.1_0.downstream_cx_active", 5),
            ("http.ingress.downstream_cx_active", 2),
        ];
        let listeners = vec![
            listener("web", "127.0.0.1_0", &["ingress"], &[]),
            listener("db", "127.0.0.1_0", &[], &["raw"]),
        ];
        assert_eq!(sessions(&["db"], &stats, listeners), Some(3));
    }
}
