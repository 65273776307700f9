//! The processes of `ebb run` as `ebb status` and `ebb watch` show them.

use std::time::Duration;

use ebb_proto::v1::{ListProcessesRequest, ListProcessesResponse, Process, ProcessState};
use serde::Serialize;
use tonic::{Code, Response};

use super::{
    client::{CallError, Client},
    common::{count, human},
    fleet::millis,
    output::one_line,
    table::{Column, Table},
};

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
    Ok(processes.into_iter().map(ProcessView::from).collect())
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
