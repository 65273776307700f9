use ebb_proto::v1;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use super::*;
use crate::{
    core::{policies::Policies, record::Kept},
    engine::{Engine, Outgoing},
    store::Store,
};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn engine() -> (Engine, Drains) {
    let engine = Engine::start(Policies::default(), Kept::default(), Store::memory(), Vec::new());
    let policy = Policy {
        quiet_period: Duration::from_millis(10),
        ..Policy::default()
    };
    (engine.clone(), Drains::new(engine, policy))
}

/// A filter of `node` that answers every ask with so many requests in flight.
async fn filter(engine: &Engine, node: &str, epoch: u64, in_flight: watch::Receiver<u64>) {
    let report = move |answers| v1::FilterReport {
        listeners: vec![v1::ListenerCounts {
            name: "ingress".to_owned(),
            in_flight: *in_flight.borrow(),
            ..v1::ListenerCounts::default()
        }],
        answers,
        ..v1::FilterReport::default()
    };
    let hello = v1::FilterHello {
        node_id: node.to_owned(),
        epoch,
        process: epoch,
        ..v1::FilterHello::default()
    };
    let attached = engine.attach(hello, report(0), None).await;
    let (stream, mut commands) = attached.expect("attached");
    let engine = engine.clone();
    tokio::spawn(async move {
        while commands.changed().await.is_ok() {
            let outgoing = commands.borrow_and_update().clone();
            if let Outgoing::Command(command) = outgoing
                && engine.report(stream, report(command.ask)).await.is_err()
            {
                return;
            }
        }
    });
}

/// An admin endpoint that answers `/clusters` with so many requests in flight towards 127.0.0.1:80, or accepts and says
/// nothing.
fn admin(in_flight: Option<watch::Receiver<u64>>) -> (tempfile::TempDir, Admin) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("admin.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(in_flight) = &in_flight else {
                open.push(stream);
                continue;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let body = format!(
                r#"{{"cluster_statuses":[{{"host_statuses":[{{"stats":[{{"name":"rq_active","value":"{}"}}],
                "address":{{"socket_address":{{"address":"127.0.0.1","port_value":80}}}}}}]}}]}}"#,
                *in_flight.borrow()
            );
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    (directory, Admin(Address::Unix(path)))
}

fn proxy(name: &str, admin: Option<Admin>, node: Option<&str>) -> Proxy {
    Proxy {
        name: name.to_owned(),
        admin,
        node: node.map(str::to_owned),
    }
}

/// Waits for the gate of 127.0.0.1:80, as `endpoint`.
fn wait(
    drains: &Drains,
    endpoint: &str,
    proxies: &watch::Sender<Vec<Proxy>>,
) -> (Left, tokio::task::JoinHandle<()>) {
    let (drains, proxies, left) = (drains.clone(), proxies.subscribe(), Left::default());
    let endpoints = [endpoint.parse().expect("an address")];
    let told = left.clone();
    let waiting = tokio::spawn(async move { gate_quiet(&drains, "own", &endpoints, proxies, &told).await });
    (left, waiting)
}

async fn says(left: &Left, text: &str) {
    let said = async {
        while left.text() != text {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = timeout(PATIENCE, said).await;
    assert!(in_time.is_ok(), "{text:?} is not {:?}", left.text());
}

async fn opens(waiting: tokio::task::JoinHandle<()>) {
    timeout(PATIENCE, waiting).await.expect("in time").expect("quiet");
}

#[tokio::test]
async fn a_gate_opens_when_nothing_is_in_flight_and_says_what_is_until_then() {
    let (_engine, drains) = engine();
    let in_flight = watch::Sender::new(2);
    let (_directory, admin) = admin(Some(in_flight.subscribe()));
    let proxies = watch::Sender::new(vec![proxy("edge", Some(admin), None)]);
    let (left, waiting) = wait(&drains, "127.0.0.1:80", &proxies);
    says(&left, "2 in flight towards 127.0.0.1:80").await;
    in_flight.send_replace(0);
    opens(waiting).await;
}

#[tokio::test]
async fn a_name_that_stands_for_the_address_of_an_endpoint_is_that_endpoint() {
    let (_engine, drains) = engine();
    let in_flight = watch::Sender::new(1);
    let (_directory, admin) = admin(Some(in_flight.subscribe()));
    let proxies = watch::Sender::new(vec![proxy("edge", Some(admin), None)]);
    let (left, waiting) = wait(&drains, "localhost:80", &proxies);
    says(&left, "1 in flight towards localhost:80").await;
    in_flight.send_replace(0);
    opens(waiting).await;
}

#[tokio::test]
async fn an_endpoint_that_no_envoy_knows_is_told_by_name_once() {
    let (_engine, drains) = engine();
    let gate = Gate {
        drains: &drains,
        process: "own",
        endpoints: Endpoint::all(&["127.0.0.1:81".parse().expect("address")]).await,
        warned: Mutex::default(),
    };
    let warned = || gate.warned.lock().expect("lock").clone();
    let (_directory, silent) = admin(None);
    let in_flight = watch::Sender::new(0);
    let (_directory, knows_another) = admin(Some(in_flight.subscribe()));
    // One that says nothing may know it.
    let both = [
        proxy("edge", Some(knows_another), None),
        proxy("inner", Some(silent), None),
    ];
    assert!(gate.towards(&both).await.is_err());
    // Where none is alive, none needs to know it.
    assert!(gate.towards(&[]).await.expect("known").is_nothing());
    assert!(warned().is_empty());
    for _ in 0..2 {
        assert!(gate.towards(&both[..1]).await.expect("known").is_nothing());
        assert_eq!(warned().into_iter().collect::<Vec<_>>(), ["127.0.0.1:81"]);
    }
}

#[tokio::test]
async fn a_gate_opens_when_the_last_other_proxy_is_gone() {
    let (_engine, drains) = engine();
    let in_flight = watch::Sender::new(2);
    let (_directory, admin) = admin(Some(in_flight.subscribe()));
    let own = proxy("own", Some(admin.clone()), None);
    let proxies = watch::Sender::new(vec![proxy("edge", Some(admin), None), own.clone()]);
    let (left, waiting) = wait(&drains, "127.0.0.1:80", &proxies);
    says(&left, "2 in flight towards 127.0.0.1:80").await;
    proxies.send_replace(vec![own]);
    opens(waiting).await;
}

#[tokio::test]
async fn the_filters_of_a_proxy_stand_in_for_its_admin_endpoint() {
    let (engine, drains) = engine();
    let (here, elsewhere) = (watch::Sender::new(3), watch::Sender::new(7));
    filter(&engine, "edge", 1, here.subscribe()).await;
    filter(&engine, "other", 2, elsewhere.subscribe()).await;
    let (_directory, silent) = admin(None);
    let proxies = watch::Sender::new(vec![proxy("edge", Some(silent), Some("edge"))]);
    let (left, waiting) = wait(&drains, "127.0.0.1:80", &proxies);
    says(&left, "3 in flight in edge").await;
    here.send_replace(0);
    opens(waiting).await;
}

#[tokio::test]
async fn what_neither_an_admin_endpoint_nor_a_filter_tells_is_not_zero() {
    let (_engine, drains) = engine();
    let proxies = watch::Sender::new(vec![proxy("edge", None, Some("edge"))]);
    let (left, waiting) = wait(&drains, "127.0.0.1:80", &proxies);
    let why = "unknown: edge: no admin endpoint is configured; no filter of it is attached";
    says(&left, why).await;
    waiting.abort();
}

/// Counts one after another, and then nothing.
fn counts(all: Vec<Count>) -> impl FnMut() -> std::future::Ready<Result<Count, String>> {
    let mut all = all.into_iter();
    move || {
        let next = all.next().unwrap_or_default();
        std::future::ready(Ok(next))
    }
}

fn begun(begun: u64) -> Count {
    Count {
        begun: Some(begun),
        ..Count::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_came_and_went_between_two_looks_starts_the_quiet_period_over() {
    let quiet_period = ASK_EVERY * 3;
    let wait = async |all: Vec<Count>| {
        let start = Instant::now();
        until_quiet(quiet_period, &Left::default(), counts(all)).await;
        start.elapsed()
    };
    let same = (0..20).map(|_| begun(7)).collect();
    let arrival = (0..20).map(|at| begun(if at < 3 { 7 } else { 8 })).collect();
    assert!(wait(same).await < ASK_EVERY * 4);
    assert!(wait(arrival).await >= ASK_EVERY * 6);
}

#[tokio::test(start_paused = true)]
async fn what_an_envoy_does_on_its_own_account_is_waited_for_within_a_bound() {
    let own = Count::from(Remains {
        upstream: 1,
        ..Remains::default()
    });
    let start = Instant::now();
    until_quiet(Duration::ZERO, &Left::default(), || {
        std::future::ready(Ok(own.clone()))
    })
    .await;
    let took = start.elapsed();
    assert!(
        took >= UPSTREAM_WITHIN && took < UPSTREAM_WITHIN + ASK_EVERY * 2,
        "{took:?}"
    );
    let start = Instant::now();
    let ends = (0..4).map(|_| own.clone()).collect();
    until_quiet(Duration::ZERO, &Left::default(), counts(ends)).await;
    let took = start.elapsed();
    assert!(took >= ASK_EVERY * 4 && took < ASK_EVERY * 6, "{took:?}");
}
