//! A control plane that is going away refuses whatever is new: with a code that says to try elsewhere, and at once, also
//! where it had begun to listen.
// clippy.toml excuses test functions only, and these have helpers.
#![allow(clippy::expect_used)]

use std::time::Duration;

use ebb::{
    address::Address,
    core::policies::Policies,
    engine::Engine,
    serve::{ServeOptions, Server},
};
use ebb_proto::v1::{
    FilterCommand, FilterHello, FilterReport, StartDrainRequest, drain_service_client::DrainServiceClient,
    filter_service_client::FilterServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// Nothing here waits for anything but the machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    server: Server,
    channel: Channel,
    _folder: tempfile::TempDir,
}

async fn world() -> World {
    let folder = tempfile::tempdir().expect("temporary directory");
    let socket = folder.path().join("ebb.sock");
    let server = Server::start(ServeOptions {
        listen: vec![Address::Unix(socket.clone())],
        insecure: false,
        state: None,
        policies: Policies::default(),
        admins: Vec::new(),
    });
    let server = server.await.expect("serving");
    // The connector ignores the address, which only has to be well-formed.
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(tower::service_fn(move |_: Uri| {
        let path = socket.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }));
    World {
        server,
        channel: channel.await.expect("connected"),
        _folder: folder,
    }
}

fn hello() -> FilterReport {
    FilterReport {
        hello: Some(FilterHello {
            node_id: "a".to_owned(),
            process: 1,
            epoch: 2,
            ..FilterHello::default()
        }),
        ..FilterReport::default()
    }
}

type Attached = Result<tonic::Response<Streaming<FilterCommand>>, Status>;

/// A stream on which nothing has been said yet; the call answers once something was.
fn attach(
    channel: &Channel,
) -> (
    mpsc::UnboundedSender<FilterReport>,
    tokio::task::JoinHandle<Attached>,
) {
    let (say, said) = mpsc::unbounded_channel();
    let mut client = FilterServiceClient::new(channel.clone());
    let call = tokio::spawn(async move { client.attach(UnboundedReceiverStream::new(said)).await });
    (say, call)
}

fn assert_refused(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("shutting down"), "{status:?}");
    assert!(status.message().contains("elsewhere"), "{status:?}");
}

async fn go_away(engine: &Engine) {
    tokio::time::timeout(PATIENCE, engine.go_away())
        .await
        .expect("bounded");
}

#[tokio::test]
async fn a_new_drain_is_refused() {
    let world = world().await;
    go_away(world.server.engine()).await;
    let mut client = DrainServiceClient::new(world.channel.clone());
    let refused = client.start_drain(StartDrainRequest::default()).await;
    assert_refused(&refused.expect_err("refused"));
}

#[tokio::test]
async fn a_drain_that_waits_for_its_envoy_is_refused_when_the_end_comes() {
    let world = world().await;
    let mut client = DrainServiceClient::new(world.channel.clone());
    // Nobody is attached, so it is parked for a moment.
    let call = tokio::spawn(async move { client.start_drain(StartDrainRequest::default()).await });
    let mut probe = DrainServiceClient::new(world.channel.clone());
    for _ in 0..3 {
        // Each answer comes after what was asked before.
        probe
            .list_drains(ebb_proto::v1::ListDrainsRequest::default())
            .await
            .expect("answered");
    }
    go_away(world.server.engine()).await;
    assert_refused(&call.await.expect("joined").expect_err("refused"));
}

#[tokio::test]
async fn a_new_stream_is_refused() {
    let world = world().await;
    go_away(world.server.engine()).await;
    let (say, call) = attach(&world.channel);
    say.send(hello()).expect("sent");
    assert_refused(&call.await.expect("joined").expect_err("refused"));
}

#[tokio::test]
async fn a_stream_that_said_nothing_yet_is_refused_once_it_does() {
    let world = world().await;
    let (say, call) = attach(&world.channel);
    go_away(world.server.engine()).await;
    say.send(hello()).expect("sent");
    assert_refused(&call.await.expect("joined").expect_err("refused"));
}

#[tokio::test]
async fn an_open_stream_is_told_that_it_is_on_purpose_and_then_ended() {
    let world = world().await;
    let (say, call) = attach(&world.channel);
    say.send(hello()).expect("sent");
    let mut commands = call.await.expect("joined").expect("attached").into_inner();
    assert!(
        !commands
            .message()
            .await
            .expect("open")
            .expect("a command")
            .going_away
    );
    go_away(world.server.engine()).await;
    assert!(
        commands
            .message()
            .await
            .expect("open")
            .expect("a command")
            .going_away
    );
    assert_refused(&commands.message().await.expect_err("ended"));
}
