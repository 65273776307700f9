//! Where the parts under test lie: each by an environment variable, by default where `make build` leaves it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Version of an Envoy under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvoyVersion {
    /// The version that Ebb is developed against.
    V1_40,
    /// The oldest version that Ebb supports.
    V1_37,
}

/// The repository's top folder.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// The binary `ebb`: `EBB_BIN`, else `dist/ebb`.
///
/// # Errors
/// When there is no such file.
pub fn ebb() -> Result<PathBuf> {
    find("EBB_BIN", "dist/ebb")
}

/// The filter's module: `EBB_WASM`, else `dist/ebb_filter.wasm`.
///
/// # Errors
/// When there is no such file.
pub fn wasm() -> Result<PathBuf> {
    find("EBB_WASM", "dist/ebb_filter.wasm")
}

/// The filter's module built to trap on `x-ebb-test-trap: 1`: `EBB_WASM_TRAP`, else `.cache/ebb_filter_trap.wasm`.
///
/// # Errors
/// When there is no such file.
pub fn wasm_trap() -> Result<PathBuf> {
    find("EBB_WASM_TRAP", ".cache/ebb_filter_trap.wasm")
}

/// Envoy: `ENVOY_BIN` else `dist/envoy`, and `ENVOY_BIN_1_37` else `.cache/envoy-1.37.0/bin/envoy`.
///
/// # Errors
/// When there is no such file.
pub fn envoy(version: EnvoyVersion) -> Result<PathBuf> {
    match version {
        EnvoyVersion::V1_40 => find("ENVOY_BIN", "dist/envoy"),
        EnvoyVersion::V1_37 => find("ENVOY_BIN_1_37", ".cache/envoy-1.37.0/bin/envoy"),
    }
}

/// HAProxy: `HAPROXY_BIN`, else where Debian puts it.
///
/// # Errors
/// When there is no such file.
pub fn haproxy() -> Result<PathBuf> {
    find("HAPROXY_BIN", "/usr/sbin/haproxy")
}

/// The load tool `wrk`: `WRK_BIN`, else where Debian puts it.
///
/// # Errors
/// When there is no such file.
pub fn wrk() -> Result<PathBuf> {
    find("WRK_BIN", "/usr/bin/wrk")
}

/// The load tool `h2load` of nghttp2: `H2LOAD_BIN`, else where Debian puts it.
///
/// # Errors
/// When there is no such file.
pub fn h2load() -> Result<PathBuf> {
    find("H2LOAD_BIN", "/usr/bin/h2load")
}

/// A filter that does nothing, as the SDK makes it: `EBB_WASM_STOCK`, else `.cache/stock_filter.wasm`.
///
/// # Errors
/// When there is no such file.
pub fn wasm_stock() -> Result<PathBuf> {
    find("EBB_WASM_STOCK", ".cache/stock_filter.wasm")
}

/// The filter's module before it is packed: `EBB_WASM_UNPACKED`, else where `make build` has it from cargo.
///
/// # Errors
/// When there is no such file.
pub fn wasm_unpacked() -> Result<PathBuf> {
    find("EBB_WASM_UNPACKED", "target/wasm32-wasip1/wasm/ebb_filter.wasm")
}

/// Binaryen's `wasm-opt`: `WASM_OPT_BIN`, else where Debian puts it; none if it is not there.
#[must_use]
pub fn wasm_opt() -> Option<PathBuf> {
    find("WASM_OPT_BIN", "/usr/bin/wasm-opt").ok()
}

/// `libfaketime` for programs with threads, by which a process sees another wall clock: `EBB_FAKETIME`, else where Debian
/// puts it; none if it is not there.
#[must_use]
pub fn faketime() -> Option<PathBuf> {
    let debian = format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1",
        std::env::consts::ARCH
    );
    find("EBB_FAKETIME", &debian).ok()
}

/// A Python that has grpcio, grpcio-reflection and protobuf: `EBB_TEST_PYTHON`, else `.cache/python/bin/python3`.
///
/// # Errors
/// When there is no such file.
pub fn python() -> Result<PathBuf> {
    find("EBB_TEST_PYTHON", ".cache/python/bin/python3")
}

/// A Python with its standard library: `EBB_TEST_PYTHON`, else `python3` on the PATH.
#[must_use]
pub fn any_python() -> PathBuf {
    std::env::var_os("EBB_TEST_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

fn find(variable: &str, default: &str) -> Result<PathBuf> {
    let (path, hint) = match std::env::var_os(variable) {
        Some(value) => (PathBuf::from(value), format!("correct {variable}")),
        None => (
            repository().join(default),
            format!("run `make build build-test`, or set {variable}"),
        ),
    };
    if !path.is_file() {
        bail!("{} is not there: {hint}", path.display());
    }
    Ok(path)
}
