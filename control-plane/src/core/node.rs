//! What one node contributes to a drain: the sums of its reporters and, beside them, what its Envoy says of itself.
//!
//! ```text
//!   Awaited --answer--> Said --answer--> Said        (a question that fails:)
//!      '---------------------'-----------------------> Silent --answer--> Said
//! ```
//! An Envoy that has not answered has said nothing: that is not zero, unless all of its reporters have said goodbye.

use std::collections::BTreeMap;

use super::{machine::Observation, policy::Evidence, tally::MOST};

/// The name of an Envoy that shares a node's id with others, by its admin endpoint: see [`super::Core::admin_found`].
pub(super) fn twin(node: &str, address: &str) -> String {
    format!("{node} ({address})")
}

/// Whether a name is that of such an Envoy.
pub(super) fn is_twin(name: &str, node: &str) -> bool {
    name.strip_prefix(node).is_some_and(|rest| rest.starts_with(" ("))
}

/// By what a drain goes, and the asks that count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// What the counts are to rest on.
    pub evidence: Evidence,
    /// A word is known that answers this ask, or a later one.
    pub told: u64,
    /// A word confirms that answers this ask, or a later one.
    pub confirm: u64,
}

/// Whether somebody who has answered everything up to `answered` has answered `ask`. As on the wire 0 = nothing so far,
/// and who never answered has not answered the first ask either.
pub(super) fn has_answered(answered: u64, ask: u64) -> bool {
    answered > 0 && answered >= ask
}

/// How many requests are in flight in a scope, by an Envoy's own count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// In flight.
    pub in_flight: u64,
    /// Ever begun, as in [`super::reading::Requests`]; `None` = not asked, as there are some in flight.
    pub begun: Option<u64>,
}

/// The last answer of an Envoy.
#[derive(Clone, Copy, Debug)]
struct Said {
    in_flight: u64,
    /// Requests ever begun, as far as was asked.
    begun: u64,
    /// The ask that it answers.
    answered: u64,
    /// Requests begun beyond those that the reporters told of; only of an answer that came while all of these were
    /// known and at zero. Then what is in flight is beyond what they count, too.
    beyond: Option<u64>,
}

/// What is known by an admin endpoint.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// It has not answered since the drain began.
    Awaited,
    /// It did not answer the last question.
    Silent,
    /// It answered.
    Said(Said),
}

/// How much a node's own count is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The reporters may be about to answer.
    Soon,
    /// Nothing else tells.
    AtOnce,
}

/// An admin endpoint that is at hand.
#[derive(Clone, Copy, Debug)]
struct Hand {
    word: Word,
    /// Whether its Envoy may have requests in scope that no reporter counts.
    beside: bool,
}

/// Sums of one node.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// How many reporters it has.
    pub(super) members: usize,
    /// How many of each of its processes. Several can share a node's id; its admin endpoint is that of one.
    processes: BTreeMap<u64, usize>,
    /// What they say.
    pub(super) filter: Observation,
    /// Whether some have left for good.
    left: bool,
    own: Option<Hand>,
}

impl Node {
    /// A reporter of this process is a member.
    pub(super) fn join(&mut self, process: u64) {
        self.members += 1;
        *self.processes.entry(process).or_default() += 1;
    }

    /// A reporter of this process is none any more.
    pub(super) fn part(&mut self, process: u64) {
        self.members = self.members.saturating_sub(1);
        if let Some(members) = self.processes.get_mut(&process) {
            *members = members.saturating_sub(1);
            if *members == 0 {
                self.processes.remove(&process);
            }
        }
    }

    /// A reporter has left for good.
    pub(super) fn has_been_left(&mut self) {
        self.left = true;
    }

    /// Whether its Envoy has ended as far as can be told: its reporters have left, and it does not answer any more.
    fn is_over(&self) -> bool {
        let silent = self.own.is_none_or(|own| matches!(own.word, Word::Silent));
        self.left && self.members == 0 && silent
    }

    /// Whether several processes are it, so that the count of one Envoy does not stand for all of them.
    fn is_shared(&self) -> bool {
        self.processes.len() > 1
    }

    /// Requests in flight by the last word of its Envoy.
    pub(super) fn own_in_flight(&self) -> Option<u64> {
        match self.own?.word {
            Word::Said(said) => Some(said.in_flight),
            Word::Awaited | Word::Silent => None,
        }
    }

    /// Whether there is nobody to tell of it.
    pub(super) fn is_deserted(&self) -> bool {
        self.members == 0 && self.own.is_none()
    }

    /// An admin endpoint is at hand. `beside`: its Envoy may have requests in scope that no reporter counts.
    pub(super) fn has_admin(&mut self, beside: bool) {
        let word = self.own.map_or(Word::Awaited, |own| own.word);
        self.own = Some(Hand { word, beside });
    }

    /// Its admin endpoint does not concern the drain.
    pub(super) fn has_no_admin(&mut self) {
        self.own = None;
    }

    /// Its Envoy told an earlier control plane of what nobody else tells.
    pub(super) fn has_lost_admin(&mut self) {
        self.own = Some(Hand {
            word: Word::Silent,
            beside: true,
        });
    }

    /// Whether there is an admin endpoint.
    pub(super) fn has_own(&self) -> bool {
        self.own.is_some()
    }

    /// Whether nobody else tells what its Envoy does.
    pub(super) fn needs_to_be_kept(&self) -> bool {
        self.own.is_some_and(|own| {
            let beyond = matches!(own.word, Word::Said(said) if said.is_beyond());
            self.members == 0 || own.beside && (beyond || matches!(own.word, Word::Silent))
        })
    }

    /// What its Envoy said in answer to `ask`; `None` = it did not answer. Returns whether it told, and not for the first
    /// time, of requests that no reporter counts.
    pub(super) fn own_count(&mut self, ask: u64, own: Option<Own>, told: u64) -> bool {
        let Some(hand) = self.own.as_mut() else {
            return false;
        };
        // A word from before says nothing of the drain, nor does a silence.
        if ask < told {
            return false;
        }
        let all_zero = self.filter.unknown == 0 && self.filter.in_flight == 0;
        let beyond_before = matches!(hand.word, Word::Said(said) if said.is_beyond());
        hand.word = match (own, hand.word) {
            (Some(own), before) => {
                let begun = match before {
                    Word::Said(said) => own.begun.unwrap_or(said.begun),
                    _ => own.begun.unwrap_or(0),
                };
                Word::Said(Said {
                    in_flight: own.in_flight.min(MOST),
                    begun,
                    answered: ask,
                    beyond: all_zero.then(|| begun.wrapping_sub(self.filter.arrivals)),
                })
            }
            (None, _) => Word::Silent,
        };
        beyond_before
            && hand.beside
            && self.members > 0
            && matches!(hand.word, Word::Said(said) if said.is_beyond())
    }

    /// A confirmation is called for.
    pub(super) fn confirm(&mut self) {
        self.filter.unconfirmed = self.members;
    }

    /// What was counted before the drain is dropped.
    pub(super) fn start_over(&mut self) {
        (self.filter.in_flight, self.filter.arrivals) = (0, 0);
        if let Some(own) = &mut self.own {
            own.word = Word::Awaited;
        }
    }

    /// What it contributes, by the evidence that the drain rests on.
    pub(super) fn contribution(&self, by: Terms) -> Observation {
        let filter = self.filter;
        let nobody_tells = Observation { unknown: 1, ..filter };
        match (self.own, by.evidence) {
            (_, Evidence::Delay) => filter,
            _ if self.is_over() => filter,
            (None, Evidence::Admin) => nobody_tells,
            (Some(_), Evidence::Filter) if self.members == 0 => nobody_tells,
            (Some(own), _) if self.rests_on_own(by) => {
                let alone = own.word.alone(filter, by);
                // Whoever is known is believed as well.
                let known = if by.evidence == Evidence::Auto {
                    filter.in_flight
                } else {
                    0
                };
                Observation {
                    in_flight: alone.in_flight.max(known),
                    unknown: alone.unknown + usize::from(self.is_shared()),
                    ..alone
                }
            }
            (Some(own), Evidence::Auto) if own.beside && filter.unknown == 0 => own.word.beside(filter, by),
            _ => filter,
        }
    }

    /// Whether its own count stands in for its reporters'.
    pub(super) fn rests_on_own(&self, by: Terms) -> bool {
        let answers = || {
            self.own.is_some_and(
                |own| matches!(own.word, Word::Said(said) if has_answered(said.answered, by.told)),
            )
        };
        match by.evidence {
            Evidence::Filter | Evidence::Delay => false,
            Evidence::Admin => true,
            Evidence::Auto => self.members == 0 || self.filter.unknown > 0 && !self.is_shared() && answers(),
        }
    }

    /// Whether its own count is needed: it was chosen, reporters are unknown, or they are all at zero and the Envoy
    /// may have requests that they do not count.
    pub(super) fn needs_own(&self, by: Terms) -> Option<Need> {
        let own = self.own?;
        match by.evidence {
            Evidence::Filter | Evidence::Delay => None,
            Evidence::Admin => Some(Need::AtOnce),
            Evidence::Auto if self.members == 0 || self.filter.unknown > 0 => Some(Need::Soon),
            Evidence::Auto if own.beside && self.filter.in_flight == 0 => {
                own.word.is_wanted(by.confirm).then_some(Need::AtOnce)
            }
            Evidence::Auto => None,
        }
    }
}

impl Said {
    fn is_beyond(&self) -> bool {
        self.beyond.is_some() && self.in_flight > 0
    }

    fn confirms(&self, confirm: u64) -> bool {
        has_answered(self.answered, confirm)
    }
}

impl Word {
    /// What a node contributes that goes by its Envoy's own count.
    fn alone(self, filter: Observation, by: Terms) -> Observation {
        match self {
            Self::Said(said) => Observation {
                in_flight: said.in_flight,
                arrivals: filter.arrivals.wrapping_add(said.begun),
                unknown: usize::from(!has_answered(said.answered, by.told)),
                unconfirmed: usize::from(!said.confirms(by.confirm)),
                ..filter
            },
            Self::Awaited | Self::Silent => Observation {
                arrivals: filter.arrivals,
                unknown: 1,
                unconfirmed: 1,
                ..filter
            },
        }
    }

    /// What a node contributes whose reporters are all known, and whose Envoy may count more than they do.
    fn beside(self, filter: Observation, by: Terms) -> Observation {
        let one_more = Observation {
            unconfirmed: filter.unconfirmed.saturating_add(1),
            ..filter
        };
        match self {
            Self::Awaited => one_more,
            Self::Silent => Observation {
                unknown: 1,
                ..one_more
            },
            Self::Said(Said { beyond: None, .. }) => one_more,
            Self::Said(said) => Observation {
                in_flight: filter.in_flight.max(said.in_flight),
                arrivals: filter.arrivals.wrapping_add(said.beyond.unwrap_or(0)),
                ..if said.confirms(by.confirm) {
                    filter
                } else {
                    one_more
                }
            },
        }
    }

    /// Whether a question is due while all reporters are at zero.
    fn is_wanted(self, confirm: u64) -> bool {
        match self {
            Self::Awaited | Self::Silent => true,
            Self::Said(said) => said.in_flight > 0 || said.beyond.is_none() || !said.confirms(confirm),
        }
    }
}
