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
        ..Policy::default()
    };
    let overrides = PolicyOverrides::from_proto(&policy.to_proto()).unwrap();
    assert_eq!(Policy::default().with(&overrides).unwrap(), policy);
}
