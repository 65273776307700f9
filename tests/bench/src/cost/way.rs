//! The ways to set up Envoy that are compared, each the shipped bootstrap with other HTTP filters.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{bins, bootstrap::Bootstrap, envoy::EnvoyOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The listener that is loaded; the shipped bootstrap's other one is left out.
pub(super) const LISTENER: &str = "ingress";

/// The path that Envoy answers by itself.
pub(super) const DIRECT: &str = "/direct";

/// The path that Envoy passes on; its upstream answers it by itself.
pub(super) const PROXIED: &str = "/proxied";

/// One way to set up Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// No filter but the router.
    NoFilter,
    /// A do-nothing filter, as the SDK makes it.
    Stock,
    /// The least filter that counts, written by hand.
    Floor,
    /// Lua with an empty `envoy_on_response`.
    Lua,
    /// The gated closer alone.
    Closer,
    /// Ebb's filter alone, attached to its control plane; nothing drains.
    Filter,
    /// Ebb's filter and the gated closer, attached; nothing drains.
    Ebb,
    /// Ebb's filter alone with every callback that the SDK exports, of which Envoy may call all.
    Unpacked,
    /// The same, with Envoy told to call only those that the filter uses.
    Restricted,
    /// Ebb's filter alone after `wasm-opt -O3`.
    Optimized,
    /// No filter, and Envoy closes by itself after `/healthcheck/fail`.
    ByItself,
    /// Ebb's filter and the gated closer, and Envoy closes by itself after `/healthcheck/fail`: a drain of a whole node
    /// with an admin endpoint.
    Admin,
    /// Ebb's filter and the gated closer, while a drain of the listener holds.
    Draining,
}

impl Way {
    /// What tables call it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NoFilter => "no filter",
            Self::Stock => "stock do-nothing filter of the SDK",
            Self::Floor => "hand-written floor",
            Self::Lua => "Lua alone, empty function",
            Self::Closer => "gated closer alone",
            Self::Filter => "**Ebb's filter alone**, serving",
            Self::Ebb => "**Ebb: filter + gated closer**, serving",
            Self::Unpacked => "Ebb's filter, all callbacks of the SDK",
            Self::Restricted => "the same, with capability restriction",
            Self::Optimized => "Ebb's filter after `wasm-opt -O3`",
            Self::ByItself => "Envoy by itself (`/healthcheck/fail`)",
            Self::Admin => "**Ebb draining a node**: the same, with filter + gated closer in place",
            Self::Draining => "**Ebb draining a listener**: filter + gated closer",
        }
    }

    /// Whether its filter reports to the control plane.
    pub(super) fn attaches(self) -> bool {
        match self {
            Self::NoFilter | Self::Stock | Self::Floor | Self::Lua | Self::Closer | Self::ByItself => false,
            Self::Filter
            | Self::Ebb
            | Self::Unpacked
            | Self::Restricted
            | Self::Optimized
            | Self::Admin
            | Self::Draining => true,
        }
    }

    /// The name of its folder, and its Envoy's `node.id`.
    pub(super) fn node(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Its configuration.
    pub(super) fn bootstrap(
        self,
        modules: &Modules,
        control_plane: &Path,
        upstream: SocketAddr,
    ) -> Result<Bootstrap> {
        let wasm = match self {
            Self::Unpacked | Self::Restricted => Some(modules.unpacked.clone()),
            Self::Optimized => modules.optimized.clone(),
            _ => None,
        };
        let options = EnvoyOptions {
            node_id: self.node(),
            wasm,
            ..EnvoyOptions::default()
        };
        let mut bootstrap = options.bootstrap(control_plane, upstream)?;
        let listeners = bootstrap.value_mut().pointer_mut("/static_resources/listeners");
        let listeners = listeners.and_then(Value::as_array_mut);
        let listeners = listeners.context("the bootstrap has no listeners")?;
        listeners.retain(|listener| listener.get("name").is_some_and(|name| name == LISTENER));
        answer(&mut bootstrap, DIRECT)?;
        self.set_filters(modules, bootstrap.http_filters_mut(LISTENER)?)?;
        Ok(bootstrap)
    }

    fn set_filters(self, modules: &Modules, filters: &mut Vec<Value>) -> Result<()> {
        let [closer, ebb, router] = filters.as_slice() else {
            anyhow::bail!("the shipped listener has other filters than closer, Ebb's and router");
        };
        let (closer, mut ebb, router) = (closer.clone(), ebb.clone(), router.clone());
        *filters = match self {
            Self::NoFilter | Self::ByItself => vec![],
            Self::Stock => vec![plugin("stock", &modules.stock)],
            Self::Floor => vec![plugin("floor", &modules.floor)],
            Self::Lua => vec![lua()],
            Self::Closer => vec![closer],
            Self::Filter | Self::Restricted | Self::Optimized => vec![ebb],
            Self::Unpacked => {
                let config = ebb
                    .pointer_mut("/typed_config/config")
                    .and_then(Value::as_object_mut);
                let removed = config.and_then(|config| config.remove("capability_restriction_config"));
                removed.context("the shipped plugin has no capability restriction")?;
                vec![ebb]
            }
            Self::Ebb | Self::Admin | Self::Draining => vec![closer, ebb],
        };
        filters.push(router);
        Ok(())
    }
}

/// The configuration of the upstream, an Envoy without filters.
pub(super) fn upstream(control_plane: &Path, modules: &Modules) -> Result<Bootstrap> {
    // It has no upstream of its own and asks nobody.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut bootstrap = Way::NoFilter.bootstrap(modules, control_plane, nobody)?;
    bootstrap.set_node_id("upstream");
    answer(&mut bootstrap, PROXIED)?;
    Ok(bootstrap)
}

/// Has Envoy answer a path by itself.
fn answer(bootstrap: &mut Bootstrap, path: &str) -> Result<()> {
    let response = json!({ "status": 200, "body": { "inline_string": "ok\n" } });
    let route = json!({ "match": { "path": path }, "direct_response": response });
    bootstrap.insert_route(LISTENER, route)
}

fn plugin(name: &str, module: &Path) -> Value {
    json!({
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": name,
                "root_id": name,
                "fail_open": true,
                "vm_config": {
                    "vm_id": name,
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": module } },
                },
            },
        },
    })
}

fn lua() -> Value {
    json!({
        "name": "lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": { "inline_string": "function envoy_on_response(response)\nend\n" },
        },
    })
}

/// The Wasm modules, besides the shipped one.
#[derive(Clone, Debug)]
pub(super) struct Modules {
    stock: PathBuf,
    floor: PathBuf,
    unpacked: PathBuf,
    /// None without `wasm-opt`.
    pub(super) optimized: Option<PathBuf>,
}

impl Modules {
    /// Finds those that are built, and makes the others in `folder`.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let floor = folder.join("floor.wasm");
        let assembled = wat::parse_str(include_str!("floor.wat")).context("floor.wat cannot be assembled")?;
        fs::write(&floor, assembled).with_context(|| format!("cannot write {}", floor.display()))?;
        Ok(Self {
            stock: bins::wasm_stock()?,
            floor,
            unpacked: bins::wasm_unpacked()?,
            optimized: optimized(folder)?,
        })
    }
}

fn optimized(folder: &Path) -> Result<Option<PathBuf>> {
    let Some(program) = bins::wasm_opt() else {
        return Ok(None);
    };
    let module = folder.join("optimized.wasm");
    let output = Command::new(&program)
        .arg("-O3")
        .arg(bins::wasm()?)
        .arg("-o")
        .arg(&module)
        .output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(Some(module))
}
