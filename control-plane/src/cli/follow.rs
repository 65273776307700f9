//! Follows a server stream through restarts of the control plane.

use std::{future::Future, time::Duration};

use tokio::{sync::mpsc, time::sleep};
use tonic::Streaming;

use super::client::{CallError, Client};
use crate::address::Address;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What happens on a followed stream.
#[derive(Debug)]
pub(crate) enum Update<T> {
    /// A message. The first one after a reconnect is the whole state, so nothing is missed.
    Message(T),
    /// The stream broke or could not be opened; it is tried again.
    Lost(String),
    /// The control plane refused it: nothing more comes.
    Refused(String),
}

/// Opens the stream, and opens it again when it breaks, with a growing pause (100 ms to 1 s), until the receiver is
/// dropped or the control plane refuses. `open` must be safe to repeat.
pub(crate) fn follow<T, Open, Opening>(address: Address, open: Open) -> mpsc::Receiver<Update<T>>
where
    T: Send + 'static,
    Open: Fn(Client) -> Opening + Send + Sync + 'static,
    Opening: Future<Output = Result<Streaming<T>, CallError>> + Send,
{
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        tokio::select! {
            () = pump(&address, open, &sender) => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn pump<T, Open, Opening>(address: &Address, open: Open, sender: &mpsc::Sender<Update<T>>)
where
    Open: Fn(Client) -> Opening,
    Opening: Future<Output = Result<Streaming<T>, CallError>>,
{
    let mut backoff = BACKOFF_MIN;
    loop {
        let (heard, error) = attempt(address, &open, sender).await;
        if heard {
            backoff = BACKOFF_MIN;
        }
        let update = match error {
            CallError::Refused(reason) => {
                let _ = sender.send(Update::Refused(reason)).await;
                return;
            }
            CallError::Unavailable(reason) => Update::Lost(reason),
        };
        if sender.send(update).await.is_err() {
            return;
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One life of the stream: whether it brought a message, and how it ended.
async fn attempt<T, Open, Opening>(
    address: &Address,
    open: &Open,
    sender: &mpsc::Sender<Update<T>>,
) -> (bool, CallError)
where
    Open: Fn(Client) -> Opening,
    Opening: Future<Output = Result<Streaming<T>, CallError>>,
{
    let client = match Client::connect(address).await {
        Ok(client) => client,
        Err(error) => return (false, error),
    };
    let mut stream = match open(client.clone()).await {
        Ok(stream) => stream,
        Err(error) => return (false, error),
    };
    let mut heard = false;
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                heard = true;
                if sender.send(Update::Message(message)).await.is_err() {
                    return (heard, CallError::Unavailable("nobody listens".to_owned()));
                }
            }
            Ok(None) => {
                let reason = format!("the control plane at {address} ended the stream");
                return (heard, CallError::Unavailable(reason));
            }
            Err(status) => return (heard, client.error(&status)),
        }
    }
}
