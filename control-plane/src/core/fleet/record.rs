//! A reporter as it is kept in the durable store, so that the next control plane expects it.

use ebb_proto::v1;

use super::{Epoch, Local, Peer, Reporter};

/// As much of its listeners' names is kept, in bytes. Of one that has more none are: until it attaches it may have any.
const MOST_KEPT: usize = 64 << 10;

/// What outlives the control plane of a reporter.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReporterRecord {
    /// The VM's epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Its node's id.
    #[prost(string, tag = "2")]
    pub node: String,
    /// Envoy's `node.cluster`.
    #[prost(string, tag = "3")]
    pub cluster: String,
    /// Random number of its Envoy process.
    #[prost(uint64, tag = "4")]
    pub process: u64,
    /// The names of its listeners, unless they are too many.
    #[prost(string, repeated, tag = "5")]
    pub listeners: Vec<String>,
    /// Whether it counts upstream endpoints.
    #[prost(bool, tag = "6")]
    pub counts_upstreams: bool,
    /// The process of this machine that it speaks from.
    #[prost(message, optional, tag = "7")]
    pub local: Option<LocalRecord>,
    /// The host that it speaks from; empty = a process of this machine, or not known.
    #[prost(string, tag = "8")]
    pub host: String,
}

/// A process of this machine.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LocalRecord {
    /// See [`Local::pid`].
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// See [`Local::group`].
    #[prost(uint32, tag = "2")]
    pub group: u32,
    /// See [`Local::started`].
    #[prost(uint64, tag = "3")]
    pub started: u64,
    /// Where the pid means something: the boot of the system and the namespace of its pids.
    #[prost(string, tag = "4")]
    pub place: String,
    /// Whether it is an Envoy, whose VMs end with it. Others pass on the streams of an Envoy, which may outlive them.
    #[prost(bool, tag = "5")]
    pub is_envoy: bool,
}

impl ReporterRecord {
    pub(super) fn of(epoch: Epoch, reporter: &Reporter, cluster: &str) -> Self {
        let mut record = Self {
            epoch: epoch.0,
            node: reporter.node.to_string(),
            cluster: cluster.to_owned(),
            process: reporter.process,
            listeners: names(reporter),
            counts_upstreams: reporter.counts_upstreams,
            ..Self::default()
        };
        match reporter.peer {
            Some(Peer::Local(Local { pid, group, started })) => {
                record.local = Some(LocalRecord {
                    pid,
                    group,
                    started,
                    ..LocalRecord::default()
                });
            }
            Some(Peer::Host(host)) => record.host = host.to_string(),
            None => {}
        }
        record
    }

    /// Where it speaks from, as far as that is known.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        match &self.local {
            Some(local) => Some(Peer::Local(Local {
                pid: local.pid,
                group: local.group,
                started: local.started,
            })),
            None => self.host.parse().ok().map(Peer::Host),
        }
    }

    /// Its listeners, with nothing known of what is in flight.
    pub(super) fn counts(&self) -> Vec<v1::ListenerCounts> {
        let named = |name: &String| v1::ListenerCounts {
            name: name.clone(),
            ..v1::ListenerCounts::default()
        };
        self.listeners.iter().map(named).collect()
    }
}

fn names(reporter: &Reporter) -> Vec<String> {
    let names = reporter.listeners.iter().map(|said| &said.name);
    if names.clone().map(String::len).sum::<usize>() > MOST_KEPT {
        return Vec::new();
    }
    names.cloned().collect()
}
