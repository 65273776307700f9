//! Requests to upstreams that Envoy makes on its own account, beside those that answer a client: mirrors and side calls.
//!
//! Pending ones are always work that is left to do. Active ones are, too, unless they are streams that never end by
//! themselves, as those of access logs and of xDS: which clusters have those, the configuration tells.

use super::{gauges::Gauges, layout::Layout};
use crate::envoy_config::CONTROL_PLANE_CLUSTER;

/// Whether there are active requests that the configuration has to explain.
pub(super) fn any_active(gauges: &Gauges) -> bool {
    let clusters = gauges.clusters.iter();
    clusters
        .filter(|(name, _)| *name != CONTROL_PLANE_CLUSTER)
        .any(|(_, cluster)| cluster.active > 0)
}

/// Requests that end by themselves, and have not. Without the configuration only where it has nothing to explain.
pub(super) fn outstanding(gauges: &Gauges, layout: Option<&Layout>) -> u64 {
    let own = |name: &str| {
        name == CONTROL_PLANE_CLUSTER || layout.is_some_and(|layout| layout.control_planes.contains(name))
    };
    let stands = |name: &str| layout.is_some_and(|layout| layout.standing.contains(name));
    let clusters = gauges.clusters.iter().filter(|(name, _)| !own(name));
    clusters
        .map(|(name, cluster)| {
            let active = if stands(name) { 0 } else { cluster.active };
            cluster.pending.saturating_add(active)
        })
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_requests_count_everywhere_and_active_ones_where_they_end() {
        let gauges = Gauges::of(&[
            ("cluster.mirror.upstream_rq_active", 1),
            ("cluster.mirror.upstream_rq_pending_active", 4),
            ("cluster.als.upstream_rq_active", 1),
            ("cluster.als.upstream_rq_pending_active", 2),
            ("cluster.ebb_control_plane.upstream_rq_active", 3),
            ("cluster.ebb_control_plane.upstream_rq_pending_active", 3),
            ("cluster.named.otherwise.upstream_rq_active", 5),
        ]);
        assert!(any_active(&gauges));
        let layout = Layout {
            standing: ["als".to_owned()].into(),
            control_planes: ["named.otherwise".to_owned()].into(),
            ..Layout::default()
        };
        assert_eq!(outstanding(&gauges, Some(&layout)), 1 + 4 + 2);
    }

    #[test]
    fn what_waits_alone_needs_no_explanation() {
        let gauges = Gauges::of(&[
            ("cluster.a.upstream_rq_active", 0),
            ("cluster.a.upstream_rq_pending_active", 2),
            ("cluster.ebb_control_plane.upstream_rq_active", 3),
        ]);
        assert!(!any_active(&gauges));
        assert_eq!(outstanding(&gauges, None), 2);
    }
}
