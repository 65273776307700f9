//! The only file that knows Proxy-Wasm: it turns callbacks into calls of [`Vm`], and [`Action`]s into hostcalls.
//!
//! No hostcall is made while the [`Vm`] is borrowed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use proxy_wasm::hostcalls::open_grpc_stream;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action as Filtering, ContextType};

use crate::MARK;
use crate::config::Config;
use crate::counts::{InFlight, Listener};
use crate::hostcalls::{self, Buffer, Headers};
use crate::identity::Identity;
use crate::session::{Effect, Event, Level};
use crate::vm::{Action, Vm};

const SERVICE: &str = "ebb.v1.FilterService";
const METHOD: &str = "Attach";
/// Where the VMs of one Envoy process agree on its random number.
const PROCESS_KEY: &str = "ebb.process";

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|id| Box::new(Root { id, host: HOST.with(Rc::clone), listener: None }));
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
        // Only from the owner's own tick, so that the SDK notes the owner as the one to call back.
        Action::Stream {
            effect: Effect::Open { grpc_service },
            ..
        } => {
            return Some(
                match open_grpc_stream(&grpc_service, SERVICE, METHOD, Vec::new()) {
                    Ok(token) => Event::Opened {
                        token,
                        process: process_number(),
                    },
                    Err(_) => Event::OpenFailed,
                },
            );
        }
        Action::Stream {
            owner,
            effect: Effect::Send { token, report },
        } => {
            let sent = hostcalls::within(current, owner, || {
                hostcalls::grpc_send(token, &report.encode_to_vec())
            });
            return (sent != Some(true)).then_some(Event::SendFailed { token });
        }
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

/// The random number of the Envoy process: the first VM draws it, the others read it.
fn process_number() -> u64 {
    let read = || {
        hostcalls::shared_data(PROCESS_KEY).and_then(|bytes| bytes.try_into().ok().map(u64::from_le_bytes))
    };
    read().unwrap_or_else(|| {
        let drawn = hostcalls::random();
        hostcalls::set_shared_data_if_absent(PROCESS_KEY, &drawn.to_le_bytes());
        read().unwrap_or(drawn)
    })
}

/// One plugin configuration in this VM: one listener.
struct Root {
    id: u32,
    host: Rc<Host>,
    listener: Option<Rc<Listener>>,
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
            let (listener, actions) = vm.configure(self.id, config, identity, hostcalls::random(), now);
            self.listener = Some(listener);
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
        let (host, listener) = (Rc::clone(&self.host), self.listener.clone());
        Some(Box::new(Request {
            id,
            host,
            listener,
            in_flight: None,
        }))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.host.update(self.id, |vm, now| vm.remove(self.id, now));
    }
}

/// One HTTP stream. Envoy makes it for everything that arrives, also for what never becomes a request.
struct Request {
    id: u32,
    host: Rc<Host>,
    /// `None` only if the root context was never configured.
    listener: Option<Rc<Listener>>,
    in_flight: Option<InFlight>,
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Filtering {
        #[cfg(feature = "trap-trigger")]
        if hostcalls::header(Headers::Request, "x-ebb-test-trap").is_some_and(|value| value == b"1") {
            core::arch::wasm32::unreachable();
        }
        if let (Some(listener), None) = (&self.listener, &self.in_flight) {
            self.in_flight = Some(listener.begin());
            if listener.in_flight() == 1 && !self.host.is_serving() {
                self.host.update(self.id, |vm, now| vm.crossed(listener, now));
            }
        }
        Filtering::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Filtering {
        if self.host.is_serving() {
            return Filtering::Continue;
        }
        let Some(listener) = &self.listener else {
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

impl Drop for Request {
    fn drop(&mut self) {
        let Some(in_flight) = self.in_flight.take() else {
            return;
        };
        let listener = Rc::clone(in_flight.listener());
        drop(in_flight);
        if listener.in_flight() == 0 && (listener.is_gone() || !self.host.is_serving()) {
            self.host.update(self.id, |vm, now| vm.crossed(&listener, now));
        }
    }
}
