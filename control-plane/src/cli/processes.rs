//! The processes of `ebb run` as `ebb status` and `ebb watch` show them.

use std::time::{Duration, Instant};

use ebb_proto::v1::{
    ListProcessesRequest, ListProcessesResponse, Process, ProcessState, WatchProcessesRequest,
    WatchProcessesResponse,
};
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::{Code, Response};

use super::{
    client::{CallError, Client},
    common::{count, human},
    fleet::millis,
    follow::{Update, follow},
    output::one_line,
    table::{Column, Table},
};
use crate::address::Address;

/// One supervised process. Its JSON form is part of the stable command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ProcessView {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) pid: Option<u32>,
    pub(crate) uptime_ms: Option<u64>,
    pub(crate) waits_for: String,
    pub(crate) restarts: u32,
    pub(crate) exit: String,
}

/// The processes that the control plane keeps; none under `ebb serve`.
///
/// # Errors
/// As [`Client::call`].
pub(crate) async fn ask(client: &Client) -> Result<Vec<ProcessView>, CallError> {
    let mut calls = client.processes();
    let answer = async {
        match calls.list_processes(ListProcessesRequest {}).await {
            // A control plane that is older than this program keeps none.
            Err(status) if status.code() == Code::Unimplemented => {
                Ok(Response::new(ListProcessesResponse::default()))
            }
            answer => answer,
        }
    };
    let processes = client.call(answer).await?.processes;
    Ok(views(processes))
}

/// As people see them.
pub(crate) fn views(processes: Vec<Process>) -> Vec<ProcessView> {
    processes.into_iter().map(ProcessView::from).collect()
}

/// Follows them through restarts of the control plane.
pub(crate) fn watch(endpoint: Address) -> mpsc::Receiver<Update<WatchProcessesResponse>> {
    follow(endpoint, |client: Client| async move {
        let mut calls = client.processes();
        client.call(calls.watch_processes(WatchProcessesRequest {})).await
    })
}

/// The processes as they were told, and when.
#[derive(Debug)]
pub(crate) struct Told {
    at: Instant,
    processes: Vec<ProcessView>,
}

impl Told {
    /// They were told just now.
    pub(crate) fn now(processes: Vec<ProcessView>) -> Self {
        Self {
            at: Instant::now(),
            processes,
        }
    }

    /// As they are now, if nothing but time has passed since.
    pub(crate) fn as_of_now(&self) -> Vec<ProcessView> {
        let since = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut processes = self.processes.clone();
        for uptime in processes
            .iter_mut()
            .filter_map(|process| process.uptime_ms.as_mut())
        {
            *uptime = uptime.saturating_add(since);
        }
        processes
    }
}

/// An aligned table for a person, after an empty line; nothing for no process.
pub(crate) fn lines(processes: &[ProcessView]) -> Vec<String> {
    if processes.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new([
        Column::Text("PROCESS"),
        Column::Text("STATE"),
        Column::Number("PID"),
        Column::Number("UPTIME"),
        Column::Text("WAITS FOR"),
    ]);
    let dash = || "-".to_owned();
    for process in processes {
        table.row([
            process.name.clone(),
            process.state_text(),
            process.pid.map_or_else(dash, |pid| pid.to_string()),
            process
                .uptime_ms
                .map_or_else(dash, |uptime| human(Duration::from_millis(uptime))),
            process.waits_for.clone(),
        ]);
    }
    std::iter::once(String::new()).chain(table.lines()).collect()
}

impl ProcessView {
    /// The state, with what a person wants to know besides.
    fn state_text(&self) -> String {
        let mut text = self.state.to_owned();
        if !self.exit.is_empty() {
            text = format!("{text} ({})", self.exit);
        }
        match self.restarts {
            0 => text,
            restarts => format!("{text}, {}", count(u64::from(restarts), "restart")),
        }
    }

    /// What is a fact until it changes, in a line.
    pub(crate) fn fact(&self) -> String {
        let pid = self.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
        format!("{}{pid}", self.state_text())
    }

    /// Without what changes by time alone.
    pub(crate) fn forget_time(&mut self) {
        self.uptime_ms = None;
        self.waits_for.clear();
    }
}

impl From<Process> for ProcessView {
    fn from(process: Process) -> Self {
        let state = match ProcessState::try_from(process.state) {
            Ok(ProcessState::Waiting) => "waiting",
            Ok(ProcessState::Starting) => "starting",
            Ok(ProcessState::Ready) => "ready",
            Ok(ProcessState::BackingOff) => "backing_off",
            Ok(ProcessState::Holding) => "holding",
            Ok(ProcessState::Draining) => "draining",
            Ok(ProcessState::Stopping) => "stopping",
            Ok(ProcessState::Exited) => "exited",
            // Of a control plane that is newer than this program.
            Ok(ProcessState::Unspecified) | Err(_) => "other",
        };
        Self {
            name: one_line(&process.name),
            state,
            pid: (process.pid != 0).then_some(process.pid),
            uptime_ms: process.uptime.map(|uptime| millis(Some(uptime))),
            waits_for: one_line(&process.waits_for),
            restarts: process.restarts,
            exit: one_line(&process.exit),
        }
    }
}
