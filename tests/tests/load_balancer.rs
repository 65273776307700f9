//! The load balancer of the tests sends new connections only where it should.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{
    client::http1,
    haproxy::{HaProxy, Server},
    upstream::Upstream,
    world::folder,
};

#[tokio::test]
async fn a_server_that_is_left_out_gets_no_further_connections_until_it_is_taken_back() -> Result<()> {
    let folder = folder()?;
    let upstreams = [Upstream::start().await?, Upstream::start().await?];
    let servers = upstreams.each_ref().map(|upstream| Server {
        address: upstream.address(),
        health: upstream.address(),
    });
    let mut balancer = HaProxy::start_checking(folder.path(), &servers, Duration::from_millis(50), true)?;
    balancer.wait_up(2).await?;
    let address = balancer.address();
    let requests = async |count: usize| {
        let before = upstreams.each_ref().map(|upstream| upstream.requests_of("delay"));
        for _ in 0..count {
            http1::Connection::open(address).await?.get("/delay/0").await?;
        }
        let after = upstreams.each_ref().map(|upstream| upstream.requests_of("delay"));
        anyhow::Ok([after[0] - before[0], after[1] - before[1]])
    };
    assert_eq!(requests(4).await?, [2, 2]);
    balancer.leave_out(0).await?;
    assert_eq!(requests(4).await?, [0, 4]);
    balancer.take_back(0).await?;
    balancer.wait_up(2).await?;
    let after = requests(4).await?;
    assert!(after[0] > 0 && after[1] > 0, "{after:?}");
    assert!(balancer.leave_out(2).await.is_err(), "there are two servers only");
    Ok(())
}
