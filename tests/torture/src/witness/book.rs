//! What the witness has seen, by the number of the request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{clock::Clock, journal::Span};

/// Who holds a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// An upstream.
    Upstream,
    /// The ext_authz service.
    Authz,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    upstream: Option<Span>,
    authz: Option<Span>,
}

/// What the witness has seen.
#[derive(Clone, Debug)]
pub struct Book {
    clock: Clock,
    entries: Arc<Mutex<HashMap<u64, Entry>>>,
}

impl Book {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            entries: Arc::default(),
        }
    }

    /// Takes out when the upstream and ext_authz held a request.
    #[must_use]
    pub fn take(&self, id: u64) -> (Option<Span>, Option<Span>) {
        let entry = self.entries().remove(&id).unwrap_or_default();
        (entry.upstream, entry.authz)
    }

    /// A request has come. It is held until [`Held::answered`], or cut when that is dropped before.
    pub(super) fn hold(&self, id: u64, holder: Holder) -> Held {
        let span = Span {
            began: self.clock.now(),
            ended: None,
            cut: false,
        };
        self.set(id, holder, span);
        Held {
            book: self.clone(),
            id,
            holder,
            span,
        }
    }

    fn set(&self, id: u64, holder: Holder, span: Span) {
        let mut entries = self.entries();
        let entry = entries.entry(id).or_default();
        match holder {
            Holder::Upstream => entry.upstream = Some(span),
            Holder::Authz => entry.authz = Some(span),
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is held.
#[derive(Debug)]
pub(super) struct Held {
    book: Book,
    id: u64,
    holder: Holder,
    span: Span,
}

impl Held {
    /// Its whole answer has been handed over.
    pub(super) fn answered(mut self) {
        self.span.ended = Some(self.book.clock.now());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.span.ended.is_none() {
            self.span.ended = Some(self.book.clock.now());
            self.span.cut = true;
        }
        self.book.set(self.id, self.holder, self.span);
    }
}
