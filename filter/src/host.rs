//! The only file that knows Proxy-Wasm: it turns callbacks into calls of [`Vm`], and [`Action`]s into hostcalls.
//!
//! Where the SDK would panic on a status that it does not list, the hostcalls are made directly: a panic here ends
//! the VM. No hostcall is made while the [`Vm`] is borrowed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use proxy_wasm::hostcalls::open_grpc_stream;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action as Filtering, BufferType, ContextType, MapType};

use crate::MARK;
use crate::config::Config;
use crate::counts::{InFlight, Listener};
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
        let Ok(actions) = self.vm.try_borrow_mut().map(|mut vm| change(&mut vm, raw::now())) else {
            return;
        };
        let mut todo = VecDeque::from(actions);
        while let Some(action) = todo.pop_front() {
            let Some(event) = carry_out(current, action) else {
                continue;
            };
            if let Ok(mut vm) = self.vm.try_borrow_mut() {
                todo.extend(vm.handle(event, raw::now()));
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
        Action::Log { level, text } => raw::log(level, &text),
        Action::Tick { root, period } => {
            raw::within(current, root, || raw::set_tick_period(period));
        }
        Action::Stream {
            effect: Effect::Log { level, text },
            ..
        } => raw::log(level, &text),
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
            let sent = raw::within(current, owner, || raw::grpc_send(token, &report.encode_to_vec()));
            return (sent != Some(true)).then_some(Event::SendFailed { token });
        }
        Action::Stream {
            owner,
            effect: Effect::Close { token },
        } => {
            raw::within(current, owner, || raw::grpc_close(token));
        }
        Action::Stream {
            owner,
            effect: Effect::Cancel { token },
        } => {
            raw::within(current, owner, || raw::grpc_cancel(token));
        }
    }
    None
}

/// The random number of the Envoy process: the first VM draws it, the others read it.
fn process_number() -> u64 {
    let read =
        || raw::shared_data(PROCESS_KEY).and_then(|bytes| bytes.try_into().ok().map(u64::from_le_bytes));
    read().unwrap_or_else(|| {
        let drawn = raw::random();
        raw::set_shared_data_if_absent(PROCESS_KEY, &drawn.to_le_bytes());
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
        let json = raw::buffer(BufferType::PluginConfiguration).unwrap_or_default();
        let config = Config::parse(&json).map_err(|error| error.to_string())?;
        let node = raw::property(b"xds\0node").ok_or("Envoy does not tell its node (attribute xds.node)")?;
        let identity = Identity::from_node(&node, raw::random())?;
        // Before the workers start: then they all find it.
        process_number();
        self.host.update(self.id, |vm, now| {
            let (listener, actions) = vm.configure(self.id, config, identity, raw::random(), now);
            self.listener = Some(listener);
            actions
        });
        Ok(())
    }
}

impl Context for Root {
    fn on_grpc_stream_message(&mut self, token: u32, _size: usize) {
        let message = raw::buffer(BufferType::GrpcReceiveBuffer).unwrap_or_default();
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
            .inspect_err(|error| raw::log(Level::Error, error))
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
        if raw::header(MapType::HttpRequestHeaders, "x-ebb-test-trap").is_some_and(|value| value == b"1") {
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
            .is_ok_and(|vm| vm.closes(listener, raw::now()))
        {
            raw::set_response_header(MARK, "1");
            // Envoy drops this one, other proxies obey it. Without its own value a switch of protocols would fail.
            if raw::header(MapType::HttpResponseHeaders, ":status").is_none_or(|status| status != b"101") {
                raw::set_response_header("connection", "close");
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

/// Hostcalls whose status is looked at here rather than in the SDK.
#[allow(
    unsafe_code,
    reason = "hostcalls take raw pointers, and the SDK's own wrappers panic on some statuses"
)]
mod raw {
    use std::ptr::null_mut;
    use std::time::Duration;

    use proxy_wasm::types::{BufferType, MapType};

    use crate::session::Level;

    const OK: u32 = 0;
    const MONOTONIC: u32 = 1;
    /// Envoy numbers versions from 1 up, so no entry has this one: only an absent entry can be set with it.
    const NO_VERSION: u32 = u32::MAX;

    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        fn proxy_log(level: u32, text: *const u8, size: usize) -> u32;
        fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        fn proxy_set_effective_context(context: u32) -> u32;
        fn proxy_grpc_send(token: u32, data: *const u8, size: usize, end_of_stream: u32) -> u32;
        fn proxy_grpc_close(token: u32) -> u32;
        fn proxy_grpc_cancel(token: u32) -> u32;
        fn proxy_get_property(path: *const u8, size: usize, data: *mut *mut u8, data_size: *mut usize)
        -> u32;
        fn proxy_get_buffer_bytes(
            buffer: BufferType,
            start: usize,
            max: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        fn proxy_get_shared_data(
            key: *const u8,
            key_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
            version: *mut u32,
        ) -> u32;
        fn proxy_set_shared_data(
            key: *const u8,
            key_size: usize,
            data: *const u8,
            size: usize,
            version: u32,
        ) -> u32;
        fn proxy_get_header_map_value(
            map: MapType,
            name: *const u8,
            name_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        fn proxy_replace_header_map_value(
            map: MapType,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
    }

    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        fn clock_time_get(clock: u32, precision: u64, nanoseconds: *mut u64) -> u32;
        fn random_get(data: *mut u8, size: usize) -> u32;
    }

    /// Time since an arbitrary origin, monotonic.
    pub(super) fn now() -> Duration {
        let mut nanoseconds = 0;
        // SAFETY: the host writes one u64 to a valid place.
        unsafe { clock_time_get(MONOTONIC, 1, &raw mut nanoseconds) };
        Duration::from_nanos(nanoseconds)
    }

    pub(super) fn random() -> u64 {
        let mut bytes = [0; 8];
        // SAFETY: the host writes as many bytes as there are.
        unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
        u64::from_le_bytes(bytes)
    }

    pub(super) fn log(level: Level, text: &str) {
        let level = match level {
            Level::Debug => 1,
            Level::Info => 2,
            Level::Warn => 3,
            Level::Error => 4,
        };
        // SAFETY: the host only reads the text.
        unsafe { proxy_log(level, text.as_ptr(), text.len()) };
    }

    /// Makes a call in the context `target`, and returns to `current`; `None` if there is no such context.
    pub(super) fn within<T>(current: u32, target: u32, call: impl FnOnce() -> T) -> Option<T> {
        if current == target {
            return Some(call());
        }
        // SAFETY: no pointers are passed.
        if unsafe { proxy_set_effective_context(target) } != OK {
            return None;
        }
        let result = call();
        // SAFETY: no pointers are passed.
        unsafe { proxy_set_effective_context(current) };
        Some(result)
    }

    pub(super) fn set_tick_period(period: Duration) {
        let millis = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
        // SAFETY: no pointers are passed.
        unsafe { proxy_set_tick_period_milliseconds(millis) };
    }

    pub(super) fn grpc_send(token: u32, message: &[u8]) -> bool {
        // SAFETY: the host only reads the message.
        unsafe { proxy_grpc_send(token, message.as_ptr(), message.len(), 0) == OK }
    }

    pub(super) fn grpc_close(token: u32) {
        // SAFETY: no pointers are passed.
        unsafe { proxy_grpc_close(token) };
    }

    pub(super) fn grpc_cancel(token: u32) {
        // SAFETY: no pointers are passed.
        unsafe { proxy_grpc_cancel(token) };
    }

    pub(super) fn buffer(buffer: BufferType) -> Option<Vec<u8>> {
        // SAFETY: `returned` passes valid places.
        returned(|data, size| unsafe { proxy_get_buffer_bytes(buffer, 0, usize::MAX, data, size) })
    }

    /// A property by its path, whose parts are separated by NUL.
    pub(super) fn property(path: &[u8]) -> Option<Vec<u8>> {
        // SAFETY: `returned` passes valid places, and the host only reads the path.
        returned(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
    }

    pub(super) fn shared_data(key: &str) -> Option<Vec<u8>> {
        let mut version = 0;
        // SAFETY: `returned` passes valid places, as is `version`, and the host only reads the key.
        returned(|data, size| unsafe {
            proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut version)
        })
    }

    pub(super) fn set_shared_data_if_absent(key: &str, value: &[u8]) {
        // SAFETY: the host only reads the key and the value.
        unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), NO_VERSION) };
    }

    pub(super) fn header(map: MapType, name: &str) -> Option<Vec<u8>> {
        // SAFETY: `returned` passes valid places, and the host only reads the name.
        returned(|data, size| unsafe {
            proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, size)
        })
    }

    pub(super) fn set_response_header(name: &str, value: &str) {
        let (map, size) = (MapType::HttpResponseHeaders, value.len());
        // SAFETY: the host only reads the name and the value.
        unsafe { proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), size) };
    }

    /// Takes over the bytes that a hostcall returns.
    fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
        let (mut data, mut size) = (null_mut(), 0);
        if call(&raw mut data, &raw mut size) != OK {
            return None;
        }
        if data.is_null() {
            return Some(Vec::new());
        }
        // SAFETY: the host has got this memory from `proxy_on_memory_allocate`, which gives away a boxed slice of
        // exactly this size, and has filled it.
        Some(unsafe { Vec::from_raw_parts(data, size, size) })
    }
}
