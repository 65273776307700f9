//! The packed module has the doors that it needs, and no other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use ebb_filter_pack::{CALLBACKS, HOSTCALLS, SUPPORT, capabilities, exported_functions, pack};
use walrus::{ConstExpr, ElementItems, ElementKind, FunctionBuilder, Module, RefType, ValType};

/// A module as the SDK makes it: everything is exported, and imports hang on it through a table of methods.
fn module(callbacks: &[&str], hostcalls: &[&str]) -> Vec<u8> {
    let mut module = Module::default();
    let memory = module.memories.add_local(false, false, 1, None, None);
    module.exports.add("memory", memory);
    let kind = module.types.add(&[ValType::I32], &[ValType::I32]);
    let methods = hostcalls
        .iter()
        .map(|name| module.add_import_func("env", name, kind).0)
        .collect();
    let table = module
        .tables
        .add_local(false, hostcalls.len() as u64, None, RefType::FUNCREF);
    let offset = ConstExpr::Value(walrus::ir::Value::I32(0));
    module.elements.add(
        ElementKind::Active { table, offset },
        ElementItems::Functions(methods),
    );
    module.exports.add("__indirect_function_table", table);
    for name in callbacks
        .iter()
        .copied()
        .chain(SUPPORT.into_iter().filter(|name| *name != "memory"))
    {
        let mut builder = FunctionBuilder::new(&mut module.types, &[ValType::I32], &[ValType::I32]);
        let argument = module.locals.add(ValType::I32);
        builder
            .func_body()
            .local_get(argument)
            .i32_const(0)
            .call_indirect(kind, table);
        let function = builder.finish(vec![argument], &mut module.funcs);
        module.exports.add(name, function);
    }
    module.emit_wasm()
}

fn with<'a>(names: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [names, more].concat()
}

fn expected_capabilities() -> BTreeSet<String> {
    CALLBACKS
        .iter()
        .chain(&HOSTCALLS)
        .map(|name| (*name).to_owned())
        .collect()
}

fn expected_exports() -> BTreeSet<String> {
    let functions = SUPPORT.iter().filter(|name| **name != "memory");
    CALLBACKS
        .iter()
        .chain(functions)
        .map(|name| (*name).to_owned())
        .collect()
}

#[test]
fn unused_callbacks_and_hostcalls_are_dropped() {
    let callbacks = with(
        &CALLBACKS,
        &["proxy_on_log", "proxy_on_done", "proxy_on_request_body"],
    );
    let hostcalls = with(&HOSTCALLS, &["proxy_http_call", "proxy_send_local_response"]);
    let packed = pack(&module(&callbacks, &hostcalls)).unwrap();
    assert_eq!(capabilities(&packed).unwrap(), expected_capabilities());
    assert_eq!(exported_functions(&packed).unwrap(), expected_exports());
}

#[test]
fn packing_twice_changes_nothing() {
    let once = pack(&module(&CALLBACKS, &HOSTCALLS)).unwrap();
    assert_eq!(
        capabilities(&pack(&once).unwrap()).unwrap(),
        capabilities(&once).unwrap()
    );
}

#[test]
fn what_is_not_the_filter_is_refused() {
    let error = |wasm: &[u8]| format!("{:#}", pack(wasm).unwrap_err());
    assert!(error(b"nonsense").contains("not a WebAssembly module"));
    assert!(error(b"").contains("not a WebAssembly module"));
    assert!(error(&module(&CALLBACKS[1..], &HOSTCALLS)).contains(CALLBACKS[0]));
    assert!(error(&module(&CALLBACKS, &HOSTCALLS[1..])).contains(HOSTCALLS[0]));
}

#[test]
fn the_shipped_bootstrap_allows_exactly_this() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../envoy-config/envoy.yaml");
    let bootstrap: serde_json::Value = serde_yaml_ng::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let lists = allowed_capabilities(&bootstrap);
    assert_eq!(lists.len(), 2, "one per listener");
    for list in lists {
        assert_eq!(list, expected_capabilities());
    }
}

fn allowed_capabilities(value: &serde_json::Value) -> Vec<BTreeSet<String>> {
    let own = value
        .get("allowed_capabilities")
        .and_then(|list| list.as_object());
    let own = own.map(|list| list.keys().cloned().collect());
    let children: Vec<&serde_json::Value> = match value {
        serde_json::Value::Object(map) => map.values().collect(),
        serde_json::Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    };
    own.into_iter()
        .chain(children.into_iter().flat_map(allowed_capabilities))
        .collect()
}

#[test]
fn the_built_module_has_exactly_these_doors() {
    let built = env::var_os("EBB_WASM").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist/ebb_filter.wasm")),
        PathBuf::from,
    );
    let Ok(wasm) = fs::read(&built) else {
        eprintln!("skipped: {} is not built; run `make build`", built.display());
        return;
    };
    assert_eq!(
        capabilities(&wasm).unwrap(),
        expected_capabilities(),
        "{}",
        built.display()
    );
    assert_eq!(
        exported_functions(&wasm).unwrap(),
        expected_exports(),
        "{}",
        built.display()
    );
}

#[test]
fn the_command_packs_a_file_and_says_what_is_wrong_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.wasm"), folder.path().join("out.wasm"));
    let run = |args: &[&PathBuf]| {
        Command::new(env!("CARGO_BIN_EXE_ebb-filter-pack"))
            .args(args)
            .output()
            .unwrap()
    };
    let refused = |args: &[&PathBuf], with: &str| {
        let result = run(args);
        let said = String::from_utf8(result.stderr).unwrap();
        assert!(!result.status.success(), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(with), "{said}");
    };
    refused(&[], "usage: ebb-filter-pack IN OUT");
    refused(&[&input, &output], "cannot read");
    fs::write(&input, "nonsense").unwrap();
    refused(&[&input, &output], "not a WebAssembly module");
    fs::write(&input, b"\0asm\x01\0\0\0broken").unwrap();
    refused(&[&input, &output], "not a WebAssembly module");
    assert!(!output.exists());
    fs::write(&input, module(&CALLBACKS, &HOSTCALLS)).unwrap();
    refused(&[&input, &folder.path().join("no/such/folder")], "cannot write");
    assert!(run(&[&input, &output]).status.success());
    assert_eq!(
        capabilities(&fs::read(&output).unwrap()).unwrap(),
        expected_capabilities()
    );
}
