//! Reads a TOML document section by section, and goes on after an error, so that all of them are reported at once.

use std::{cell::RefCell, ops::Range};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, ValueDeserializer},
};

use super::error::Problem;

/// The longest part of a value that an error repeats, in characters.
const VALUE_MAX: usize = 80;

/// The text of a document and what is wrong with it.
pub(super) struct Document<'s> {
    source: &'s str,
    problems: RefCell<Vec<Problem>>,
}

impl<'s> Document<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        Self {
            source,
            problems: RefCell::default(),
        }
    }

    /// The root section; syntax errors are recorded, and what could be read is read.
    pub(super) fn root(&'s self) -> Section<'s> {
        let (root, errors) = DeTable::parse_recoverable(self.source);
        for error in errors {
            self.add(Problem {
                line: error.span().map(|span| self.line(&span)),
                key: String::new(),
                process: None,
                value: None,
                message: format!("not TOML: {}", one_line(error.message())),
            });
        }
        Section {
            document: self,
            path: String::new(),
            process: None,
            span: None,
            table: root.into_inner(),
            known: Vec::new(),
        }
    }

    pub(super) fn add(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// All problems, in the order of the file; those without a line last.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        problems
    }

    /// The line of a place in the text, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.source.get(..span.start).unwrap_or(self.source);
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    /// What is written there, cut to one short line.
    pub(super) fn text(&self, span: &Range<usize>) -> String {
        let text = one_line(self.source.get(span.clone()).unwrap_or_default());
        match text.char_indices().nth(VALUE_MAX) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text,
        }
    }
}

fn has_nul(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::String(text) => text.contains('\0'),
        DeValue::Array(array) => array.iter().any(|element| has_nul(element.get_ref())),
        _ => false,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A table of the document. Every key is taken once; [`Section::finish`] refuses what is left.
pub(super) struct Section<'s> {
    document: &'s Document<'s>,
    path: String,
    process: Option<String>,
    span: Option<Range<usize>>,
    table: DeTable<'s>,
    /// Every key that was asked for, with the place of its value if it is there.
    known: Vec<(&'static str, Option<Range<usize>>)>,
}

impl<'s> Section<'s> {
    /// Names the process in the errors of this section and those below it.
    pub(super) fn belongs_to(&mut self, process: &str) {
        self.process = Some(process.to_owned());
    }

    /// The path of a key of this section.
    pub(super) fn path(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{key}", self.path),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of `key`; `None` if it is absent or bad, which is recorded.
    pub(super) fn take<T: Deserialize<'s>>(&mut self, key: &'static str) -> Option<T> {
        let value = self.remove(key)?;
        self.read(key, value)
    }

    /// As [`Section::take`], and records that the key is required if it is absent.
    pub(super) fn require<T: Deserialize<'s>>(&mut self, key: &'static str) -> Option<T> {
        if !self.has(key) {
            self.known.push((key, None));
            self.refuse(key, None, "required");
            return None;
        }
        self.take(key)
    }

    /// A list; one element may stand without its brackets.
    pub(super) fn take_list<T: Deserialize<'s>>(&mut self, key: &'static str) -> Option<Vec<T>> {
        let value = self.remove(key)?;
        if value.get_ref().is_str() {
            return self.read(key, value).map(|single| vec![single]);
        }
        let span = value.span();
        let DeValue::Array(array) = value.into_inner() else {
            self.refuse(key, Some(&span), "expected a list of strings");
            return None;
        };
        let mut list = Vec::new();
        let mut complete = true;
        for (index, element) in array.into_iter().enumerate() {
            match self.read(&format!("{key}[{index}]"), element) {
                Some(element) => list.push(element),
                None => complete = false,
            }
        }
        complete.then_some(list)
    }

    /// The table under `key`.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'s>> {
        let value = self.remove(key)?;
        self.subsection(key, value)
    }

    /// The tables under `key`, each written as `[[key]]`.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'s>> {
        let Some(value) = self.remove(key) else {
            return Vec::new();
        };
        let span = value.span();
        let array = match value.into_inner() {
            DeValue::Array(array) => array,
            _ => {
                self.refuse(key, Some(&span), &format!("expected tables: write [[{key}]]"));
                DeArray::default()
            }
        };
        array
            .into_iter()
            .enumerate()
            .filter_map(|(index, value)| self.subsection(&format!("{key}[{index}]"), value))
            .collect()
    }

    /// Every key and value of a table of strings. A bad value is not repeated: it may be a secret.
    pub(super) fn strings(mut self) -> Vec<(String, String)> {
        let table = std::mem::take(&mut self.table);
        let mut strings = Vec::new();
        for (key, value) in table {
            let key = key.into_inner().into_owned();
            match value.get_ref().as_str() {
                Some(text) => strings.push((key, text.to_owned())),
                None => self.document.add(Problem {
                    line: Some(self.document.line(&value.span())),
                    key: self.path(&key),
                    process: self.process.clone(),
                    value: None,
                    message: format!(
                        "expected a string, not {}: put it in quotes",
                        value.get_ref().type_str()
                    ),
                }),
            }
        }
        strings
    }

    /// Records a problem of a key of this section. Without a `span` it is the key's value, where there is one.
    pub(super) fn refuse(&self, key: &str, span: Option<&Range<usize>>, message: &str) {
        let taken = self
            .known
            .iter()
            .find(|(known, _)| *known == key)
            .and_then(|(_, span)| span.clone());
        let span = span
            .cloned()
            .or(taken)
            .or_else(|| self.table.get(key).map(Spanned::span));
        let span = span.as_ref();
        let place = span.or(self.span.as_ref());
        self.document.add(Problem {
            line: place.map(|span| self.document.line(span)),
            key: self.path(key),
            process: self.process.clone(),
            value: span.map(|span| self.document.text(span)),
            message: message.to_owned(),
        });
    }

    /// Refuses every key that was not taken.
    pub(super) fn finish(self) {
        let known: Vec<&str> = self.known.iter().map(|(key, _)| *key).collect();
        for (key, value) in &self.table {
            self.document.add(Problem {
                line: Some(self.document.line(&key.span())),
                key: self.path(key.get_ref()),
                process: self.process.clone(),
                // A table may be a misspelt `env`, with secrets in it.
                value: (!value.get_ref().is_table()).then(|| self.document.text(&value.span())),
                message: format!("unknown key; known here: {}", known.join(", ")),
            });
        }
    }

    fn remove(&mut self, key: &'static str) -> Option<Spanned<DeValue<'s>>> {
        let value = self.table.remove(key);
        self.known.push((key, value.as_ref().map(Spanned::span)));
        value
    }

    fn read<T: Deserialize<'s>>(&self, key: &str, value: Spanned<DeValue<'s>>) -> Option<T> {
        let span = value.span();
        if has_nul(value.get_ref()) {
            let message = "holds a NUL character, which no command, path, name or address can: remove it";
            self.refuse(key, Some(&span), message);
            return None;
        }
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(value),
            Err(error) => {
                let span = error.span().unwrap_or(span);
                self.refuse(key, Some(&span), &one_line(error.message()));
                None
            }
        }
    }

    fn subsection(&self, key: &str, value: Spanned<DeValue<'s>>) -> Option<Section<'s>> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Section {
                document: self.document,
                path: self.path(key),
                process: self.process.clone(),
                span: Some(span),
                table,
                known: Vec::new(),
            }),
            _ => {
                self.refuse(key, Some(&span), "expected a table: write { key = value }");
                None
            }
        }
    }
}
