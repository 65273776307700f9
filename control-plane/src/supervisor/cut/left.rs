//! What a wait of a shutdown still waits for: in words for people, and in numbers for the account of what its end cuts.

use std::{collections::BTreeMap, sync::Arc};

use ebb_proto::v1;
use tokio::sync::watch;

use crate::{
    core::{
        outstanding::{self, Outstanding, Unsent},
        reading::sum,
    },
    text::one_line,
};

/// Where requests are that Envoy counts itself: no filter has named a listener for them.
const BY_ENVOY: &str = "by Envoy's own count";

/// What a process has not finished. Nothing in it and nobody unknown: it has finished everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Requests in flight, by where they came in, in words: `on ingress of edge`.
    pub requests: BTreeMap<String, u64>,
    /// Requests of those who are unknown by now, as they told last.
    pub last_told: u64,
    /// Requests that are cut already, by an Envoy in the scope of its drain that ended.
    pub cut: u64,
    /// Requests of others that may need it, by where they are, in words: `towards 127.0.0.1:80`.
    pub towards: BTreeMap<String, u64>,
    /// TCP sessions.
    pub sessions: u64,
    /// Bytes that clients have not received.
    pub bytes: u64,
    /// The clients that have not received them, as far as they can be told apart.
    pub clients: u64,
    /// Requests to upstreams on Envoy's own account.
    pub upstream: u64,
    /// Who cannot tell, and why, in words.
    pub unknown: Vec<String>,
}

impl Remains {
    /// Nobody can tell what there is; why, in words.
    #[must_use]
    pub fn unknown(why: String) -> Self {
        Self {
            unknown: vec![why],
            ..Self::default()
        }
    }

    /// Requests by Envoy's own count.
    #[must_use]
    pub fn by_envoy(count: u64) -> Self {
        let requests = (count > 0).then(|| (BY_ENVOY.to_owned(), count));
        Self {
            requests: requests.into_iter().collect(),
            ..Self::default()
        }
    }

    /// What an Envoy owes beyond requests in flight, as far as it can be seen.
    #[must_use]
    pub fn owed(outstanding: Outstanding) -> Self {
        let Unsent {
            buffered,
            queued,
            clients,
        } = outstanding.unsent.unwrap_or_default();
        Self {
            sessions: outstanding.tcp.unwrap_or_default(),
            bytes: buffered.saturating_add(queued),
            clients,
            upstream: outstanding.upstream.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// The same, of which nobody tells any more; why, in words.
    #[must_use]
    pub fn lost(self, why: String) -> Self {
        let last_told = self.requests().saturating_add(self.last_told);
        Self {
            last_told,
            requests: BTreeMap::new(),
            unknown: vec![why],
            ..self
        }
    }

    /// What a drain counts.
    fn of(drain: &v1::Drain) -> Self {
        let listeners = drain.listeners.iter().filter(|listener| listener.in_flight > 0);
        let mut requests: BTreeMap<String, u64> = listeners
            .map(|listener| {
                (
                    one_line(&format!("on {} of {}", listener.name, listener.node)),
                    listener.in_flight,
                )
            })
            .collect();
        let named = sum(requests.values().copied());
        let others = drain.in_flight.saturating_sub(named);
        if others > 0 {
            let whose = match drain.listeners_omitted {
                0 => BY_ENVOY.to_owned(),
                more => format!("on {more} more listeners"),
            };
            requests.insert(whose, others);
        }
        let unknown = drain.unknown_reporters.iter().map(|unknown| {
            let v1::UnknownReporter {
                node,
                reporter,
                reason,
            } = unknown;
            let text = match (node.as_str(), reporter.as_str()) {
                ("", _) => reason.clone(),
                (node, "") => format!("node {node} unknown ({reason})"),
                (node, reporter) => format!("reporter {reporter} of {node} unknown ({reason})"),
            };
            one_line(&text)
        });
        let owed = drain.outstanding.unwrap_or_default();
        Self {
            requests,
            cut: drain.cut,
            sessions: owed.tcp_sessions(),
            bytes: owed.unsent_bytes(),
            clients: owed.unsent_clients(),
            upstream: owed.upstream_requests(),
            unknown: unknown.collect(),
            ..Self::default()
        }
    }

    fn requests(&self) -> u64 {
        sum(self.requests.values().copied())
    }

    /// Requests that are cut if it ends now, as far as they are known.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.requests()
            .saturating_add(self.last_told)
            .saturating_add(self.cut)
    }

    /// Whether it has finished everything.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether all that is left are calls on its own account, for which there is less time.
    #[must_use]
    pub fn is_its_own(&self) -> bool {
        let own = Self {
            upstream: self.upstream,
            ..Self::default()
        };
        self.upstream > 0 && *self == own
    }

    /// Whether it owes something beyond requests.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.sessions > 0 || self.bytes > 0 || self.upstream > 0
    }

    /// What it owes beyond requests.
    fn outstanding(&self) -> v1::Outstanding {
        v1::Outstanding {
            tcp_sessions: Some(self.sessions),
            unsent_bytes: Some(self.bytes),
            unsent_clients: Some(self.clients),
            upstream_requests: Some(self.upstream),
            unseen_nodes: 0,
        }
    }

    /// In words; empty = nothing.
    #[must_use]
    pub fn text(&self) -> String {
        let in_flight = |(place, count): (&String, &u64)| format!("{count} in flight {place}");
        let of_others = self.towards.iter();
        let mut parts: Vec<String> = self.requests.iter().map(in_flight).collect();
        if self.last_told > 0 {
            parts.push(format!("{} in flight when last heard of", self.last_told));
        }
        if self.cut > 0 {
            parts.push(format!("{} cut by an Envoy that ended", self.cut));
        }
        parts.extend(of_others.map(in_flight));
        parts.extend(outstanding::parts(&self.outstanding()));
        parts.extend(self.unknown.iter().cloned());
        parts.join(", ")
    }
}

/// What the views of one drain come to, one after the other.
#[derive(Debug, Default)]
pub struct Follow {
    /// The view before.
    in_flight: u64,
    unknown: usize,
    last_told: u64,
}

impl Follow {
    /// What is left by this view. Who has become unknown since the one before has taken its requests along.
    pub fn next(&mut self, drain: &v1::Drain) -> Remains {
        let unknown = drain.unknown_reporters.len();
        if unknown == 0 {
            self.last_told = 0;
        } else if unknown > self.unknown {
            let less = self.in_flight.saturating_sub(drain.in_flight);
            self.last_told = self.last_told.saturating_add(less);
        }
        self.in_flight = drain.in_flight;
        self.unknown = unknown;
        Remains {
            last_told: self.last_told,
            ..Remains::of(drain)
        }
    }
}

/// What a wait still waits for. All clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Left(Arc<watch::Sender<Said>>);

#[derive(Debug, Default)]
struct Said {
    text: String,
    remains: Remains,
    /// Whether a drain still has its last word to say.
    follows: bool,
}

impl Left {
    /// It is this now.
    pub fn set(&self, remains: Remains) {
        self.say(remains.text(), remains);
    }

    /// It is this now, in these words.
    pub fn say(&self, text: impl Into<String>, remains: Remains) {
        self.0.send_modify(|said| {
            said.text = text.into();
            said.remains = remains;
        });
    }

    /// In words; empty = nobody said.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.borrow().text.clone()
    }

    /// In numbers.
    #[must_use]
    pub fn remains(&self) -> Remains {
        self.0.borrow().remains.clone()
    }

    /// For who follows a drain, and says what it has left until that has ended.
    #[must_use]
    pub fn follows(&self) -> Following {
        self.0.send_modify(|said| said.follows = true);
        Following(self.clone())
    }

    /// Waits until nobody follows a drain any more: what is left then is the last word.
    pub async fn settled(&self) {
        // The sender is here.
        let _ = self.0.subscribe().wait_for(|said| !said.follows).await;
    }
}

/// The right to say what a drain has left. Dropped, the last word has been said.
#[derive(Debug)]
pub struct Following(Left);

impl Following {
    /// It is this now.
    pub fn set(&self, remains: Remains) {
        self.0.set(remains);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.0.send_modify(|said| said.follows = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(in_flight: u64, unknown: usize) -> v1::Drain {
        let reporter = |index| v1::UnknownReporter {
            node: "edge".to_owned(),
            reporter: format!("{index:04x}"),
            reason: "stream closed".to_owned(),
        };
        v1::Drain {
            in_flight,
            listeners: vec![v1::DrainListener {
                node: "edge".to_owned(),
                name: "ingress".to_owned(),
                in_flight,
                ..v1::DrainListener::default()
            }],
            unknown_reporters: (0..unknown).map(reporter).collect(),
            ..v1::Drain::default()
        }
    }

    #[test]
    fn who_becomes_unknown_takes_its_requests_along_and_who_finishes_does_not() {
        let mut follow = Follow::default();
        let mut next = |in_flight, unknown| {
            let remains = follow.next(&drain(in_flight, unknown));
            (
                sum(remains.requests.values().copied()),
                remains.last_told,
                remains.total(),
            )
        };
        assert_eq!(next(0, 2), (0, 0, 0), "nobody has answered yet");
        assert_eq!(next(7, 0), (7, 0, 7));
        assert_eq!(next(5, 0), (5, 0, 5));
        assert_eq!(next(3, 1), (3, 2, 5));
        assert_eq!(next(1, 1), (1, 2, 3), "the others finish");
        assert_eq!(next(0, 2), (0, 3, 3));
        assert_eq!(next(2, 0), (2, 0, 2), "all are back");
    }

    #[test]
    fn what_is_owed_beyond_requests_in_words() {
        assert!(Remains::owed(Outstanding::default()).is_nothing());
        let owed = |tcp, queued, clients, upstream| {
            Remains::owed(Outstanding {
                tcp: Some(tcp),
                unsent: Some(Unsent {
                    buffered: 5,
                    queued,
                    clients,
                }),
                upstream: Some(upstream),
            })
        };
        assert_eq!(
            owed(2, 7, 3, 4).text(),
            "2 TCP sessions, 12 bytes towards 3 clients, 4 upstream requests"
        );
        assert_eq!(
            owed(1, 0, 0, 1).text(),
            "1 TCP session, 5 bytes towards clients, 1 upstream request"
        );
        let alone = Remains {
            upstream: 1,
            ..Remains::default()
        };
        assert!(alone.is_its_own() && !owed(0, 0, 1, 1).is_its_own() && !Remains::default().is_its_own());
    }

    #[test]
    fn what_is_left_in_words() {
        let mut drain = drain(2, 1);
        drain.in_flight = 3;
        let remains = Follow::default().next(&drain);
        assert_eq!(
            remains.text(),
            "1 in flight by Envoy's own count, 2 in flight on ingress of edge, reporter 0000 of edge unknown (stream closed)"
        );
        let lost = remains.lost("no answer".to_owned());
        assert_eq!(lost.text(), "3 in flight when last heard of, no answer");
        let towards = BTreeMap::from([("towards 127.0.0.1:80".to_owned(), 4)]);
        let towards = Remains {
            towards,
            ..Remains::default()
        };
        assert_eq!(
            (towards.text().as_str(), towards.total()),
            ("4 in flight towards 127.0.0.1:80", 0)
        );
        assert_eq!(Remains::by_envoy(0).text(), "");
        let cut = v1::Drain {
            cut: 5,
            ..v1::Drain::default()
        };
        let cut = Follow::default().next(&cut);
        assert_eq!(
            (cut.text().as_str(), cut.total()),
            ("5 cut by an Envoy that ended", 5)
        );
    }
}
