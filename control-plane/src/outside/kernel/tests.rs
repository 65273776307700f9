use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
};

use super::*;

/// A listening socket, a client that does not read, and the server's end, which has been given more than the client's
/// kernel takes.
fn stuffed(address: &str) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).expect("bound");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
    let (mut server, _) = listener.accept().expect("accepted");
    server.set_nonblocking(true).expect("set");
    let chunk = vec![b'x'; 64 * 1024];
    while server.write(&chunk).is_ok() {}
    (listener, client, server)
}

fn drain(client: &mut TcpStream) {
    client.set_nonblocking(true).expect("set");
    let mut chunk = vec![0; 1024 * 1024];
    while client.read(&mut chunk).is_ok_and(|read| read > 0) {}
}

fn local(listener: &TcpListener) -> Local {
    let address = listener.local_addr().expect("address");
    Local::at(address.ip(), address.port())
}

fn own_pid() -> [u32; 1] {
    [std::process::id()]
}

/// Reads until the send queue of a listener's connections is empty.
fn delivered(client: &mut TcpStream, local: Local) {
    for _ in 0..10_000 {
        drain(client);
        if unsent(&own_pid(), Some(&[local])).expect("told").queued == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("the send queue does not become empty");
}

#[test]
fn what_a_client_does_not_read_is_in_the_send_queue_until_it_does() {
    for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
        let (listener, mut client, _server) = stuffed(address);
        let told = unsent(&own_pid(), Some(&[local(&listener)])).expect("told");
        assert!(told.queued > 0, "{address}: {told:?}");
        assert_eq!((told.clients, told.buffered), (1, 0), "{address}");
        delivered(&mut client, local(&listener));
    }
}

#[test]
fn a_socket_that_nobody_holds_any_more_counts_until_its_last_byte_is_acknowledged() {
    let (listener, mut client, server) = stuffed("127.0.0.1:0");
    drop(server);
    let told = unsent(&own_pid(), Some(&[local(&listener)])).expect("told");
    assert!(told.queued > 0 && told.clients == 1, "{told:?}");
    delivered(&mut client, local(&listener));
}

#[test]
fn the_other_end_of_a_connection_is_not_the_listeners() {
    let (listener, client, _server) = stuffed("127.0.0.1:0");
    // Both ends are here: the client's has the listener's port as its remote one.
    let port = client.local_addr().expect("address").port();
    let of_the_client = Local { address: None, port };
    assert_eq!(
        unsent(&own_pid(), Some(&[of_the_client])).expect("told"),
        Unsent::default()
    );
    let other_address = Local::at("127.0.0.2".parse().expect("address"), local(&listener).port);
    assert_eq!(
        unsent(&own_pid(), Some(&[other_address])).expect("told"),
        Unsent::default()
    );
}

#[test]
fn a_fin_is_no_byte() {
    let socket = |state, send_queue| Socket::test(state, send_queue);
    assert_eq!(socket(diag::ESTABLISHED, 1).unacknowledged(), 1);
    for state in diag::WITH_FIN {
        assert_eq!(socket(state, 1).unacknowledged(), 0);
        assert_eq!(socket(state, 1001).unacknowledged(), 1000);
    }
}

#[test]
fn a_process_is_told_of_its_own_ports_and_nobody_elses() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    assert!(unsent(&own_pid(), None).is_ok());
    let mut stranger = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("started");
    let told = unsent(&[stranger.id()], None);
    // It has that number in our namespace, but the port is not its own.
    let claimed = unsent(&[stranger.id()], Some(&[local(&listener)]));
    stranger.kill().expect("killed");
    stranger.wait().expect("waited");
    assert!(matches!(told, Err(Blind::NotListening)), "{told:?}");
    assert!(matches!(claimed, Err(Blind::Stranger)), "{claimed:?}");
    let gone = unsent(&[stranger.id()], Some(&[local(&listener)]));
    assert!(matches!(gone, Err(Blind::NoProcess)), "{gone:?}");
}

#[test]
fn the_connections_of_a_listener_that_is_closed_still_count() {
    let (listener, mut client, _server) = stuffed("127.0.0.1:0");
    let local = local(&listener);
    drop(listener);
    assert!(unsent(&own_pid(), Some(&[local])).expect("told").queued > 0);
    delivered(&mut client, local);
}

#[test]
fn what_was_written_to_a_unix_socket_survives_its_sender() {
    let (mut sender, mut receiver) = UnixStream::pair().expect("a pair");
    // Something that the sender has not read makes its end a reset, but only behind what it sent.
    receiver.write_all(b"unread").expect("written");
    sender.write_all(&[b'x'; 50_000]).expect("written");
    drop(sender);
    let mut read = Vec::new();
    let end = receiver.read_to_end(&mut read);
    assert_eq!(read.len(), 50_000);
    assert_eq!(end.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn who_listens_on_a_unix_socket_is_told_by_the_system() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("a.sock");
    assert_eq!(peer_of(&path).await, None);
    let _listener = tokio::net::UnixListener::bind(&path).expect("bound");
    assert_eq!(peer_of(&path).await, Some(std::process::id()));
}
