//! The clients: each does what its plan says, and notes what came of it.

mod connection;
mod slow;

use std::{sync::Arc, time::Duration};

use ebb_e2e::client::Failure;

pub use self::connection::{Connection, Dialer};
use crate::{
    journal::{Answer, Moment, Request},
    schedule::{ClientPlan, Endpoint, Listener, RequestPlan},
    world::World,
};

/// The bound of a session: longer than any is held, and than its bytes take a slow reader.
const SESSION_BOUND: Duration = Duration::from_secs(20);

/// Does everything that a plan says, from the round's start on. Ends early when its Envoy has ended.
pub async fn run(world: Arc<World>, plan: ClientPlan, start: Moment) -> Vec<Request> {
    let mut client = Client {
        world,
        plan: plan.clone(),
        open: None,
        seen: Vec::new(),
    };
    for request in &plan.requests {
        let at = start + Duration::from_millis(request.at);
        client.world.clock.sleep_until(at).await;
        if client.request(request).await.is_none() {
            break;
        }
    }
    client.seen
}

struct Client {
    world: Arc<World>,
    plan: ClientPlan,
    /// A connection, and when it was made.
    open: Option<(Connection, Moment)>,
    seen: Vec<Request>,
}

impl Client {
    /// One request, noted; none when there is no Envoy to send it to.
    async fn request(&mut self, plan: &RequestPlan) -> Option<()> {
        let id = self.world.next_id();
        let dialer = self.world.dialer(self.plan.envoy, self.plan.listener)?;
        let clock = self.world.clock;
        let mut sent = clock.now();
        let mut answer = Err(Failure::Connect);
        // A request that a server has certainly not looked at is sent again, once, as every client does.
        for _ in 0..2 {
            if self.open.is_none() {
                let connection = dialer.open(&self.plan).await;
                let Ok(connection) = connection else { break };
                self.open = Some((connection, clock.now()));
            }
            let Some((connection, _)) = &mut self.open else {
                break;
            };
            sent = clock.now();
            answer = exchange(connection, &self.plan, id, plan).await;
            if answer != Err(Failure::Unprocessed) {
                break;
            }
            self.open = None;
        }
        let connected = self.open.as_ref().map_or(sent, |(_, at)| *at);
        let answer = match answer {
            Ok(closing) => Answer::Whole { closing },
            Err(failure) => Answer::Failed(failure.to_string()),
        };
        if answer != (Answer::Whole { closing: false }) {
            self.open = None;
        }
        let (upstream, authz) = (None, None);
        self.seen.push(Request {
            id,
            envoy: self.plan.envoy,
            listener: self.plan.listener,
            endpoint: plan.endpoint,
            connected,
            sent,
            done: clock.now(),
            answer,
            upstream,
            authz,
        });
        Some(())
    }
}

/// Sends a request and reads its whole answer: whether that says that the connection closes.
async fn exchange(
    connection: &mut Connection,
    client: &ClientPlan,
    id: u64,
    plan: &RequestPlan,
) -> Result<bool, Failure> {
    let RequestPlan {
        authz_ms,
        hold_ms,
        bytes,
        ..
    } = plan;
    if client.listener == Listener::Raw {
        let line = format!("{id} {hold_ms} {bytes}\n");
        let session = connection.session(&line);
        let read = tokio::time::timeout(SESSION_BOUND, session).await;
        let read = read.map_err(|_| Failure::TimedOut)??;
        // It ends with every session.
        return if read == *bytes {
            Ok(true)
        } else {
            Err(Failure::Truncated)
        };
    }
    let endpoint = match plan.endpoint {
        Endpoint::A => 'a',
        Endpoint::B => 'b',
    };
    let path = format!("/{endpoint}/{id}/{authz_ms}/{hold_ms}/{bytes}");
    let (response, closing) = connection.get(&path).await?;
    if response.status != 200 {
        return Err(Failure::ServerError);
    }
    if response.body.len() == *bytes {
        Ok(closing)
    } else {
        Err(Failure::Truncated)
    }
}
