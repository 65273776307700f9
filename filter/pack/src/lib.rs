//! Build step for the filter: drops from its module every callback and every hostcall that it does not use.
//!
//! The Proxy-Wasm SDK exports all callbacks there are, and Envoy enters the VM for each one that a module exports,
//! on every request: what is not exported costs nothing. And it imports hostcalls for which the filter has no use, from
//! default methods of its traits that nothing calls: what is not imported cannot be misused, and Envoy's capability
//! restriction can be the exact list.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, ensure};
use walrus::{ExportItem, FunctionId, Import, ImportKind, Module, ModuleConfig};

/// The callbacks that the filter uses.
pub const CALLBACKS: [&str; 8] = [
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_grpc_close",
    "proxy_on_grpc_receive",
    "proxy_on_request_headers",
    "proxy_on_response_headers",
    "proxy_on_tick",
];

/// The hostcalls that the filter makes, and the WASI functions behind its clock, its random numbers and the message of
/// a panic.
pub const HOSTCALLS: [&str; 19] = [
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_write",
    "proc_exit",
    "proxy_get_buffer_bytes",
    "proxy_get_header_map_value",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_log",
    "proxy_replace_header_map_value",
    "proxy_set_effective_context",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
    "random_get",
];

/// What a host looks for besides callbacks: entry, memory and version of the ABI.
pub const SUPPORT: [&str; 4] = [
    "_initialize",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
];

/// Drops every export that is neither in [`CALLBACKS`] nor in [`SUPPORT`], turns every import that is not in
/// [`HOSTCALLS`] into a trap, and drops all code that nothing needs any more.
///
/// # Errors
/// `wasm` is no WebAssembly module, or it lacks an export that the filter needs.
pub fn pack(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut module = parse(wasm)?;
    let unused: Vec<_> = module
        .exports
        .iter()
        .filter(|export| !is_kept(&export.name))
        .map(|export| export.id())
        .collect();
    for export in unused {
        module.exports.delete(export);
    }
    let kept: BTreeSet<&str> = module.exports.iter().map(|export| export.name.as_str()).collect();
    for name in CALLBACKS.iter().chain(&SUPPORT) {
        ensure!(
            kept.contains(name),
            "it does not export `{name}`: it is not the module of the filter"
        );
    }
    walrus::passes::gc::run(&mut module);
    let denied: Vec<FunctionId> = module.imports.iter().filter_map(denied).collect();
    for function in denied {
        module.replace_imported_func(function, |(body, _)| {
            body.unreachable();
        })?;
    }
    let imported: BTreeSet<&str> = module.imports.iter().map(|import| import.name.as_str()).collect();
    for name in HOSTCALLS {
        ensure!(
            imported.contains(name),
            "it does not import `{name}`: it is not the module of the filter"
        );
    }
    walrus::passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

fn denied(import: &Import) -> Option<FunctionId> {
    match import.kind {
        ImportKind::Function(function) if !HOSTCALLS.contains(&import.name.as_str()) => Some(function),
        _ => None,
    }
}

fn is_kept(name: &str) -> bool {
    CALLBACKS.contains(&name) || SUPPORT.contains(&name)
}

/// Everything through which a module and its host reach each other, as Envoy's capability restriction names it: the
/// functions that it imports and the callbacks that it exports, sorted.
///
/// # Errors
/// `wasm` is no WebAssembly module.
pub fn capabilities(wasm: &[u8]) -> Result<BTreeSet<String>> {
    let module = parse(wasm)?;
    let imports = module.imports.iter().map(|import| import.name.clone());
    let exported = |name: &str| name.starts_with("proxy_on_") && name != "proxy_on_memory_allocate";
    let callbacks = module
        .exports
        .iter()
        .filter(|export| exported(&export.name))
        .map(|export| export.name.clone());
    Ok(imports.chain(callbacks).collect())
}

/// The names of all functions that a module exports, sorted.
///
/// # Errors
/// `wasm` is no WebAssembly module.
pub fn exported_functions(wasm: &[u8]) -> Result<BTreeSet<String>> {
    let function = |item: &ExportItem| -> Option<FunctionId> {
        match item {
            ExportItem::Function(id) => Some(*id),
            _ => None,
        }
    };
    let module = parse(wasm)?;
    Ok(module
        .exports
        .iter()
        .filter_map(|export| function(&export.item).map(|_| export.name.clone()))
        .collect())
}

fn parse(wasm: &[u8]) -> Result<Module> {
    ensure!(wasm.starts_with(b"\0asm"), "it is not a WebAssembly module");
    let module = ModuleConfig::new().generate_producers_section(false).parse(wasm);
    // The parser's message runs over several lines.
    module.map_err(|error| {
        anyhow!(
            "it is not a WebAssembly module: {}",
            format!("{error:#}").replace('\n', " ")
        )
    })
}
