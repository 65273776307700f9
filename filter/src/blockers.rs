//! The oldest requests in flight, as far as they may be shown. Nothing is kept about a request for this: what Envoy
//! knows of it is read when somebody asks.

use std::time::Duration;

use ebb_proto::v1::{Blocker, Protocol};

use crate::counts::{Counts, Kind, Seen};

/// The most requests per listener that are listed, whatever is asked for.
pub const MOST: usize = 100;

/// The longest path that is kept of a request, in bytes.
pub const LONGEST_PATH: usize = 256;

/// A request that is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Id of its HTTP context.
    pub context: u32,
    /// The listener that it came in on.
    pub listener: String,
    /// What was seen of it when its headers arrived.
    pub kind: Kind,
    /// Its path; empty unless paths are switched on.
    pub path: Box<str>,
}

/// The properties of a request, as Envoy returns them; `None` = it has no such property yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// `request.time`: nanoseconds since the Unix epoch.
    pub time: Option<Vec<u8>>,
    /// `request.protocol`: as `HTTP/1.1`.
    pub protocol: Option<Vec<u8>>,
    /// `response.code`: a number, once response headers were sent.
    pub code: Option<Vec<u8>>,
    /// `xds.route_name`.
    pub route: Option<Vec<u8>>,
    /// `upstream.address`.
    pub upstream: Option<Vec<u8>>,
}

/// The requests to look at: of every listener the `most` oldest, the oldest first.
pub fn oldest(counts: &Counts, most: usize) -> Vec<Inspection> {
    let most = most.min(MOST);
    let of_listener = |listener: &std::rc::Rc<crate::counts::Listener>| {
        let name = listener.name().to_owned();
        let found = listener.oldest(most).into_iter();
        found.map(move |Seen { context, kind, path }| Inspection {
            context,
            listener: name.clone(),
            kind,
            path,
        })
    };
    counts.listeners.iter().flat_map(of_listener).collect()
}

/// What is told of a request. `wall` is the time since the Unix epoch.
pub fn describe(inspection: Inspection, properties: Properties, wall: Duration) -> Blocker {
    let age = number(properties.time.as_deref())
        .map(|nanos| wall.saturating_sub(Duration::from_nanos(nanos)))
        .and_then(|age| prost_types::Duration::try_from(age).ok());
    let protocol = protocol(
        inspection.kind,
        properties.protocol.as_deref(),
        number(properties.code.as_deref()),
    );
    Blocker {
        listener: inspection.listener,
        age,
        protocol: protocol.into(),
        route: text(properties.route),
        upstream: text(properties.upstream),
        path: inspection.path.into(),
    }
}

/// What is kept of the path of a request: no query, and at most [`LONGEST_PATH`] bytes.
pub fn shown_path(path: &[u8]) -> Box<str> {
    let end = path
        .iter()
        .position(|byte| matches!(byte, b'?' | b'#'))
        .unwrap_or(path.len());
    let whole = path.get(..end).unwrap_or_default();
    let cut = whole.get(..LONGEST_PATH).unwrap_or(whole);
    // A character of several bytes that was cut in two turns into one that is not shown.
    String::from_utf8_lossy(cut)
        .trim_end_matches(if cut.len() < whole.len() { '\u{fffd}' } else { '\0' })
        .into()
}

/// Inside Envoy a WebSocket has the status 101, on whatever it runs.
fn protocol(kind: Kind, version: Option<&[u8]>, code: Option<u64>) -> Protocol {
    match (kind, code, version) {
        (Kind::Grpc, ..) => Protocol::Grpc,
        (_, Some(101), _) => Protocol::Websocket,
        (_, _, Some(b"HTTP/1.0" | b"HTTP/1.1")) => Protocol::Http1,
        (_, _, Some(b"HTTP/2")) => Protocol::Http2,
        (_, _, Some(b"HTTP/3")) => Protocol::Http3,
        _ => Protocol::Unspecified,
    }
}

/// Whether a `content-type` is one of gRPC; gRPC-Web is not.
pub fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc".as_slice());
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// A number, as the host returns them: eight bytes, the lowest first.
fn number(bytes: Option<&[u8]>) -> Option<u64> {
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_le_bytes)
}

fn text(bytes: Option<Vec<u8>>) -> String {
    String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Duration = Duration::from_secs(1_800_000_000);

    fn inspection(kind: Kind) -> Inspection {
        Inspection {
            context: 7,
            listener: "ingress".to_owned(),
            kind,
            path: "/shop".into(),
        }
    }

    fn properties(version: &str, code: Option<u64>) -> Properties {
        let begun = u64::try_from((WALL - Duration::from_millis(1500)).as_nanos()).unwrap();
        Properties {
            time: Some(begun.to_le_bytes().to_vec()),
            protocol: Some(version.into()),
            code: code.map(|code| code.to_le_bytes().to_vec()),
            route: Some(b"shop".to_vec()),
            upstream: Some(b"127.0.0.1:8081".to_vec()),
        }
    }

    #[test]
    fn what_envoy_knows_is_told() {
        let blocker = describe(inspection(Kind::Unknown), properties("HTTP/2", None), WALL);
        let expected = Blocker {
            listener: "ingress".to_owned(),
            age: Some(prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            protocol: Protocol::Http2.into(),
            route: "shop".to_owned(),
            upstream: "127.0.0.1:8081".to_owned(),
            path: "/shop".to_owned(),
        };
        assert_eq!(blocker, expected);
    }

    #[test]
    fn what_it_does_not_know_is_left_out() {
        let blocker = describe(inspection(Kind::Unknown), Properties::default(), WALL);
        let expected = Blocker {
            listener: "ingress".to_owned(),
            path: "/shop".to_owned(),
            ..Blocker::default()
        };
        assert_eq!(blocker, expected);
        let odd = Properties {
            time: Some(vec![1, 2, 3]),
            route: Some(vec![0xff]),
            ..Properties::default()
        };
        assert_eq!(describe(inspection(Kind::Unknown), odd, WALL), expected);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_negative_age() {
        let blocker = describe(
            inspection(Kind::Unknown),
            properties("HTTP/1.1", None),
            Duration::ZERO,
        );
        assert_eq!(blocker.age, Some(prost_types::Duration::default()));
    }

    #[test]
    fn protocols() {
        let protocol =
            |kind, version, code| describe(inspection(kind), properties(version, code), WALL).protocol();
        assert_eq!(protocol(Kind::Unknown, "HTTP/1.0", None), Protocol::Http1);
        assert_eq!(protocol(Kind::Unknown, "HTTP/1.1", Some(200)), Protocol::Http1);
        assert_eq!(protocol(Kind::Unknown, "HTTP/3", None), Protocol::Http3);
        assert_eq!(protocol(Kind::Unknown, "HTTP/9", None), Protocol::Unspecified);
        assert_eq!(
            protocol(Kind::Unknown, "HTTP/1.1", Some(101)),
            Protocol::Websocket
        );
        assert_eq!(protocol(Kind::Unknown, "HTTP/2", Some(101)), Protocol::Websocket);
        assert_eq!(protocol(Kind::Grpc, "HTTP/2", Some(200)), Protocol::Grpc);
    }

    #[test]
    fn of_a_path_neither_the_query_nor_an_endless_rest_is_kept() {
        assert_eq!(&*shown_path(b"/shop/7?token=secret"), "/shop/7");
        assert_eq!(&*shown_path(b"/shop#top"), "/shop");
        assert_eq!(&*shown_path(b"/?a?b"), "/");
        assert_eq!(&*shown_path(b""), "");
        assert_eq!(shown_path(&[b'a'; 5000]).len(), LONGEST_PATH);
        let in_two = format!("{}\u{e4}x", "a".repeat(LONGEST_PATH - 1));
        assert_eq!(&*shown_path(in_two.as_bytes()), "a".repeat(LONGEST_PATH - 1));
        assert_eq!(&*shown_path(b"/\xff"), "/\u{fffd}");
        assert!(shown_path(&[0xff; 5000]).len() <= 3 * LONGEST_PATH);
    }

    #[test]
    fn content_types_of_grpc() {
        for yes in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;x=y",
        ] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in [
            "",
            "application/grpc-web",
            "application/json",
            "application/grpcs",
        ] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn every_listener_lists_its_own_and_never_more_than_the_most() {
        let mut counts = Counts::default();
        let (a, b) = (counts.listeners.add("a"), counts.listeners.add("b"));
        let many = u32::try_from(MOST).unwrap() + 50;
        let _many: Vec<_> = (0..many).map(|id| a.begin(id, Kind::Unknown)).collect();
        let _one = b.begin(many, Kind::Grpc);
        let listed = |most| -> Vec<(String, u32)> {
            let found = oldest(&counts, most).into_iter();
            found.map(|found| (found.listener, found.context)).collect()
        };
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(listed(2), [(a.clone(), 0), (a, 1), (b, many)]);
        assert_eq!(listed(usize::MAX).len(), MOST + 1);
        assert!(listed(0).is_empty());
    }
}
