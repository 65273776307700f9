//! Drains towards upstream endpoints.

use super::{
    super::{
        admins::{Reading, Requests},
        policy::Evidence,
    },
    evidence::by,
    *,
};

const ENDPOINT: &str = "10.0.0.1:80";

fn towards(evidence: Evidence) -> StartRequest {
    StartRequest {
        id: "d".to_owned(),
        scope: Scope {
            upstreams: vec![ENDPOINT.to_owned()],
            ..Scope::default()
        },
        overrides: by(evidence),
        ..StartRequest::default()
    }
}

fn counted(in_flight: u64) -> v1::FilterReport {
    let upstream = v1::UpstreamCounts {
        address: ENDPOINT.to_owned(),
        in_flight,
        started: 100,
        cut: 0,
    };
    v1::FilterReport {
        upstreams: vec![upstream],
        counts_upstreams: true,
        ..report(&[("ingress", 9)], 0)
    }
}

/// Nothing is said of the endpoint, as nothing went there since the stream opened.
fn idle() -> v1::FilterReport {
    v1::FilterReport {
        upstreams: Vec::new(),
        ..counted(0)
    }
}

fn clusters(in_flight: u64) -> Result<Reading, String> {
    let requests = Requests {
        in_flight,
        begun: Some(7),
    };
    Ok(Reading {
        upstreams: Some([(ENDPOINT.to_owned(), requests)].into()),
        ..Reading::default()
    })
}

impl World {
    fn towards(&mut self, evidence: Evidence) -> Result<(), StartError> {
        let (_, effects) = self.core.start(towards(evidence), self.now)?;
        self.take(effects);
        Ok(())
    }
}

/// `a` counts upstreams, and `b` does not.
fn one_that_counts_and_one_that_does_not() -> World {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 9)]);
    world.attach(2, "b", 6, 12, &[("ingress", 9)]);
    world.report_that(1, counted(0));
    world.report(2, &[("ingress", 9)]);
    world
}

#[test]
fn filters_that_do_not_count_upstreams_are_refused() {
    let mut world = one_that_counts_and_one_that_does_not();
    for evidence in [Evidence::Auto, Evidence::Filter] {
        let error = world.towards(evidence).unwrap_err();
        assert_eq!(error, StartError::NotCounted("b".to_owned()));
        assert!(!error.to_string().contains('\n'));
    }
}

#[test]
fn an_envoys_own_count_stands_in_for_filters_that_do_not_count_upstreams() {
    let mut world = one_that_counts_and_one_that_does_not();
    world.find_admin("b");
    world.towards(Evidence::Auto).unwrap();
    world.report_that(1, counted(0));
    world.report(2, &[("ingress", 9)]);
    let drain = world.drain("d");
    assert_eq!(drain.phase(), v1::Phase::Draining);
    assert!(
        drain.unknown_reporters[0]
            .reason
            .contains("does not count upstreams")
    );
    world.wait_for_calls(250);
    world.admin_says("b", clusters(1));
    assert_eq!(world.drain("d").in_flight, 1);
    world.wait_for_calls(50);
    world.admin_says("b", clusters(0));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
}

#[test]
fn a_filter_that_stops_counting_upstreams_becomes_unknown() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 9)]);
    world.report_that(1, counted(0));
    world.towards(Evidence::Auto).unwrap();
    world.report_that(1, counted(0));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    world.report(1, &[("ingress", 9), ("added", 0)]);
    assert_eq!(world.phase("d"), v1::Phase::Draining);
}

#[test]
fn an_endpoint_that_was_idle_is_known_by_the_admin() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 9)]);
    world.report_that(1, idle());
    world.find_admin("a");
    let error = world.towards(Evidence::Auto).unwrap_err();
    assert!(matches!(error, StartError::UnknownUpstream { .. }), "{error}");
    let (ask, effects) = world.core.query_names(world.now);
    let asks = Effect::AskAdmin {
        node: "a".to_owned(),
        ask,
        upstreams: true,
    };
    assert!(
        effects.contains(&asks) && !effects.contains(&Effect::Answered(ask)),
        "{effects:?}"
    );
    world.take(effects);
    let effects = world.report_that(1, idle());
    assert!(
        !effects.contains(&Effect::Answered(ask)),
        "the Envoy has not answered"
    );
    let effects = world.admin_says("a", clusters(0));
    assert!(effects.contains(&Effect::Answered(ask)), "{effects:?}");
    world.towards(Evidence::Auto).unwrap();
    world.report_that(1, idle());
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
}

#[test]
fn an_envoy_without_the_filter_is_asked_as_well() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 9)]);
    world.report_that(1, counted(0));
    world.find_admin("b");
    assert_eq!(
        world.towards(Evidence::Filter).unwrap_err(),
        StartError::NoFilter("b".to_owned())
    );
    world.towards(Evidence::Auto).unwrap();
    world.report_that(1, counted(0));
    assert_eq!(world.phase("d"), v1::Phase::Draining);
    world.wait_for_calls(250);
    world.admin_says("b", clusters(0));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
}

#[test]
fn what_envoy_cut_towards_the_endpoint_is_a_cut() {
    let cut = |in_flight, cut| {
        let mut said = counted(in_flight);
        said.upstreams[0].cut = cut;
        said
    };
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 9)]);
    world.report_that(1, cut(2, 3));
    world.towards(Evidence::Filter).unwrap();
    world.report_that(1, cut(2, 3));
    let goodbye = v1::FilterReport {
        goodbye: true,
        listeners: Vec::new(),
        ..cut(0, 5)
    };
    world.report_that(1, goodbye);
    world.wait(2_000);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.cut), (v1::Phase::Cut, 2), "{drain:?}");
}

#[test]
fn a_drain_that_closes_nothing_holds_nothing_and_is_forgotten() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 9)]);
    world.report_that(1, counted(0));
    world.towards(Evidence::Auto).unwrap();
    world.report_that(1, counted(0));
    world.wait(300);
    world.report_that(1, counted(0));
    assert_eq!(world.phase("d"), v1::Phase::Drained);
    assert!(world.told[&1].directives.is_empty(), "{:?}", world.told[&1]);
    world.told.clear();
    world.wait(60_000);
    assert!(world.told.is_empty(), "no lease is renewed");
    for number in 0..300 {
        let request = StartRequest {
            id: format!("d{number}"),
            overrides: PolicyOverrides {
                timeout: Some(Duration::ZERO),
                ..PolicyOverrides::default()
            },
            ..towards(Evidence::Auto)
        };
        let (_, effects) = world.core.start(request, world.now).unwrap();
        world.take(effects);
    }
    assert!(world.core.drains(world.now).len() <= 257);
}

#[test]
fn the_quiet_period_outlasts_a_back_off_unless_the_caller_says_otherwise() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 9)]);
    world.report_that(1, counted(0));
    world.towards(Evidence::Auto).unwrap();
    world.report_that(1, counted(0));
    // Envoy backs off between two tries of one request, for 250 ms at most.
    world.wait(250);
    world.report_that(1, counted(0));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    world.report_that(1, counted(1));
    assert_eq!(world.phase("d"), v1::Phase::Draining);
    let mut request = towards(Evidence::Auto);
    request.id = "e".to_owned();
    request.overrides.quiet_period = Some(Duration::ZERO);
    let (_, effects) = world.core.start(request, world.now).unwrap();
    world.take(effects);
    world.report_that(1, counted(0));
    assert_eq!(
        world.phase("e"),
        v1::Phase::Quiet,
        "and waits for no more than a confirmation"
    );
    world.report_that(1, counted(0));
    assert_eq!(world.phase("e"), v1::Phase::Drained);
}
