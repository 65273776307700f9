//! The answers to effects, on their way to the machine.

use std::future::Future;

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::supervisor::{
    handle::Request,
    machine::{Event, ProcessEvent},
    plan::ProcessId,
    process::Life,
};

/// Where the answer to an effect goes.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) id: ProcessId,
    pub(super) run: u32,
    pub(super) requests: mpsc::Sender<Request>,
}

impl Answer {
    pub(super) fn event(&self, event: ProcessEvent) -> Event {
        Event::Process(self.id, self.run, event)
    }

    async fn send(&self, event: ProcessEvent) {
        // Without a supervisor there is nobody to tell.
        let _ = self.requests.send(Request::Event(self.event(event))).await;
    }

    /// Runs something, and answers with what it comes to.
    pub(super) fn after(&self, chore: impl Future<Output = ProcessEvent> + Send + 'static) -> JoinHandle<()> {
        let answer = self.clone();
        tokio::spawn(async move { answer.send(chore.await).await })
    }
}

/// Tells of the end of a child, and of that of its group.
pub(super) async fn watch_life(mut life: watch::Receiver<Life>, answer: Answer) {
    let mut told = false;
    loop {
        let now = *life.borrow_and_update();
        match now {
            Life::Alive => {}
            Life::Leftovers(status) if !told => {
                told = true;
                answer
                    .send(ProcessEvent::Exited {
                        status,
                        leftovers: true,
                    })
                    .await;
            }
            Life::Leftovers(_) => {}
            Life::Gone(_) if told => return answer.send(ProcessEvent::GroupGone).await,
            Life::Gone(status) => {
                return answer
                    .send(ProcessEvent::Exited {
                        status,
                        leftovers: false,
                    })
                    .await;
            }
        }
        if life.changed().await.is_err() {
            return;
        }
    }
}
