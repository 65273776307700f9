//! Carrying out what the core wants.

use ebb_proto::v1;

use super::{
    Task,
    show::{SHOW_DRAIN_EVERY, SHOW_FLEET_EVERY},
};
use crate::{
    core::{Effect, Now, record::Record, snapshot::unknown_reporters},
    engine::{Outgoing, admins},
    store::Changes,
};

impl Task {
    pub(in crate::engine) fn carry_out(&mut self, effects: Vec<Effect>, now: Now) {
        let mut known = Vec::new();
        for effect in effects {
            match effect {
                Effect::Store(record) => self.store(&record),
                Effect::Forget(id) => {
                    self.drains.remove(&id);
                    if let Err(error) = self.store.keep(Changes::forget(&id)) {
                        tracing::error!(drain = id, %error, "cannot forget a drain");
                    }
                }
                Effect::Send { stream, command } => {
                    if let Some(commands) = self.streams.get(&stream) {
                        commands.send_replace(Outgoing::Command(command));
                    }
                }
                Effect::End(stream) => {
                    if let Some(commands) = self.streams.remove(&stream) {
                        commands.send_replace(Outgoing::Replaced);
                    }
                }
                Effect::Refuse { stream, why } => {
                    tracing::warn!(why, "a filter's stream is refused");
                    if let Some(commands) = self.streams.remove(&stream) {
                        commands.send_replace(Outgoing::Refused(why));
                    }
                }
                Effect::KeepFleet { mut put, gone } => {
                    self.peers.describe(&mut put);
                    if let Err(error) = self.store.keep(Changes::fleet(put, &gone)) {
                        tracing::error!(%error, "cannot keep who is attached");
                    }
                }
                Effect::DrainChanged { id, phase: true } => {
                    self.changed.remove(&id);
                    self.show_drain(&id, now);
                }
                Effect::DrainChanged { id, phase: false } if self.drains.contains_key(&id) => {
                    self.changed.insert(id);
                    let soon = now.instant + self.at_most_every(SHOW_DRAIN_EVERY);
                    self.show_drains_at = Some(self.show_drains_at.map_or(soon, |at| at.min(soon)));
                }
                Effect::DrainChanged { .. } => {}
                Effect::AskAdmin { node, ask, upstreams } => {
                    let (admin, requests) = (self.admins.get(&node).cloned(), self.requests.clone());
                    tokio::spawn(admins::ask(admin, node, ask, upstreams, requests));
                }
                Effect::AskOutstanding { node, ask, listeners } => {
                    known.extend(self.look(node, ask, listeners));
                }
                Effect::UseAdmin { node, address } => {
                    if let Some(admin) = self.endpoints.get(&address) {
                        self.admins.insert(node, admin.clone());
                    }
                }
                Effect::KeepLever { node, pulled } => {
                    if let Err(error) = self.store.keep(Changes::lever(&node, pulled)) {
                        tracing::error!(
                            node,
                            %error,
                            "cannot keep that its Envoy was told to close"
                        );
                    }
                }
                Effect::PullLever { node, close } => {
                    let (admin, requests) = (self.admins.get(&node).cloned(), self.requests.clone());
                    tokio::spawn(admins::pull(admin, node, close, requests));
                }
                Effect::Twins(node) => tracing::warn!(
                    node,
                    "several Envoys are attached that say they are this node: give each a node.id of its own (--service-node), or \
                     one cannot be told from the other"
                ),
                Effect::FleetChanged if self.nodes.views.receiver_count() > 0 => {
                    let soon = now.instant + self.at_most_every(SHOW_FLEET_EVERY);
                    self.show_nodes_at.get_or_insert(soon);
                }
                Effect::FleetChanged => {}
                Effect::Answered(ask) => self.answer(ask, now),
            }
        }
        // What follows from these must not come before what is left of the others.
        self.tell_known(known, now);
    }

    /// A drain that cannot be kept is still carried out, and its caller told: it is lost only if the control plane dies.
    fn store(&mut self, record: &Record) {
        let Some(drain) = &record.drain else { return };
        // A drain that runs is kept when it begins, and nobody has answered by then: 0 would say that nothing is in flight.
        let running = matches!(
            drain.phase(),
            v1::Phase::Announced | v1::Phase::Draining | v1::Phase::Quiet
        );
        tracing::info!(
            drain = drain.id,
            phase = drain.phase().as_str_name(),
            in_flight = (!running).then_some(drain.in_flight),
            unknown = (!running).then_some(unknown_reporters(drain)),
            "drain"
        );
        let why_not = self.store.keep(Changes::drain(record)).err().map(|error| {
            tracing::error!(
                drain = drain.id,
                %error,
                "cannot keep a drain; it goes on"
            );
            if self.store.knows(&drain.id) {
                format!(
                    "as it is now, it would not survive a restart of the control plane, which would go on with what was \
                     written before: {error}"
                )
            } else {
                format!("it would not survive a restart of the control plane: {error}")
            }
        });
        self.core.kept(&drain.id, why_not);
    }

    /// What could not be written is written.
    pub(super) fn all_kept(&mut self, now: Now) {
        // Something may have been late again since that was said.
        if self.store.is_settled() {
            for id in self.core.all_kept() {
                self.show_drain(&id, now);
            }
        }
    }

    /// The state was broken, and has a new file.
    pub(super) fn keep_everything(&mut self, now: Now) {
        let mut all = self.core.everything(now);
        self.peers.describe(&mut all.reporters);
        let everything = Changes::everything(all, self.run.as_ref());
        if let Err(error) = self.store.keep(everything) {
            tracing::error!(%error, "cannot keep in a new state what was in the broken one");
        }
    }
}
