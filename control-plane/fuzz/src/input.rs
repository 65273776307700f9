//! Bytes, taken apart.

use std::time::{Duration, SystemTime};

use ebb::core::fleet::{Local, Peer};
use ebb_proto::v1;
use prost::Message;

/// Names of nodes, listeners and upstream endpoints: few, so that they meet.
const NAMES: [&str; 9] = [
    "a",
    "b",
    "a",
    "b",
    "a",
    "127.0.0.1:80",
    "a (unix:/b)",
    "",
    "\u{202e}\0",
];

/// Bytes, taken from the front. When none is left everything is 0, so that whatever reads them comes to an end.
pub(crate) struct Input<'b>(pub(crate) &'b [u8]);

impl Input<'_> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of these many.
    pub(crate) fn below(&mut self, many: usize) -> usize {
        usize::from(self.byte()) % many.max(1)
    }

    /// Up to this many of something.
    pub(crate) fn some<T>(&mut self, many: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(many + 1)).map(|_| one(self)).collect()
    }

    pub(crate) fn option<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| one(self))
    }

    /// The next bytes, as many as the first of them says.
    pub(crate) fn bytes(&mut self) -> &[u8] {
        let many = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(many);
        self.0 = rest;
        taken
    }

    /// A message, decoded from bytes as they come off the wire or from the disk.
    pub(crate) fn message<M: Message + Default>(&mut self) -> Option<M> {
        M::decode(self.bytes()).ok()
    }

    /// Small, at the edge of what fits, or anything.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            250 => 1 << 40,
            251 => i64::MAX.unsigned_abs(),
            252 => i64::MIN.unsigned_abs(),
            253 => u64::MAX - 1,
            254 => u64::MAX,
            255 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            small => u64::from(small),
        }
    }

    pub(crate) fn name(&mut self) -> String {
        match self.byte() {
            255 => String::from_utf8_lossy(self.bytes()).into_owned(),
            known => NAMES[usize::from(known) % NAMES.len()].to_owned(),
        }
    }

    /// As a clock tells it.
    pub(crate) fn span(&mut self) -> Duration {
        let millis = [0, 1, 50, 250, 500, 3_000, 10_000, 61_000, 86_400_000];
        Duration::from_millis(millis[self.below(millis.len())])
    }

    /// As somebody may write it.
    pub(crate) fn wire_span(&mut self) -> Option<prost_types::Duration> {
        match self.byte() {
            0..100 => self.span().try_into().ok(),
            100..150 => None,
            _ => Some(prost_types::Duration {
                seconds: self.number().cast_signed(),
                nanos: self.nanos(),
            }),
        }
    }

    pub(crate) fn wire_time(&mut self, now: SystemTime) -> Option<prost_types::Timestamp> {
        match self.byte() {
            0..100 => now.checked_sub(self.span()).map(Into::into),
            100..150 => now.checked_add(self.span()).map(Into::into),
            150..170 => None,
            _ => Some(prost_types::Timestamp {
                seconds: self.number().cast_signed(),
                nanos: self.nanos(),
            }),
        }
    }

    fn nanos(&mut self) -> i32 {
        let edges = [0, 1, -1, 999_999_999, 1_000_000_000, i32::MAX, i32::MIN];
        edges[self.below(edges.len())]
    }

    pub(crate) fn peer(&mut self) -> Option<Peer> {
        match self.byte() % 4 {
            0 => None,
            1 => Some(Peer::Host([127, 0, 0, self.byte()].into())),
            _ => Some(Peer::Local(Local {
                pid: u32::from(self.byte()),
                group: u32::from(self.byte()),
                started: self.number(),
            })),
        }
    }

    /// Mostly one that can be.
    pub(crate) fn policy(&mut self) -> v1::Policy {
        if self.byte() < 220 {
            let millis = |millis| prost_types::Duration {
                seconds: 0,
                nanos: millis * 1_000_000,
            };
            return v1::Policy {
                announce: self.option(|input| millis(i32::from(input.byte()))),
                quiet_period: Some(millis(i32::from(self.byte()))),
                timeout: self.option(|input| millis(700 + i32::from(input.byte()))),
                on_timeout: i32::from(self.byte() % 3),
                evidence: i32::from(self.byte() % 5),
                tcp: i32::from(self.byte() % 3),
                ..v1::Policy::default()
            };
        }
        v1::Policy {
            announce: self.wire_span(),
            quiet_period: self.wire_span(),
            timeout: self.wire_span(),
            ramp: self.wire_span(),
            lease: self.wire_span(),
            on_timeout: i32::from(self.byte() % 4),
            evidence: i32::from(self.byte() % 6),
            tcp: i32::from(self.byte() % 4),
            linger: self.wire_span(),
            flush: self.wire_span(),
            idle: self.wire_span(),
        }
    }

    pub(crate) fn scope(&mut self) -> v1::Scope {
        let one = |input: &mut Self| vec![input.name()];
        match self.byte() % 8 {
            0..3 => v1::Scope::default(),
            3 => v1::Scope {
                nodes: one(self),
                ..v1::Scope::default()
            },
            4..6 => v1::Scope {
                listeners: one(self),
                ..v1::Scope::default()
            },
            6 => v1::Scope {
                upstreams: one(self),
                ..v1::Scope::default()
            },
            _ => v1::Scope {
                nodes: self.some(2, Self::name),
                listeners: self.some(2, Self::name),
                upstreams: self.some(1, Self::name),
            },
        }
    }

    pub(crate) fn hello(&mut self) -> v1::FilterHello {
        v1::FilterHello {
            node_id: self.name(),
            node_cluster: self.name(),
            process: u64::from(self.byte() % 3),
            epoch: u64::from(self.byte() % 8),
            version: self.name(),
            report_interval: self.wire_span(),
            drain_report_interval: self.wire_span(),
            vms: self.some(4, |input| u64::from(input.byte() % 16)),
        }
    }

    pub(crate) fn report(&mut self) -> v1::FilterReport {
        v1::FilterReport {
            hello: None,
            listeners: self.some(3, |input| v1::ListenerCounts {
                name: input.name(),
                in_flight: input.number(),
                started: input.number(),
                marked: input.number(),
                cut: input.number(),
                probes: input.number(),
                ports: input.some(2, |input| input.number() as u32),
            }),
            generation: self.number(),
            answers: self.number(),
            upstreams: self.some(2, |input| v1::UpstreamCounts {
                address: input.name(),
                in_flight: input.number(),
                started: input.number(),
                cut: input.number(),
            }),
            blockers: self.some(2, |input| v1::Blocker {
                listener: input.name(),
                age: input.wire_span(),
                protocol: i32::from(input.byte()),
                route: input.name(),
                upstream: input.name(),
                path: input.name(),
            }),
            counts_upstreams: self.flag(),
            goodbye: self.byte() > 240,
        }
    }
}
