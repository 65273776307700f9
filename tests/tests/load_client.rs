//! `ebb-load`, the load client of the containers: it is also their health check, so its exit code has to be right.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    process::{Command, Output},
    thread,
};

use anyhow::{Context as _, Result, anyhow};

const KEPT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// Answers the requests of one connection with these texts, then closes it.
fn answer(stream: impl Read + Write, texts: &[&str]) -> Result<()> {
    let mut stream = BufReader::new(stream);
    for text in texts {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert_ne!(
                stream.read_line(&mut line)?,
                0,
                "the client sent too few requests"
            );
        }
        stream.get_mut().write_all(text.as_bytes())?;
    }
    Ok(())
}

/// Runs the client against a server that answers its connections one after the other with these texts.
fn run(connections: &[&[&str]]) -> Result<Output> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let requests = connections
        .iter()
        .map(|texts| texts.len())
        .sum::<usize>()
        .to_string();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            connections
                .iter()
                .try_for_each(|texts| answer(listener.accept()?.0, texts))
        });
        let target = format!("http://{address}/path");
        let output = client(&["--connections", "1", "--requests", &requests, &target]);
        // A client that connected too seldom leaves the server waiting: these end it.
        for _ in connections {
            let _ = TcpStream::connect(address);
        }
        server
            .join()
            .map_err(|_| anyhow!("the server did not see what it expects"))??;
        output
    })
}

fn client(arguments: &[&str]) -> Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_ebb-load"))
        .args(arguments)
        .output()
        .context("cannot run ebb-load")
}

fn ended(output: &Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn keeps_a_connection_until_the_server_closes_it() -> Result<()> {
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let until_end = "HTTP/1.1 200 OK\r\n\r\nno length";
    let output = run(&[&[KEPT, chunked, closing], &[KEPT, until_end], &[KEPT]])?;
    assert_eq!(
        ended(&output),
        (Some(0), "6 requests, 0 failed, 3 connections opened\n".to_owned())
    );
    Ok(())
}

#[test]
fn counts_what_fails_and_says_so_with_its_exit_code() -> Result<()> {
    let unavailable = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel";
    let output = run(&[&[unavailable], &[cut], &[""], &[KEPT]])?;
    assert_eq!(
        ended(&output),
        (Some(1), "4 requests, 3 failed, 4 connections opened\n".to_owned())
    );
    Ok(())
}

#[test]
fn reaches_a_unix_socket_and_fails_without_a_server() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("admin.sock");
    let target = format!("unix:{}:/ready", socket.display());
    let once = ["--connections", "1", "--requests", "1", &target];
    assert_eq!(client(&once)?.status.code(), Some(1));
    let listener = UnixListener::bind(&socket)?;
    let server = thread::spawn(move || answer(listener.accept()?.0, &[KEPT]));
    assert_eq!(client(&once)?.status.code(), Some(0));
    server.join().unwrap()
}

#[test]
fn refuses_what_it_does_not_understand() -> Result<()> {
    for wrong in [
        &[][..],
        &["localhost:80"],
        &["--requests", "many", "http://localhost/"],
        &["--what"],
    ] {
        assert_eq!(client(wrong)?.status.code(), Some(2), "{wrong:?}");
    }
    Ok(())
}
