//! One simulated filter: the filter's own [`Session`], with its intervals and its backoff, on a stream of ours in place of
//! Envoy's.

use std::{rc::Rc, sync::Arc, time::Instant};

use anyhow::{Context as _, Result};
use ebb_filter::{
    config::{Config, LinkConfig},
    counts::{Counts, InFlight, Kind, Listener},
    identity::{Identity, Process},
    request::Crossings,
    session::{Effect, Event, Session},
};
use ebb_proto::v1::FilterCommand;
use prost::Message as _;
use tokio::{sync::watch, time::sleep_until};

use super::{
    board::Board,
    link::{Link, Wire},
};

/// As the shipped Envoy configuration has it: its listeners, and how the control plane is reached.
const LISTENERS: [&str; 2] = ["ingress", "internal"];
const CONFIG: &[u8] =
    br#"{"listener":"ingress","control_plane_cluster":"ebb_control_plane","reconnect_max":"500ms"}"#;

/// Reporters of a node: the VMs of three workers and of the main thread.
pub(super) const PER_NODE: usize = 4;

/// gRPC's code UNAVAILABLE, with which Envoy ends a stream whose connection is lost or never was there.
const UNAVAILABLE: u32 = 14;

/// How a filter reaches the control plane.
pub(super) fn link_config() -> Result<LinkConfig> {
    Ok(Config::parse(CONFIG).context("of a simulated filter")?.link)
}

/// A filter that is to speak.
#[derive(Debug)]
pub(super) struct Filter {
    index: usize,
    link: Rc<Link>,
    board: Arc<Board>,
    counts: Counts,
    listener: Rc<Listener>,
    /// Whether one request is to be in flight.
    hold: watch::Receiver<bool>,
    request: Option<InFlight>,
    session: Session,
    token: u32,
    /// Whether the last command named a drain.
    drains: bool,
}

impl Filter {
    /// The filter of this number; it says the same of itself in every run.
    pub(super) fn new(
        index: usize,
        config: LinkConfig,
        link: Rc<Link>,
        board: Arc<Board>,
        hold: watch::Receiver<bool>,
    ) -> Self {
        let mut counts = Counts::default();
        let [listener, ..] = LISTENERS.map(|name| counts.listeners.add(name));
        let epoch = index as u64 + 1;
        let identity = Identity {
            node_id: format!("edge-{}", index / PER_NODE),
            node_cluster: "edge".to_owned(),
            epoch,
        };
        Self {
            index,
            link,
            board,
            counts,
            listener,
            hold,
            request: None,
            session: Session::new(identity, config, epoch),
            token: 0,
            drains: false,
        }
    }

    /// Speaks until it is dropped.
    pub(super) async fn speak(mut self) {
        loop {
            if let Some(at) = self.session.next_deadline() {
                sleep_until((self.board.origin + at).into()).await;
            }
            let effects = self.handle(Event::Tick);
            if !effects.iter().any(|effect| matches!(effect, Effect::Open { .. })) {
                continue;
            }
            self.token = self.token.wrapping_add(1);
            let token = self.token;
            self.adopt();
            let first = self.index - self.index % PER_NODE;
            let process = Process {
                number: (self.index / PER_NODE) as u64 + 1,
                vms: (first..first + PER_NODE).map(|index| index as u64 + 1).collect(),
            };
            let hello = self.handle(Event::Opened { token, process });
            match self.link.open().await {
                Ok(mut wire) => {
                    self.board.opened();
                    // However it ended, it is opened again.
                    let mut attached = false;
                    let _ = self.attend(&mut wire, hello, &mut attached).await;
                    self.board.lost(attached);
                }
                Err(_) => self.board.refused(),
            }
            self.handle(Event::Closed {
                token,
                status: UNAVAILABLE,
            });
        }
    }

    /// Serves one stream until it ends.
    async fn attend(&mut self, wire: &mut Wire, hello: Vec<Effect>, attached: &mut bool) -> Result<()> {
        self.carry_out(wire, hello)?;
        let token = self.token;
        loop {
            let due = self
                .session
                .next_deadline()
                .map_or_else(|| Instant::now() + super::FOREVER, |at| self.board.origin + at);
            let effects = tokio::select! {
                message = wire.next() => {
                    let Some(message) = message? else { return Ok(()) };
                    let command = FilterCommand::decode(message.clone())?;
                    self.note(&command, !std::mem::replace(attached, true));
                    let effects = self.handle(Event::Received { token, message: &message });
                    if command.ask != 0 && command.directives.iter().any(|directive| directive.awaited) {
                        self.board.answered();
                    }
                    effects
                }
                () = sleep_until(due.into()) => self.handle(Event::Tick),
                changed = self.hold.changed() => {
                    changed?;
                    if !self.adopt() { continue }
                    let crossings = Crossings { listener: Some(Rc::clone(&self.listener)), ..Crossings::default() };
                    self.handle(Event::Crossed(&crossings))
                }
            };
            self.carry_out(wire, effects)?;
        }
    }

    /// Begins or ends the one request; says whether it did either.
    fn adopt(&mut self) -> bool {
        let hold = *self.hold.borrow_and_update();
        if hold == self.request.is_some() {
            return false;
        }
        self.request = hold.then(|| self.listener.begin(1, Kind::Unknown));
        true
    }

    fn note(&mut self, command: &FilterCommand, first: bool) {
        self.board.commanded(first);
        let drains = !command.directives.is_empty();
        if drains {
            self.board.told(self.index);
        }
        self.board
            .drains(std::mem::replace(&mut self.drains, drains), drains);
    }

    fn handle(&mut self, event: Event<'_>) -> Vec<Effect> {
        self.session
            .handle(event, self.board.origin.elapsed(), &self.counts)
    }

    fn carry_out(&self, wire: &mut Wire, effects: Vec<Effect>) -> Result<()> {
        for effect in effects {
            match effect {
                Effect::Send { report, .. } => {
                    wire.send(&*report)?;
                    self.board.reported();
                }
                Effect::Cancel { .. } => anyhow::bail!("the filter has dropped its stream"),
                Effect::Open { .. } | Effect::Leave { .. } | Effect::Close { .. } | Effect::Log { .. } => {}
            }
        }
        Ok(())
    }
}
