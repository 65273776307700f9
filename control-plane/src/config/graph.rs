//! The dependency graph: names become indexes, and what cannot be ordered is refused.

use std::collections::HashMap;

use petgraph::{
    algo::{astar, tarjan_scc},
    graph::{DiGraph, NodeIndex},
};

use super::{
    error::Problem,
    process::{Process, Unresolved},
    reader::Document,
};

/// Resolves `depends_on`. Duplicate names, unknown dependencies and cycles are recorded.
pub(super) fn resolve(document: &Document<'_>, unresolved: Vec<Unresolved>) -> Vec<Process> {
    let mut index_of: HashMap<String, usize> = HashMap::new();
    for (index, entry) in unresolved.iter().enumerate() {
        let name = &entry.process.name;
        if let Some(first) = index_of.get(name.as_str()) {
            let first = unresolved
                .get(*first)
                .map(|first| document.line(&first.name_span));
            document.add(Problem {
                line: Some(document.line(&entry.name_span)),
                key: format!("{}.name", entry.key),
                process: Some(name.clone()),
                value: Some(document.text(&entry.name_span)),
                message: format!(
                    "the process on line {} has this name already: choose another",
                    first.unwrap_or_default()
                ),
            });
        } else {
            index_of.insert(name.clone(), index);
        }
    }
    let mut known: Vec<&str> = index_of.keys().map(String::as_str).collect();
    known.sort_unstable();
    let known = known.join(", ");

    // An edge leads from what must be gone first to what it needs.
    let mut graph = DiGraph::<usize, ()>::new();
    let nodes: Vec<NodeIndex> = (0..unresolved.len()).map(|index| graph.add_node(index)).collect();
    let mut processes = Vec::with_capacity(unresolved.len());
    for (index, entry) in unresolved.iter().enumerate() {
        let mut process = entry.process.clone();
        for (position, name) in entry.depends_on.iter().enumerate() {
            let Some(dependency) = index_of.get(name.get_ref().as_str()).copied() else {
                document.add(Problem {
                    line: Some(document.line(&name.span())),
                    key: format!("{}.depends_on[{position}]", entry.key),
                    process: Some(process.name.clone()),
                    value: Some(document.text(&name.span())),
                    message: format!("no process has this name; known: {known}"),
                });
                continue;
            };
            if !process.depends_on.contains(&dependency) {
                process.depends_on.push(dependency);
                if let (Some(from), Some(to)) = (nodes.get(index), nodes.get(dependency)) {
                    graph.add_edge(*from, *to, ());
                }
            }
        }
        processes.push(process);
    }
    for cycle in cycles(&graph) {
        let name = |node: &NodeIndex| {
            graph
                .node_weight(*node)
                .and_then(|index| processes.get(*index))
                .map_or("", |process| process.name.as_str())
        };
        let path: Vec<&str> = cycle.iter().map(name).collect();
        let first = cycle.first().and_then(|node| unresolved.get(node.index()));
        let span = first
            .and_then(|entry| entry.depends_on.first())
            .map(toml::Spanned::span);
        document.add(Problem {
            line: span.as_ref().map(|span| document.line(span)),
            key: first.map_or_else(String::new, |entry| format!("{}.depends_on", entry.key)),
            process: path.first().map(|name| (*name).to_owned()),
            value: None,
            message: format!("a cycle, in which nothing can start first: {}", path.join(" -> ")),
        });
    }
    processes
}

/// One cycle of every strongly connected component: its shortest through its first process, which also ends it.
fn cycles(graph: &DiGraph<usize, ()>) -> Vec<Vec<NodeIndex>> {
    let mut cycles = Vec::new();
    for component in tarjan_scc(graph) {
        let Some(first) = component.iter().copied().min() else {
            continue;
        };
        let shortest = graph
            .neighbors(first)
            .filter(|next| component.contains(next))
            .filter_map(|next| astar(graph, next, |node| node == first, |_| 1, |_| 0))
            .min_by_key(|(length, _)| *length);
        if let Some((_, rest)) = shortest {
            cycles.push(std::iter::once(first).chain(rest).collect());
        }
    }
    cycles
}
