//! What an Envoy owes its clients beyond the requests in flight, as it is seen from outside of its filters: by its admin
//! endpoint, and by the kernel where Ebb shares its network namespace.
//!
//! | what | by | seen where |
//! |---|---|---|
//! | bytes in Envoy's buffers | gauges `downstream_cx_tx_bytes_buffered` | an admin endpoint is at hand |
//! | bytes in send queues | netlink's sock_diag | a process of the Envoy is known, in this pid and network namespace |
//! | TCP sessions | connections of listeners less those of HTTP | an admin endpoint is at hand |
//! | upstream requests | `upstream_rq_active` and `upstream_rq_pending_active` | the same, and the whole Envoy is in scope |
//!
//! The kernel part is the one that proves a delivery: bytes in a send queue that is not empty are no client's yet, whatever
//! Envoy's gauges say, and Envoy refills a queue long before that is empty. So [`Outstanding::unsent`] is there when the
//! kernel was seen; and without that only while Envoy's buffers are known to hold something, which is reason enough to wait.
//! What is not seen: HTTP/3, and sockets that `transparent` listeners accepted under foreign ports.

mod gauges;
mod kernel;
mod layout;
mod sessions;
mod upstreams;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use serde::Deserialize;
use tokio::time::timeout;

use self::{
    gauges::Gauges,
    kernel::{Blind, Local},
    layout::Layout,
};
use crate::{
    address::Address,
    core::{
        outstanding::{Outstanding, Unsent},
        reading::in_statistics,
    },
    supervisor::admin::{Admin, AdminError},
};

/// Bound of everything that is asked of the admin endpoint.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// Bound of what is asked of the kernel.
const KERNEL_WITHIN: Duration = Duration::from_millis(500);

/// Where to look, and for what.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The Envoy's admin endpoint.
    pub admin: Option<Admin>,
    /// Its processes, in this pid namespace; wrappers and children of it may be among them. That which serves an admin
    /// endpoint on a Unix socket is taken as well.
    pub pids: Vec<u32>,
    /// Names of listeners, or `stat_prefix`es; empty = all of the node.
    pub listeners: Vec<String>,
    /// Local ports of those listeners, as filters told; empty = not told.
    pub ports: Vec<u16>,
}

/// Looks at what an Envoy has outstanding. Never fails: what cannot be seen is `None`. Bounded at about 1 s.
pub async fn look(look: Look) -> Outstanding {
    let known = match &look.admin {
        Some(admin) => match timeout(ASK_WITHIN, Known::read(admin, &look)).await {
            Ok(Ok(known)) => Some(known),
            Ok(Err(error)) => {
                tracing::debug!(admin = %admin.0, %error, "what is outstanding is not told");
                None
            }
            Err(_) => None,
        },
        None => None,
    };
    let locals = if look.ports.is_empty() {
        known.as_ref().and_then(|known| known.locals(&look.listeners))
    } else {
        let any = look.ports.iter().map(|port| Local {
            address: None,
            port: *port,
        });
        Some(any.collect())
    };
    let kernel = in_kernel(&look, locals).await;
    if let Err(why) = &kernel {
        tracing::debug!(%why, "what the kernel holds for clients cannot be seen");
    }
    let buffered = known.as_ref().map_or(0, |known| known.buffered(&look.listeners));
    Outstanding {
        tcp: known.as_ref().and_then(|known| known.sessions(&look.listeners)),
        unsent: unsent(kernel.ok(), buffered),
        upstream: known.as_ref().and_then(|known| known.upstream(&look.listeners)),
    }
}

/// Names under which TCP sessions of an Envoy can be drained: of listeners that have others than HTTP connections, and the
/// `stat_prefix`es of their TCP proxies.
///
/// # Errors
/// [`AdminError`].
pub async fn names_of_sessions(admin: &Admin) -> Result<BTreeSet<String>, AdminError> {
    Ok(Layout::read(admin).await?.names_of_sessions())
}

/// Buffers alone do not tell what was delivered, but that something was not.
fn unsent(kernel: Option<Unsent>, buffered: u64) -> Option<Unsent> {
    match kernel {
        Some(queues) => Some(Unsent { buffered, ..queues }),
        None if buffered > 0 => Some(Unsent {
            buffered,
            ..Unsent::default()
        }),
        None => None,
    }
}

async fn in_kernel(look: &Look, locals: Option<Vec<Local>>) -> Result<Unsent, Blind> {
    let mut pids = look.pids.clone();
    // Those that are known may just pass on what comes from a filter.
    if let Some(Admin(Address::Unix(path))) = &look.admin {
        let peer = timeout(KERNEL_WITHIN, kernel::peer_of(path)).await;
        pids.extend(peer.ok().flatten());
    }
    match locals {
        // It listens on no TCP port at all.
        Some(locals) if locals.is_empty() => Ok(Unsent::default()),
        // The process tells of all that it listens on, and not which is which.
        None if !look.listeners.is_empty() => Err(Blind::NoPorts),
        locals => blocking(move || kernel::unsent(&pids, locals.as_deref())).await,
    }
}

/// Off the runtime's own threads, and bounded: the system may hang.
async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, Blind> + Send + 'static,
) -> Result<T, Blind> {
    match timeout(KERNEL_WITHIN, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(told)) => told,
        Ok(Err(_)) | Err(_) => Err(Blind::Late),
    }
}

/// What an admin endpoint told.
#[derive(Debug)]
struct Known {
    gauges: Gauges,
    /// `None` = not asked, as the gauges need no explanation.
    layout: Option<Layout>,
    listeners: Vec<ListenerStatus>,
}

#[derive(Deserialize)]
struct Listeners {
    #[serde(default)]
    listener_statuses: Vec<ListenerStatus>,
}

#[derive(Debug, Deserialize)]
struct ListenerStatus {
    #[serde(default)]
    name: String,
    local_address: Option<LocalAddress>,
    #[serde(default)]
    additional_local_addresses: Vec<LocalAddress>,
}

#[derive(Debug, Deserialize)]
struct LocalAddress {
    socket_address: Option<Socket>,
}

#[derive(Debug, Deserialize)]
struct Socket {
    address: IpAddr,
    #[serde(default)]
    port_value: u16,
}

impl Known {
    async fn read(admin: &Admin, look: &Look) -> Result<Self, AdminError> {
        let gauges = Gauges::read(admin).await?;
        let whole = look.listeners.is_empty();
        // The whole configuration may be large: it is read only where something has to be told apart.
        let explain = if whole {
            upstreams::any_active(&gauges)
        } else {
            gauges.sessions() > 0 || look.ports.is_empty()
        };
        let layout = if explain {
            Some(Layout::read(admin).await?)
        } else {
            None
        };
        let listeners = if look.ports.is_empty() {
            let told: Listeners = admin.json("/listeners", "/listeners?format=json").await?;
            told.listener_statuses
        } else {
            Vec::new()
        };
        Ok(Self {
            gauges,
            layout,
            listeners,
        })
    }

    /// Where the listeners in scope listen for TCP connections; `None` = not known of all of them.
    fn locals(&self, names: &[String]) -> Option<Vec<Local>> {
        if names.is_empty() {
            return Some(self.listeners.iter().flat_map(ListenerStatus::locals).collect());
        }
        let layout = self.layout.as_ref()?;
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        for name in names {
            let mut named = layout.named(name).peekable();
            named.peek()?;
            wanted.extend(named.map(|listener| &*listener.name));
        }
        let of = self
            .listeners
            .iter()
            .filter(|listener| wanted.contains(&*listener.name));
        Some(of.flat_map(ListenerStatus::locals).collect())
    }

    fn buffered(&self, names: &[String]) -> u64 {
        if names.is_empty() {
            return self.gauges.buffered(None);
        }
        let prefixes = names.iter().map(|name| in_statistics(name).into_owned());
        let mut prefixes: BTreeSet<String> = prefixes.collect();
        if let Some(layout) = &self.layout {
            let named = names.iter().flat_map(|name| {
                let own = layout.named(name).filter(move |listener| listener.name == *name);
                own.flat_map(|listener| listener.http.iter().chain(&listener.tcp))
            });
            prefixes.extend(named.cloned());
        }
        self.gauges.buffered(Some(&prefixes))
    }

    fn sessions(&self, names: &[String]) -> Option<u64> {
        let all = self.gauges.sessions();
        // Who has none at all has none of any name.
        if names.is_empty() || all == 0 {
            return Some(all);
        }
        sessions::of(names, &self.gauges, self.layout.as_ref()?)
    }

    /// Of the whole Envoy: nothing tells which listener a request to an upstream is due to.
    fn upstream(&self, names: &[String]) -> Option<u64> {
        names
            .is_empty()
            .then(|| upstreams::outstanding(&self.gauges, self.layout.as_ref()))
    }
}

impl ListenerStatus {
    fn locals(&self) -> impl Iterator<Item = Local> {
        let all = self.local_address.iter().chain(&self.additional_local_addresses);
        let sockets = all.filter_map(|address| address.socket_address.as_ref());
        sockets.map(|socket| Local::at(socket.address, socket.port_value))
    }
}
