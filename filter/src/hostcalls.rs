//! Hostcalls of the ABI, without the SDK: its wrappers panic on a status that they do not list, and a panic ends the VM.
//! Here a status is an answer. The only place with `unsafe`.

#![allow(
    unsafe_code,
    reason = "hostcalls are foreign functions that take raw pointers"
)]

use std::ptr::null_mut;
use std::time::Duration;

use crate::session::Level;

const OK: u32 = 0;
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
/// Tries to change what VMs share.
const TRIES: usize = 1000;
/// Envoy numbers versions from 1 up, so no entry has this one: only an absent entry can be set with it.
const NO_VERSION: u32 = u32::MAX;

/// Which buffer is meant, by the numbers of the ABI.
#[repr(u32)]
#[derive(Clone, Copy)]
pub(crate) enum Buffer {
    GrpcMessage = 5,
    PluginConfiguration = 7,
}

/// Whose headers are meant, by the numbers of the ABI.
#[repr(u32)]
#[derive(Clone, Copy)]
pub(crate) enum Headers {
    Request = 0,
    Response = 2,
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, size: usize) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_grpc_send(token: u32, data: *const u8, size: usize, end_of_stream: u32) -> u32;
    fn proxy_grpc_close(token: u32) -> u32;
    fn proxy_grpc_cancel(token: u32) -> u32;
    fn proxy_get_property(path: *const u8, size: usize, data: *mut *mut u8, data_size: *mut usize) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: Buffer,
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
        map: Headers,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: Headers,
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
pub(crate) fn now() -> Duration {
    time_of(MONOTONIC)
}

/// Time since the Unix epoch.
pub(crate) fn wall() -> Duration {
    time_of(REALTIME)
}

fn time_of(clock: u32) -> Duration {
    let mut nanoseconds = 0;
    // SAFETY: the host writes one u64 to a valid place.
    unsafe { clock_time_get(clock, 1, &raw mut nanoseconds) };
    Duration::from_nanos(nanoseconds)
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the host writes as many bytes as there are.
    unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
    u64::from_le_bytes(bytes)
}

pub(crate) fn log(level: Level, text: &str) {
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
pub(crate) fn within<T>(current: u32, target: u32, call: impl FnOnce() -> T) -> Option<T> {
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

pub(crate) fn set_tick_period(period: Duration) {
    let millis = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: no pointers are passed.
    unsafe { proxy_set_tick_period_milliseconds(millis) };
}

pub(crate) fn grpc_send(token: u32, message: &[u8]) -> bool {
    // SAFETY: the host only reads the message.
    unsafe { proxy_grpc_send(token, message.as_ptr(), message.len(), 0) == OK }
}

pub(crate) fn grpc_close(token: u32) {
    // SAFETY: no pointers are passed.
    unsafe { proxy_grpc_close(token) };
}

pub(crate) fn grpc_cancel(token: u32) {
    // SAFETY: no pointers are passed.
    unsafe { proxy_grpc_cancel(token) };
}

pub(crate) fn buffer(buffer: Buffer) -> Option<Vec<u8>> {
    // SAFETY: `returned` passes valid places.
    returned(|data, size| unsafe { proxy_get_buffer_bytes(buffer, 0, usize::MAX, data, size) })
}

/// A property by its path, whose parts are separated by NUL.
pub(crate) fn property(path: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: `returned` passes valid places, and the host only reads the path.
    returned(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

/// What the VMs of this process share under a key, if there is any.
pub(crate) fn shared_data(key: &str) -> Option<Vec<u8>> {
    versioned(key).map(|(data, _)| data)
}

fn versioned(key: &str) -> Option<(Vec<u8>, u32)> {
    let mut version = 0;
    // SAFETY: `returned` passes valid places, as is `version`, and the host only reads the key.
    let data = returned(|data, size| unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut version)
    })?;
    Some((data, version))
}

/// Changes what the VMs of this process share under a key. `change` gets what is there (nothing = empty) and gives what is
/// to be there; it runs again if another VM was faster. `None` = it stays.
pub(crate) fn change_shared_data(key: &str, change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    // Every failure means that another VM has succeeded, of which there are at most as many as workers.
    for _ in 0..TRIES {
        let (old, version) = versioned(key).unwrap_or_else(|| (Vec::new(), NO_VERSION));
        let Some(new) = change(&old) else { return };
        // SAFETY: the host only reads the key and the value.
        let status =
            unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), new.as_ptr(), new.len(), version) };
        if status == OK {
            return;
        }
    }
}

pub(crate) fn header(map: Headers, name: &str) -> Option<Vec<u8>> {
    // SAFETY: `returned` passes valid places, and the host only reads the name.
    returned(|data, size| unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, size) })
}

pub(crate) fn set_response_header(name: &str, value: &str) {
    let (map, size) = (Headers::Response, value.len());
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
