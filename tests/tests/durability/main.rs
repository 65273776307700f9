//! Drains outlive their control plane: killed at any moment, and with a state that cannot be written.

mod disks;
mod kills;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    api::{drain_of, proto},
    cli,
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::EnvoyOptions,
    fake_filter::{FakeFilter, Identity},
    wait,
    world::{World, folder, wait_attached},
};
use ebb_proto::v1::{Drain, Phase, Policy, Scope, StartDrainRequest};

/// Between the deadline of a drain and its end, on a slow machine.
const LATE: Duration = Duration::from_secs(2);
fn span(wire: Option<prost_types::Duration>) -> Duration {
    wire.and_then(|wire| Duration::try_from(wire).ok())
        .unwrap_or_default()
}

fn of_node(node: &str, request_id: String, timeout: Duration) -> StartDrainRequest {
    StartDrainRequest {
        request_id,
        scope: Some(Scope {
            nodes: vec![node.to_owned()],
            ..Scope::default()
        }),
        policy: Some(Policy {
            timeout: Some(proto(timeout)),
            quiet_period: Some(proto(Duration::from_millis(50))),
            ..Policy::default()
        }),
    }
}

/// Two nodes of two reporters each: one that never has anything in flight, and one that always has.
fn fleet(socket: &Path) -> Vec<FakeFilter> {
    let start = |(node, number, in_flight): (&str, u64, u64)| {
        let process = if node == "busy" { 1 } else { 2 };
        let identity = Identity {
            node: node.to_owned(),
            process,
            epoch: 10 * process + number,
        };
        let filter = FakeFilter::start(socket, identity, &["ingress"]);
        filter.set_in_flight(in_flight);
        filter
    };
    [("busy", 1, 0), ("busy", 2, 3), ("idle", 1, 0), ("idle", 2, 0)]
        .map(start)
        .into()
}

/// A world with a drain that a request holds up, killed once the drain has run for this long, and started again.
async fn killed_after(
    run: Duration,
    timeout: Duration,
) -> Result<(World, Drain, tokio::task::JoinHandle<bool>)> {
    let world = World::start_with(EnvoyOptions::default(), |options, folder| {
        options.state = Some(folder.join("state"));
    })
    .await?;
    let address = world.ingress()?;
    let held = tokio::spawn(async move {
        let Ok(mut connection) = http1::Connection::open(address).await else {
            return false;
        };
        connection
            .get("/hold")
            .await
            .is_ok_and(|response| response.status == 200)
    });
    world.upstream.wait_held(1).await?;
    let mut client = world.client().await?;
    let policy = Some(Policy {
        timeout: Some(proto(timeout)),
        ..Policy::default()
    });
    let request = StartDrainRequest {
        policy,
        ..drain_of(&["ingress"])
    };
    let before = client.start(request).await?;
    client.wait_for_in_flight(&before.id, 1).await?;
    wait::until("the drain has run for a while", wait::PATIENCE, || {
        let (mut client, id) = (client.clone(), before.id.clone());
        async move { Ok(span(client.drain(&id).await?.elapsed) >= run) }
    })
    .await?;
    let World {
        envoy,
        ebb,
        upstream,
        folder,
    } = world;
    let ebb = Ebb::start(ebb.kill().await?).await?;
    let world = World {
        envoy,
        ebb,
        upstream,
        folder,
    };
    let after = world.client().await?.drain(&before.id).await?;
    assert_eq!(
        (after.phase(), after.started_at),
        (Phase::Draining, before.started_at),
        "{after:?}"
    );
    assert!(span(after.elapsed) >= run, "{after:?}");
    Ok((world, after, held))
}

#[tokio::test]
async fn killed_while_an_envoy_drains_the_drain_goes_on_and_ends_with_its_last_request() -> Result<()> {
    let (world, drain, held) = killed_after(Duration::from_millis(500), Duration::from_secs(120)).await?;
    let mut client = world.client().await?;
    wait_attached(&mut client, "edge-1", 1).await?;
    client.wait_for_in_flight(&drain.id, 1).await?;
    world.upstream.release_all();
    assert!(held.await?, "the request that the drain waited for");
    let drain = client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert!(drain.holding && drain.unknown_reporters.is_empty(), "{drain:?}");
    Ok(())
}

#[tokio::test]
async fn killed_while_an_envoy_drains_the_deadline_stays_where_it_was() -> Result<()> {
    let timeout = Duration::from_secs(6);
    let (world, drain, held) = killed_after(Duration::from_secs(3), timeout).await?;
    let mut client = world.client().await?;
    let drain = client
        .wait_for_phase(&drain.id, Phase::TimedOut, wait::PATIENCE)
        .await?;
    let took = span(drain.elapsed);
    // Counted from the restart it would have been three seconds later.
    assert!(took >= timeout && took < timeout + LATE, "{drain:?}");
    assert_eq!(drain.in_flight, 1, "{drain:?}");
    world.upstream.release_all();
    assert!(held.await?, "a request outlives the deadline");
    Ok(())
}

#[tokio::test]
async fn state_of_a_newer_format_is_refused_in_one_line() -> Result<()> {
    let folder = folder()?;
    let mut options = EbbOptions::in_folder(folder.path());
    let state = folder.path().join("state");
    options.state = Some(state.clone());
    let options = Ebb::start(options).await?.terminate().await?;
    let file = state.join("ebb.redb");
    let database = redb::Database::create(&file)?;
    let write = database.begin_write()?;
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    write.open_table(meta)?.insert("format", 9000)?;
    write.commit()?;
    drop(database);

    let (listen, state) = (
        format!("unix:{}", options.socket.display()),
        state.display().to_string(),
    );
    let output = cli::start(
        &options.socket,
        &["serve", "--listen", &listen, "--state", &state],
    )?
    .output()
    .await?;
    assert_eq!(output.code, Some(1), "{output:?}");
    let [line] = output.stderr.lines().collect::<Vec<_>>()[..] else {
        panic!("one line is enough: {output:?}")
    };
    for words in [
        file.to_str().context("path")?,
        "format 9000",
        "newer version",
        "--state",
    ] {
        assert!(line.contains(words), "`{words}` is missing: {line}");
    }
    Ok(())
}

fn not_kept(drain: &Drain) -> bool {
    let words = "it would not survive a restart of the control plane";
    drain.warnings.iter().any(|warning| warning.contains(words))
}

#[tokio::test]
async fn without_a_usable_state_an_envoy_drains_all_the_same_and_the_caller_is_told() -> Result<()> {
    let world = World::start_with(EnvoyOptions::default(), |options, folder| {
        let state = folder.join("state");
        let blocked = std::fs::write(&state, "a file in the place of the folder");
        options.state = blocked.is_ok().then_some(state);
    })
    .await?;
    let mut client = world.client().await?;
    let drain = client.start(drain_of(&["ingress"])).await?;
    assert!(not_kept(&drain), "{drain:?}");
    let ended = client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert!(not_kept(&ended) && ended.holding, "{ended:?}");
    let closing = http1::Connection::open(world.ingress()?).await?.get("/").await?;
    assert!(closing.says_close(), "{closing:?}");
    client.cancel(&drain.id).await?;
    wait::until("the listener serves", wait::PATIENCE, || async {
        let response = http1::Connection::open(world.ingress()?).await?.get("/").await?;
        Ok(!response.says_close())
    })
    .await
}
