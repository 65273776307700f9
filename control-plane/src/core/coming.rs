//! Reporters that come, and streams that are refused.

use ebb_proto::v1;

use super::{
    Core, Effect, Now,
    fleet::{Peer, SUCCEEDS_AFTER, StreamId},
};

impl Core {
    pub(super) fn is_live(&self, stream: StreamId) -> bool {
        let epoch = self.fleet.epoch(stream);
        epoch
            .and_then(|epoch| self.fleet.get(epoch))
            .is_some_and(|r| r.is_live())
    }

    /// A stream says more than is remembered of anybody: it ends, and its reporter is unknown.
    pub(super) fn refuse(&mut self, stream: StreamId, why: &str, now: Now, out: &mut Vec<Effect>) {
        let live = self.is_live(stream);
        let Some(epoch) = self.fleet.refuse(stream, why, now.instant) else {
            return;
        };
        let node = self.fleet.get(epoch).map(|reporter| reporter.node.clone());
        let why = format!("node {:?}: {why}", node.as_deref().unwrap_or_default());
        out.push(Effect::Refuse { stream, why });
        self.prune_at.get_or_insert(now.instant + SUCCEEDS_AFTER);
        self.became_unknown(epoch, live, now, out);
    }

    /// A filter opened a stream.
    pub(super) fn attached(
        &mut self,
        stream: StreamId,
        hello: &v1::FilterHello,
        peer: Option<Peer>,
        report: v1::FilterReport,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let attached = match self.fleet.attach(stream, hello, peer, now.instant) {
            Ok(attached) => attached,
            Err(claim) => {
                let why = claim.to_string();
                out.push(Effect::Refuse { stream, why });
                return;
            }
        };
        out.extend(attached.replaced.map(Effect::End));
        let excess = self.fleet.report(stream, report, now.instant).err();
        self.prune(Some(&hello.node_id), now, out);
        self.may_be_twins(&hello.node_id, now);
        self.ask += 1;
        self.look_at(attached.epoch, now, out);
        self.send(attached.epoch, now, out);
        if !attached.expected.is_empty() {
            self.prune_at.get_or_insert(now.instant + SUCCEEDS_AFTER);
        }
        for other in attached.expected {
            self.look_at(other, now, out);
        }
        if let Some(excess) = excess {
            self.refuse(stream, &excess.to_string(), now, out);
        }
        out.push(Effect::FleetChanged);
    }
}
