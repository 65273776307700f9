//! `/ready` and `/live`, and grpc.health.v1.

use std::os::unix::fs::MetadataExt as _;

use ebb::{
    config,
    core::{policies::Policies, record::Kept},
    serve::{ServeOptions, Server},
    store::Store,
    supervisor::{Supervisor, output::OutputFormat},
};
use nix::sys::signal::Signal;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    grpc::Calls,
    world::{World, eventually},
};

#[test]
fn ready_is_bad_from_the_announcement_on_and_live_is_not() {
    let mut world = World::new();
    let config = format!("[drain]\nannounce = \"1s\"\n{}", world.recorder("a", ""));
    world.ready(&config);
    world.noted("a start");
    assert_eq!(world.health("/live"), Some((200, "alive".to_owned())));
    assert_eq!(world.health("/nothing").map(|(status, _)| status), Some(404));
    world.signal(Signal::SIGTERM);
    let why = eventually("it is not ready", || {
        world
            .health("/ready")
            .filter(|(status, _)| *status == 503)
            .map(|(_, why)| why)
    });
    assert_eq!(why, "shutting down: received SIGTERM");
    assert_eq!(world.journal(), ["a start"], "it is only announced");
    assert_eq!(world.health("/live").map(|(status, _)| status), Some(200));
    assert_eq!(world.ends(), 0);
    for socket in ["ebb.sock", "health.sock"] {
        assert!(!world.path(socket).exists(), "{socket} is removed");
    }
}

#[test]
fn its_socket_is_nobody_elses() {
    let mut world = World::new();
    world.ready(&world.recorder("a", ""));
    let mode = std::fs::metadata(world.path("health.sock"))
        .expect("bound")
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    world.noted("a start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn one_that_is_started_in_the_place_of_a_killed_one_takes_its_sockets() {
    let mut world = World::new();
    let config = world.recorder("a", "");
    world.ready(&config);
    world.signal(Signal::SIGKILL);
    // Its processes outlive it; the world's end removes them.
    eventually("it is gone", || {
        std::os::unix::net::UnixStream::connect(world.path("ebb.sock")).err()
    });
    assert!(world.path("health.sock").exists());
    world.start(&config);
    world.until_ready();
    world.signal(Signal::SIGTERM);
}

#[test]
fn grpc_health_says_what_ready_says() {
    let mut world = World::new();
    let go = world.path("go");
    let check = format!(
        "ready = {{ exec = [\"test\", \"-e\", {:?}], interval = \"10ms\" }}",
        go
    );
    let config = format!(
        "[drain]\ntimeout = \"2s\"\n{}",
        world.recorder("a", &format!("{check}\ndrain = {{}}"))
    );
    world.start(&config);
    let calls = Calls::to(&world);
    calls.until_health(ServingStatus::NotServing);
    world.noted("a start");
    assert_eq!(
        calls.health(""),
        ServingStatus::NotServing,
        "started is not ready"
    );
    std::fs::write(&go, "").expect("written");
    calls.until_health(ServingStatus::Serving);
    world.signal(Signal::SIGTERM);
    calls.until_health(ServingStatus::NotServing);
    world.status("it is being drained", |status| {
        status["processes"][0]["state"] == "draining"
    });
    drop(calls);
    assert_eq!(world.ends(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_says_not_serving_before_any_process_has_started() {
    let source = "[[process]]\nname = \"a\"\ncommand = [\"true\"]\n";
    let config = config::parse(source, None).expect("accepted");
    let supervisor = Supervisor::new(&config, OutputFormat::Text).expect("a supervisor");
    let options = ServeOptions {
        listen: vec!["127.0.0.1:0".parse().expect("address")],
        insecure: false,
        state: None,
        policies: Policies::default(),
        admins: Vec::new(),
    };
    let server = Server::start_with(
        options,
        Store::memory(),
        Kept::default(),
        Some(supervisor.handle()),
    )
    .await
    .expect("serves");
    let endpoint = format!("http://{}", server.addresses()[0]);
    let channel = tonic::transport::Endpoint::from_shared(endpoint).expect("address");
    let mut client = HealthClient::new(channel.connect().await.expect("connected"));
    for service in ["", "ebb.v1.FilterService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = client.check(request).await.expect("an answer").into_inner();
        assert_eq!(answer.status(), ServingStatus::NotServing, "{service:?}");
    }
    drop(client);
    server.stop().await;
}

#[test]
fn who_watches_grpc_health_does_not_hold_up_the_end() {
    let mut world = World::new();
    world.ready(&world.recorder("a", ""));
    world.noted("a start");
    let calls = Calls::to(&world);
    calls.until_health(ServingStatus::Serving);
    let mut client = HealthClient::new(calls.channel.clone());
    let watched = calls
        .runtime
        .block_on(client.watch(HealthCheckRequest::default()));
    let mut watched = watched.expect("a stream").into_inner();
    let mut next = || {
        let message = calls.runtime.block_on(watched.message());
        message.ok().flatten().map(|message| message.status())
    };
    assert_eq!(next(), Some(ServingStatus::Serving));
    world.signal(Signal::SIGTERM);
    assert_eq!(next(), Some(ServingStatus::NotServing));
    while let Some(status) = next() {
        assert_eq!(status, ServingStatus::NotServing);
    }
    assert_eq!(world.ends(), 0);
    let log = world.read("err");
    assert!(!log.contains("did not close"), "{log}");
}
