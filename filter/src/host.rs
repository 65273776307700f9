//! The only file that knows Proxy-Wasm: it turns callbacks into calls of [`Vm`], and [`Action`]s into hostcalls.
//!
//! No hostcall is made while the [`Vm`] is borrowed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ebb_proto::v1::Blocker;
use prost::Message;
use proxy_wasm::hostcalls::open_grpc_stream;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action as Filtering, ContextType};

use crate::MARK;
use crate::blockers::{self, Inspection, Properties};
use crate::config::Config;
use crate::hostcalls::{self, Buffer, Headers};
use crate::identity::{Identity, Process};
use crate::request::{Crossings, Look, Plugin, Request};
use crate::session::{Effect, Event, Level};
use crate::vm::{Action, Vm};
use crate::vms;

const SERVICE: &str = "ebb.v1.FilterService";
const METHOD: &str = "Attach";
/// Where the VMs of one Envoy process agree on its random number.
const PROCESS_KEY: &str = "ebb.process";
/// Where they list themselves.
const VMS_KEY: &str = "ebb.vms";
const UPSTREAM_ADDRESS: &[u8] = b"upstream\0address";
/// The `health_check` filter puts it on the response to every probe, also to those that it passes on.
const PROBED: &str = "x-envoy-upstream-healthchecked-cluster";

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|id| Box::new(Root { id, host: HOST.with(Rc::clone), plugin: None }));
}}

thread_local! {
    /// The SDK makes root contexts from a plain function, so what they share has to be found from there.
    static HOST: Rc<Host> = Rc::default();
}

/// What all contexts of a VM share.
#[derive(Default)]
struct Host {
    vm: RefCell<Vm>,
}

impl Host {
    /// Changes the VM, and carries out what follows from that. `current` is the context whose callback runs.
    fn update(&self, current: u32, change: impl FnOnce(&mut Vm, Duration) -> Vec<Action>) {
        let Ok(actions) = self
            .vm
            .try_borrow_mut()
            .map(|mut vm| change(&mut vm, hostcalls::now()))
        else {
            return;
        };
        let mut todo = VecDeque::from(actions);
        while let Some(action) = todo.pop_front() {
            let Some(event) = carry_out(current, action) else {
                continue;
            };
            if let Ok(mut vm) = self.vm.try_borrow_mut() {
                todo.extend(vm.handle(event, hostcalls::now()));
            }
        }
    }

    /// Reports what has crossed zero, if anybody waits for it.
    fn crossed(&self, current: u32, crossings: &Crossings) {
        if self.vm.try_borrow().is_ok_and(|vm| vm.concerns(crossings)) {
            self.update(current, |vm, now| vm.crossed(crossings, now));
        }
    }

    /// Whether there is nothing to do for a request but to count it.
    fn is_serving(&self) -> bool {
        self.vm.try_borrow().is_ok_and(|vm| vm.is_serving())
    }
}

/// Makes the hostcalls of one action; the answer is an event for the session.
fn carry_out(current: u32, action: Action) -> Option<Event<'static>> {
    match action {
        Action::Log { level, text } => hostcalls::log(level, &text),
        Action::Tick { root, period } => {
            hostcalls::within(current, root, || hostcalls::set_tick_period(period));
        }
        Action::Stream {
            effect: Effect::Log { level, text },
            ..
        } => hostcalls::log(level, &text),
        // Only from the owner's own tick, so that the SDK notes the owner as the one to call back; with the raw hostcall it
        // would call nobody. The SDK panics on statuses that it does not list: Envoy answers this call with those that it lists
        // alone (ok, a `GrpcService` that cannot be parsed, a cluster that does not exist).
        Action::Stream {
            effect: Effect::Open { grpc_service, epoch },
            ..
        } => {
            return Some(
                match open_grpc_stream(&grpc_service, SERVICE, METHOD, Vec::new()) {
                    Ok(token) => Event::Opened {
                        token,
                        process: process_with(epoch),
                    },
                    Err(_) => Event::OpenFailed,
                },
            );
        }
        Action::Stream {
            owner,
            effect:
                Effect::Send {
                    token,
                    mut report,
                    inspections,
                },
        } => {
            for inspection in inspections {
                report.blockers.extend(inspect(current, inspection));
            }
            let sent = hostcalls::within(current, owner, || {
                hostcalls::grpc_send(token, &report.encode_to_vec())
            });
            return (sent != Some(true)).then_some(Event::SendFailed { token });
        }
        Action::Stream {
            effect: Effect::Leave { epoch },
            ..
        } => hostcalls::change_shared_data(VMS_KEY, |list| vms::without(list, epoch)),
        Action::Stream {
            owner,
            effect: Effect::Close { token },
        } => {
            hostcalls::within(current, owner, || hostcalls::grpc_close(token));
        }
        Action::Stream {
            owner,
            effect: Effect::Cancel { token },
        } => {
            hostcalls::within(current, owner, || hostcalls::grpc_cancel(token));
        }
    }
    None
}

/// Looks at a request in flight; `None` if Envoy has destroyed it.
fn inspect(current: u32, inspection: Inspection) -> Option<Blocker> {
    let properties = hostcalls::within(current, inspection.context, || Properties {
        time: hostcalls::property(b"request\0time"),
        protocol: hostcalls::property(b"request\0protocol"),
        code: hostcalls::property(b"response\0code"),
        route: hostcalls::property(b"xds\0route_name"),
        upstream: hostcalls::property(UPSTREAM_ADDRESS),
    })?;
    Some(blockers::describe(inspection, properties, hostcalls::wall()))
}

/// The random number of the Envoy process: the first VM draws it, the others read it.
fn process_number() -> u64 {
    let read = || {
        hostcalls::shared_data(PROCESS_KEY).and_then(|bytes| bytes.try_into().ok().map(u64::from_le_bytes))
    };
    read().unwrap_or_else(|| {
        let drawn = hostcalls::random();
        hostcalls::change_shared_data(PROCESS_KEY, |old| {
            old.is_empty().then(|| drawn.to_le_bytes().to_vec())
        });
        read().unwrap_or(drawn)
    })
}

/// The Envoy process, with this VM among those of it.
fn process_with(epoch: u64) -> Process {
    hostcalls::change_shared_data(VMS_KEY, |list| vms::with(list, epoch));
    Process {
        number: process_number(),
        vms: vms::read(&hostcalls::shared_data(VMS_KEY).unwrap_or_default()),
    }
}

/// One plugin configuration in this VM: one listener or cluster.
struct Root {
    id: u32,
    host: Rc<Host>,
    plugin: Option<Rc<Plugin>>,
}

impl Root {
    fn configure(&mut self) -> Result<(), String> {
        let json = hostcalls::buffer(Buffer::PluginConfiguration).unwrap_or_default();
        let config = Config::parse(&json).map_err(|error| error.to_string())?;
        let node =
            hostcalls::property(b"xds\0node").ok_or("Envoy does not tell its node (attribute xds.node)")?;
        let identity = Identity::from_node(&node, hostcalls::random())?;
        // Before the workers start: then they all find it.
        process_number();
        self.host.update(self.id, |vm, now| {
            let (plugin, actions) = vm.configure(self.id, config, identity, hostcalls::random(), now);
            self.plugin = Some(plugin);
            actions
        });
        Ok(())
    }
}

impl Context for Root {
    fn on_grpc_stream_message(&mut self, token: u32, _size: usize) {
        let message = hostcalls::buffer(Buffer::GrpcMessage).unwrap_or_default();
        self.host.update(self.id, |vm, now| {
            vm.handle(
                Event::Received {
                    token,
                    message: &message,
                },
                now,
            )
        });
    }

    fn on_grpc_stream_close(&mut self, token: u32, status: u32) {
        self.host
            .update(self.id, |vm, now| vm.handle(Event::Closed { token, status }, now));
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.configure()
            .inspect_err(|error| hostcalls::log(Level::Error, error))
            .is_ok()
    }

    fn on_tick(&mut self) {
        self.host.update(self.id, |vm, now| vm.tick(self.id, now));
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let host = Rc::clone(&self.host);
        let request = self
            .plugin
            .as_ref()
            .map(|plugin| Request::new(id, Rc::clone(plugin)));
        Some(Box::new(Stream { id, host, request }))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.host.update(self.id, |vm, now| vm.remove(self.id, now));
    }
}

/// What can be read in the callback of an HTTP context.
struct Current;

impl Look for Current {
    fn upstream_address(&self) -> Option<String> {
        String::from_utf8(hostcalls::property(UPSTREAM_ADDRESS)?).ok()
    }

    fn content_type(&self) -> Option<Vec<u8>> {
        hostcalls::header(Headers::Request, "content-type")
    }

    fn path(&self) -> Option<Vec<u8>> {
        hostcalls::header(Headers::Request, ":path")
    }

    fn port(&self) -> Option<u32> {
        let bytes = hostcalls::property(b"destination\0port")?.try_into().ok()?;
        u32::try_from(i64::from_le_bytes(bytes)).ok()
    }

    fn is_probe(&self) -> bool {
        hostcalls::header(Headers::Response, PROBED).is_some()
    }

    fn end_details(&self) -> Option<Vec<u8>> {
        hostcalls::property(b"response\0code_details")
    }
}

/// One HTTP context.
struct Stream {
    id: u32,
    host: Rc<Host>,
    /// `None` only if the root context was never configured.
    request: Option<Request>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Filtering {
        #[cfg(feature = "trap-trigger")]
        if hostcalls::header(Headers::Request, "x-ebb-test-trap").is_some_and(|value| value == b"1") {
            core::arch::wasm32::unreachable();
        }
        if let Some(request) = &mut self.request {
            let crossings = request.begin(self.host.is_serving(), end_of_stream, &Current);
            self.host.crossed(self.id, &crossings);
        }
        Filtering::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Filtering {
        let Some(request) = &mut self.request else {
            return Filtering::Continue;
        };
        let crossings = request.answered(self.host.is_serving(), &Current);
        if self.host.is_serving() {
            return Filtering::Continue;
        }
        self.host.crossed(self.id, &crossings);
        let Some(listener) = request.listener() else {
            return Filtering::Continue;
        };
        if self
            .host
            .vm
            .try_borrow()
            .is_ok_and(|vm| vm.closes(listener, hostcalls::now()))
        {
            hostcalls::set_response_header(MARK, "1");
            // Envoy drops this one, other proxies obey it. Without its own value a switch of protocols would fail.
            if hostcalls::header(Headers::Response, ":status").is_none_or(|status| status != b"101") {
                hostcalls::set_response_header("connection", "close");
            }
        }
        Filtering::Continue
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(request) = &mut self.request {
            let crossings = request.end(self.host.is_serving(), &Current);
            self.host.crossed(self.id, &crossings);
        }
    }
}
