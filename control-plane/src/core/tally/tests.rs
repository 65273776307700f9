use super::*;

#[test]
fn every_node_that_nobody_tells_of_counts_as_unknown_also_the_second() {
    let mut tally = Tally::new(Evidence::Admin);
    for (nodes, name) in [(1, "a"), (2, "b"), (3, "c")] {
        tally.has_admin(&name.into(), false);
        assert_eq!(tally.observation().unknown, nodes);
        assert_eq!(tally.rests_on(), v1::Evidence::Admin);
    }
    let summed = tally.observation();
    tally.sum_up();
    assert_eq!(tally.observation(), summed, "as counted from scratch");
}

#[test]
fn what_it_rests_on_follows_each_node() {
    let mut tally = Tally::new(Evidence::Auto);
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    tally.expect(Epoch(1), "a", 1);
    assert_eq!(tally.rests_on(), v1::Evidence::Filter);
    tally.has_admin(&b, false);
    assert_eq!(tally.rests_on(), v1::Evidence::Admin, "of b nobody else tells");
    tally.has_no_admin(&b);
    assert_eq!(tally.rests_on(), v1::Evidence::Filter);
    tally.has_admin(&a, false);
    tally.own_count(&a, 1, Some(crate::core::node::Own::default()));
    assert_eq!(
        tally.rests_on(),
        v1::Evidence::Admin,
        "the reporter of a is unknown"
    );
    tally.remove(Epoch(1));
    tally.has_no_admin(&a);
    assert_eq!((tally.rests_on(), tally.by_own), (v1::Evidence::Filter, 0));
}
