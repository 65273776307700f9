//! Which requests are in flight: asked of the filters at the moment when somebody wants to know, so that it costs
//! nothing per request.
//!
//! A command can be overtaken by a later one before it is sent. So as long as an inquiry waits for a reporter, every
//! command that the reporter gets asks for its blockers, and any answer to one of them will do.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use ebb_proto::v1;
use prost::Message as _;

use super::{Core, Effect, Now, fleet::Epoch, policy::from_wire, scope::Scope};

/// How many requests per node and listener are listed where the caller does not say.
pub const DEFAULT_LIMIT: u32 = 10;

/// The most that may be asked for.
pub const MAX_LIMIT: u32 = 100;

/// Somebody's question.
#[derive(Debug)]
struct Inquiry {
    scope: Scope,
    limit: u32,
    waits_for: HashSet<Epoch>,
    found: Vec<v1::NodeBlocker>,
}

/// As many requests are collected for an answer, of however many filters.
const MOST_FOUND: usize = 50_000;

/// As much of them is shown, in bytes on the wire; clients take no more than 4 MiB.
const SHOWN: usize = 2 << 20;

/// The questions that wait for answers, by their ask.
#[derive(Debug, Default)]
pub(super) struct Inquiries(BTreeMap<u64, Inquiry>);

impl Inquiries {
    /// How many requests per listener a reporter has to list with its next answer; 0 = none.
    pub(super) fn limit(&self, epoch: Epoch) -> u32 {
        let waiting = self
            .0
            .values()
            .filter(|inquiry| inquiry.waits_for.contains(&epoch));
        waiting.map(|inquiry| inquiry.limit).max().unwrap_or_default()
    }

    /// A reporter has answered everything up to `answered`. Returns the asks that wait for nobody any more.
    pub(super) fn heard(
        &mut self,
        epoch: Epoch,
        node: &Arc<str>,
        answered: u64,
        blockers: &[v1::Blocker],
    ) -> Vec<u64> {
        let mut complete = Vec::new();
        for (ask, inquiry) in self.0.range_mut(..=answered) {
            if !inquiry.waits_for.remove(&epoch) {
                continue;
            }
            let wanted = blockers
                .iter()
                .filter(|blocker| inquiry.scope.has_blocker(blocker));
            let room = MOST_FOUND.saturating_sub(inquiry.found.len());
            inquiry
                .found
                .extend(wanted.take(room).map(|blocker| v1::NodeBlocker {
                    node: node.to_string(),
                    blocker: Some(blocker.clone()),
                }));
            if inquiry.waits_for.is_empty() {
                complete.push(*ask);
            }
        }
        complete
    }

    /// A reporter will not answer.
    pub(super) fn lost(&mut self, epoch: Epoch) -> Vec<u64> {
        let mut complete = Vec::new();
        for (ask, inquiry) in &mut self.0 {
            if inquiry.waits_for.remove(&epoch) && inquiry.waits_for.is_empty() {
                complete.push(*ask);
            }
        }
        complete
    }
}

impl Core {
    /// Asks the live reporters of a drain, or all of them, for their oldest requests: `limit` per listener.
    /// [`Effect::Answered`] follows, here or later; after that, or when the time is up, [`Core::take_blockers`].
    /// `None` = no drain of that id.
    pub fn ask_blockers(&mut self, drain: Option<&str>, limit: u32, now: Now) -> Option<(u64, Vec<Effect>)> {
        let drain = match drain {
            Some(id) => Some(self.find(id)?),
            None => None,
        };
        let asked = self.fleet.reporters().filter(|(epoch, reporter)| {
            reporter.is_live() && drain.is_none_or(|drain| drain.tally.has(*epoch))
        });
        let waits_for: HashSet<Epoch> = asked.map(|(epoch, _)| epoch).collect();
        let scope = drain.map(|drain| drain.scope.clone()).unwrap_or_default();
        self.ask += 1;
        let mut out = Vec::new();
        if waits_for.is_empty() {
            out.push(Effect::Answered(self.ask));
        }
        let epochs: Vec<Epoch> = waits_for.iter().copied().collect();
        let inquiry = Inquiry {
            scope,
            limit,
            waits_for,
            found: Vec::new(),
        };
        self.inquiries.0.insert(self.ask, inquiry);
        for epoch in epochs {
            self.send(epoch, now, &mut out);
        }
        Some((self.ask, out))
    }

    /// What has been answered to an ask, oldest first. The question is over with that.
    pub fn take_blockers(&mut self, ask: u64) -> Vec<v1::NodeBlocker> {
        let Some(Inquiry { limit, mut found, .. }) = self.inquiries.0.remove(&ask) else {
            return Vec::new();
        };
        found.sort_by(|a, b| {
            let names = |of: &v1::NodeBlocker| (of.node.clone(), listener(of).to_owned());
            Reverse(age(a))
                .cmp(&Reverse(age(b)))
                .then_with(|| names(a).cmp(&names(b)))
        });
        let mut listed: HashMap<(String, String), u32> = HashMap::new();
        found.retain(|blocker| {
            let listed = listed
                .entry((blocker.node.clone(), listener(blocker).to_owned()))
                .or_default();
            *listed += 1;
            *listed <= limit
        });
        let mut room = SHOWN;
        let fits = found.iter().take_while(|blocker| {
            let left = room.checked_sub(blocker.encoded_len());
            room = left.unwrap_or(0);
            left.is_some()
        });
        let fits = fits.count();
        found.truncate(fits);
        found
    }

    /// A reporter has answered, with these requests.
    pub(super) fn heard_blockers(&mut self, epoch: Epoch, blockers: &[v1::Blocker], out: &mut Vec<Effect>) {
        let Some(reporter) = self.fleet.get(epoch) else {
            return;
        };
        let complete = self
            .inquiries
            .heard(epoch, &reporter.node, reporter.answered, blockers);
        out.extend(complete.into_iter().map(Effect::Answered));
    }
}

fn listener(of: &v1::NodeBlocker) -> &str {
    of.blocker.as_ref().map_or("", |blocker| &blocker.listener)
}

fn age(of: &v1::NodeBlocker) -> Duration {
    let age = of.blocker.as_ref().and_then(|blocker| blocker.age.as_ref());
    age.and_then(from_wire).unwrap_or_default()
}
