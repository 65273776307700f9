//! A small HTTP/1.1 load client that keeps its connections and counts what fails.
//!
//! It uses the standard library alone, so that `rustc` builds it from this one file: it is the load client of the
//! containers, and with `--requests 1` the health check of images that have no other client.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

const USAGE: &str = "usage: ebb-load [--connections N] [--requests N] TARGET...
  TARGET         http://HOST:PORT/PATH or unix:/SOCKET:/PATH
  --connections  kept open to each target (default 8)
  --requests     to send over each connection; then exit, with 1 if any failed (default: until stopped)";

/// How long one read or write may take before the request counts as failed.
const IO_TIMEOUT: Duration = Duration::from_secs(30);
/// Between a failed request and the next one on its connection, so that a dead server is not hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// The longest status line or header line that is read, in bytes.
const MAX_LINE: u64 = 64 * 1024;

fn main() -> ExitCode {
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("ebb-load: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let counts = Arc::new(Counts::default());
    let mut workers = Vec::new();
    for target in &options.targets {
        for _ in 0..options.connections {
            let (target, counts, requests) = (target.clone(), counts.clone(), options.requests);
            workers.push(thread::spawn(move || work(&target, requests, &counts)));
        }
    }
    let mut seconds = 0;
    while options.requests.is_none() {
        thread::sleep(Duration::from_secs(1));
        seconds += 1;
        println!("{seconds} s: {counts}");
    }
    let all_ended = workers.into_iter().all(|worker| worker.join().is_ok());
    println!("{counts}");
    ExitCode::from(u8::from(!all_ended || counts.failed.load(Ordering::Relaxed) > 0))
}

/// What was asked for on the command line.
struct Options {
    targets: Vec<Target>,
    connections: u64,
    requests: Option<u64>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            targets: Vec::new(),
            connections: 8,
            requests: None,
        };
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().unwrap_or_default();
                value
                    .parse()
                    .map_err(|_| format!("{argument} takes a number, not `{value}`"))
            };
            match argument.as_str() {
                "--connections" => options.connections = number()?,
                "--requests" => options.requests = Some(number()?),
                target => options.targets.push(Target::parse(target)?),
            }
        }
        if options.targets.is_empty() {
            Err("no target given".to_owned())
        } else {
            Ok(options)
        }
    }
}

/// Where requests go.
#[derive(Clone)]
struct Target {
    server: Server,
    path: String,
}

#[derive(Clone)]
enum Server {
    Tcp(String),
    Unix(String),
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        let parts = match (text.strip_prefix("http://"), text.strip_prefix("unix:")) {
            (Some(rest), _) => rest
                .split_once('/')
                .map(|(host, path)| (Server::Tcp(host.to_owned()), path)),
            (_, Some(rest)) => rest
                .split_once(":/")
                .map(|(file, path)| (Server::Unix(file.to_owned()), path)),
            _ => None,
        };
        let (server, path) = parts
            .ok_or_else(|| format!("`{text}` is neither http://HOST:PORT/PATH nor unix:/SOCKET:/PATH"))?;
        Ok(Self {
            server,
            path: format!("/{path}"),
        })
    }

    fn connect(&self) -> io::Result<Connection> {
        Ok(match &self.server {
            Server::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(IO_TIMEOUT))?;
                stream.set_write_timeout(Some(IO_TIMEOUT))?;
                Connection::new(stream.try_clone()?, stream)
            }
            Server::Unix(file) => {
                let stream = UnixStream::connect(file)?;
                stream.set_read_timeout(Some(IO_TIMEOUT))?;
                stream.set_write_timeout(Some(IO_TIMEOUT))?;
                Connection::new(stream.try_clone()?, stream)
            }
        })
    }

    fn request(&self) -> String {
        let host = match &self.server {
            Server::Tcp(address) => address,
            Server::Unix(_) => "localhost",
        };
        format!(
            "GET {} HTTP/1.1\r\nhost: {host}\r\nuser-agent: ebb-load\r\n\r\n",
            self.path
        )
    }
}

/// What all connections did together.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
    connections: AtomicU64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [requests, failed, connections] =
            [&self.requests, &self.failed, &self.connections].map(|count| count.load(Ordering::Relaxed));
        write!(
            f,
            "{requests} requests, {failed} failed, {connections} connections opened"
        )
    }
}

fn work(target: &Target, requests: Option<u64>, counts: &Counts) {
    let request = target.request();
    let mut kept = None;
    let mut sent = 0;
    while requests.is_none_or(|limit| sent < limit) {
        sent += 1;
        match exchange(target, kept.take(), &request, counts) {
            Ok(connection) => kept = connection,
            Err(error) => {
                eprintln!("ebb-load: GET {}: {error}", target.path);
                counts.failed.fetch_add(1, Ordering::Relaxed);
                thread::sleep(AFTER_FAILURE);
            }
        }
        counts.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends one request and reads its whole response. Returns the connection if the server keeps it.
fn exchange(
    target: &Target,
    kept: Option<Connection>,
    request: &str,
    counts: &Counts,
) -> io::Result<Option<Connection>> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => {
            counts.connections.fetch_add(1, Ordering::Relaxed);
            target.connect()?
        }
    };
    connection.writer.write_all(request.as_bytes())?;
    let keeps = connection.read_response()?;
    Ok(keeps.then_some(connection))
}

struct Connection {
    reader: BufReader<Box<dyn Read + Send>>,
    writer: Box<dyn Write + Send>,
}

impl Connection {
    fn new(reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Self {
        Self {
            reader: BufReader::new(Box::new(reader)),
            writer: Box::new(writer),
        }
    }

    /// Reads one response to its end. Returns whether the server keeps the connection; fails on a status that is
    /// not 200.
    fn read_response(&mut self) -> io::Result<bool> {
        let status = self.read_line()?;
        let (mut keeps, mut chunked, mut length) = (true, false, None);
        loop {
            let line = self.read_line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("connection", value) => keeps = !value.eq_ignore_ascii_case("close"),
                ("transfer-encoding", value) => chunked = value.eq_ignore_ascii_case("chunked"),
                ("content-length", value) => length = value.parse().ok(),
                _ => {}
            }
        }
        match length {
            _ if chunked => while self.read_chunk()? > 0 {},
            Some(length) => self.skip(length)?,
            None => {
                io::copy(&mut self.reader, &mut io::sink())?;
                keeps = false;
            }
        }
        if status.split(' ').nth(1) == Some("200") {
            Ok(keeps)
        } else {
            Err(io::Error::other(format!("answered `{status}`")))
        }
    }

    fn read_chunk(&mut self) -> io::Result<u64> {
        let line = self.read_line()?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("bad chunk size `{size}`")))?;
        self.skip(size)?;
        self.read_line()?;
        Ok(size)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let read = io::copy(&mut self.reader.by_ref().take(length), &mut io::sink())?;
        if read == length {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Reads a line and drops its end.
    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.by_ref().take(MAX_LINE).read_line(&mut line)?;
        if !line.ends_with('\n') {
            let kind = io::ErrorKind::UnexpectedEof;
            return Err(io::Error::new(
                kind,
                "the server closed the connection before the response ended",
            ));
        }
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(line)
    }
}
