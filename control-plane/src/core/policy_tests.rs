use super::*;

#[test]
fn an_unset_key_keeps_the_default_and_an_explicit_zero_does_not() {
    let default = Policy::default();
    assert_eq!(default.with(&PolicyOverrides::default()).unwrap(), default);
    let zero = PolicyOverrides {
        quiet_period: Some(Duration::ZERO),
        ..Default::default()
    };
    assert_eq!(default.with(&zero).unwrap().quiet_period, Duration::ZERO);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let refuse = |overrides: PolicyOverrides| Policy::default().with(&overrides).unwrap_err().to_string();
    let long = Duration::from_secs(90_000);
    assert!(
        refuse(PolicyOverrides {
            ramp: Some(long),
            ..Default::default()
        })
        .contains("policy.ramp: 1day 1h")
    );
    let short = Duration::from_millis(999);
    assert!(
        refuse(PolicyOverrides {
            lease: Some(short),
            ..Default::default()
        })
        .contains("policy.lease: 999ms")
    );
    let quiet = Duration::from_secs(30);
    let text = refuse(PolicyOverrides {
        quiet_period: Some(quiet),
        ..Default::default()
    });
    assert_eq!(
        text,
        "policy.timeout: 30s cannot hold announce 0s + quiet_period 30s: raise timeout, or set it to 0 to not wait"
    );
}

#[test]
fn what_comes_after_the_last_request_has_to_fit_as_well() {
    let refuse = |overrides: PolicyOverrides| Policy::default().with(&overrides).unwrap_err().to_string();
    let long = Some(Duration::from_secs(30));
    for (key, overrides) in [
        (
            "linger",
            PolicyOverrides {
                linger: long,
                ..Default::default()
            },
        ),
        (
            "flush",
            PolicyOverrides {
                flush: long,
                ..Default::default()
            },
        ),
        (
            "idle",
            PolicyOverrides {
                idle: long,
                ..Default::default()
            },
        ),
    ] {
        let text = refuse(overrides);
        assert!(
            text.starts_with(&format!(
                "policy.timeout: 30s cannot hold announce 0s + {key} 30s:"
            )),
            "{text}"
        );
    }
}

#[test]
fn a_short_drain_does_not_time_out_for_a_linger_that_nobody_asked_for() {
    let short = |linger| PolicyOverrides {
        timeout: Some(Duration::from_millis(800)),
        linger,
        ..PolicyOverrides::default()
    };
    let policy = Policy::default().with(&short(None)).unwrap();
    assert_eq!(policy.linger, Duration::from_millis(300));
    assert!(
        Policy::default()
            .with(&short(Some(Duration::from_secs(1))))
            .is_err()
    );
    let zero = Policy::default().with(&short(Some(Duration::ZERO))).unwrap();
    assert_eq!(zero.linger, Duration::ZERO);
    // What is kept of a drain is what it went by.
    let kept = PolicyOverrides::from_proto(&policy.to_proto()).unwrap();
    assert_eq!(Policy::default().with(&kept).unwrap(), policy);
}

#[test]
fn a_timeout_of_zero_holds_anything() {
    let overrides = PolicyOverrides {
        timeout: Some(Duration::ZERO),
        ..Default::default()
    };
    assert!(Policy::default().with(&overrides).is_ok());
}

#[test]
fn a_negative_duration_on_the_wire_names_its_key() {
    for (seconds, nanos) in [(-1, 0), (1, -1), (0, 1_000_000_000), (i64::MIN, i32::MIN)] {
        let wire = v1::Policy {
            ramp: Some(prost_types::Duration { seconds, nanos }),
            ..Default::default()
        };
        assert_eq!(
            PolicyOverrides::from_proto(&wire),
            Err(PolicyError::NotADuration { key: "ramp" })
        );
    }
}

#[test]
fn the_wire_carries_every_key_there_and_back() {
    let policy = Policy {
        on_timeout: OnTimeout::Abort,
        tcp: Tcp::Ignore,
        linger: Duration::from_secs(2),
        flush: Duration::from_secs(3),
        idle: Duration::from_secs(4),
        ..Policy::default()
    };
    let overrides = PolicyOverrides::from_proto(&policy.to_proto()).unwrap();
    assert_eq!(Policy::default().with(&overrides).unwrap(), policy);
}
