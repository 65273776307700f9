//! The shipped `envoy-config/envoy.yaml`, with only that replaced which differs on every machine: paths, ports, names.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::bins;

/// An Envoy bootstrap that can be changed before Envoy starts. Written as JSON, which Envoy reads as well.
#[derive(Clone, Debug)]
pub struct Bootstrap(Value);

impl Bootstrap {
    /// Reads the shipped file.
    ///
    /// # Errors
    /// When it is not there or is no YAML.
    pub fn shipped() -> Result<Self> {
        let path = bins::repository().join("envoy-config/envoy.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let value =
            serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no YAML", path.display()))?;
        Ok(Self(value))
    }

    /// A bootstrap of a test's own.
    #[must_use]
    pub fn from_value(value: Value) -> Self {
        Self(value)
    }

    /// The whole document, for changes that have no method here.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.0
    }

    /// Writes it to `path` as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_vec_pretty(&self.0)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Sets `node.id`.
    pub fn set_node_id(&mut self, id: &str) {
        set(&mut self.0, &["node", "id"], json!(id));
    }

    /// Puts the admin endpoint on a Unix socket.
    pub fn set_admin(&mut self, socket: &Path) {
        set(
            &mut self.0,
            &["admin", "address"],
            json!({ "pipe": { "path": socket } }),
        );
    }

    /// Makes every listener bind a free loopback port, with the listener's name in its stats instead of that port.
    ///
    /// # Errors
    /// When there is no listener.
    pub fn bind_free_ports(&mut self) -> Result<()> {
        for listener in self.listeners_mut()? {
            let free = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } });
            set(listener, &["address"], free);
            let name = listener.get("name").cloned().unwrap_or_default();
            set(listener, &["stat_prefix"], name);
        }
        Ok(())
    }

    /// Makes a listener bind this address.
    ///
    /// # Errors
    /// When there is no such listener.
    pub fn bind(&mut self, listener: &str, address: SocketAddr) -> Result<()> {
        let address = socket_address(address);
        set(self.listener_mut(listener)?, &["address"], address);
        Ok(())
    }

    /// Adds a cluster with one endpoint.
    ///
    /// # Errors
    /// When the bootstrap has no clusters.
    pub fn add_cluster(&mut self, name: &str, address: SocketAddr) -> Result<()> {
        let mut cluster = json!({ "name": name, "load_assignment": { "cluster_name": name } });
        set_endpoint(&mut cluster, socket_address(address))?;
        self.clusters_mut()?.push(cluster);
        Ok(())
    }

    /// Has the filter's code loaded from `module`.
    pub fn set_wasm(&mut self, module: &Path) {
        for plugin in plugins(&mut self.0) {
            set(plugin, &["vm_config", "code", "local", "filename"], json!(module));
        }
    }

    /// Sets the control plane's address to a Unix socket.
    ///
    /// # Errors
    /// When the cluster that the plugins name is not there.
    pub fn set_control_plane(&mut self, socket: &Path) -> Result<()> {
        let name = self.control_plane_cluster()?;
        let cluster = self.cluster_mut(&name)?;
        set_endpoint(cluster, json!({ "pipe": { "path": socket } }))
    }

    /// Renames the control plane's cluster, in the plugins' configuration too.
    ///
    /// # Errors
    /// As [`Bootstrap::set_control_plane`].
    pub fn rename_control_plane(&mut self, name: &str) -> Result<()> {
        let old = self.control_plane_cluster()?;
        let cluster = self.cluster_mut(&old)?;
        set(cluster, &["name"], json!(name));
        set(cluster, &["load_assignment", "cluster_name"], json!(name));
        self.configure_plugins("control_plane_cluster", &json!(name))
    }

    /// Points every cluster but the control plane's at `address`.
    ///
    /// # Errors
    /// When there is no such cluster.
    pub fn set_upstream(&mut self, address: SocketAddr) -> Result<()> {
        let control_plane = self.control_plane_cluster()?;
        let endpoint = socket_address(address);
        let mut found = false;
        for cluster in self.clusters_mut()? {
            if cluster.get("name").and_then(Value::as_str) != Some(control_plane.as_str()) {
                set_endpoint(cluster, endpoint.clone())?;
                found = true;
            }
        }
        if found {
            Ok(())
        } else {
            bail!("the bootstrap has no cluster of an upstream")
        }
    }

    /// Sets one key in the configuration of every plugin.
    ///
    /// # Errors
    /// When a plugin's configuration is no JSON object.
    pub fn configure_plugins(&mut self, key: &str, value: &Value) -> Result<()> {
        for plugin in plugins(&mut self.0) {
            let mut configuration = plugin_configuration(plugin)?;
            set(&mut configuration, &[key], value.clone());
            set_plugin_configuration(plugin, &configuration)?;
        }
        Ok(())
    }

    /// Sets one key in the configuration of a listener's plugin.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub fn configure_plugin(&mut self, listener: &str, key: &str, value: &Value) -> Result<()> {
        for plugin in plugins(&mut self.0) {
            let mut configuration = plugin_configuration(plugin)?;
            if configuration.get("listener").and_then(Value::as_str) == Some(listener) {
                set(&mut configuration, &[key], value.clone());
                return set_plugin_configuration(plugin, &configuration);
            }
        }
        bail!("the bootstrap has no plugin of a listener `{listener}`")
    }

    /// The HTTP connection manager of a listener.
    ///
    /// # Errors
    /// When there is no such listener or it has none.
    pub fn connection_manager_mut(&mut self, listener: &str) -> Result<&mut Value> {
        self.listener_mut(listener)?
            .pointer_mut("/filter_chains/0/filters/0/typed_config")
            .with_context(|| format!("listener `{listener}` has no HTTP connection manager"))
    }

    /// The `stat_prefix` of a listener's HTTP connection manager.
    ///
    /// # Errors
    /// As [`Bootstrap::connection_manager_mut`].
    pub fn stat_prefix(&mut self, listener: &str) -> Result<String> {
        let manager = self.connection_manager_mut(listener)?;
        let prefix = manager.get("stat_prefix").and_then(Value::as_str);
        prefix
            .map(str::to_owned)
            .with_context(|| format!("listener `{listener}` has no stat_prefix"))
    }

    /// Inserts a route before all others of a listener's first virtual host.
    ///
    /// # Errors
    /// As [`Bootstrap::connection_manager_mut`], or when it has no routes.
    pub fn insert_route(&mut self, listener: &str, route: Value) -> Result<()> {
        let manager = self.connection_manager_mut(listener)?;
        manager
            .pointer_mut("/route_config/virtual_hosts/0/routes")
            .and_then(Value::as_array_mut)
            .with_context(|| format!("listener `{listener}` has no inline routes"))?
            .insert(0, route);
        Ok(())
    }

    /// The HTTP filters of a listener.
    ///
    /// # Errors
    /// As [`Bootstrap::connection_manager_mut`].
    pub fn http_filters_mut(&mut self, listener: &str) -> Result<&mut Vec<Value>> {
        self.connection_manager_mut(listener)?
            .get_mut("http_filters")
            .and_then(Value::as_array_mut)
            .with_context(|| format!("listener `{listener}` has no HTTP filters"))
    }

    fn control_plane_cluster(&mut self) -> Result<String> {
        let plugin = plugins(&mut self.0)
            .into_iter()
            .next()
            .context("the bootstrap has no Wasm plugin")?;
        let configuration = plugin_configuration(plugin)?;
        let name = configuration.get("control_plane_cluster").and_then(Value::as_str);
        name.map(str::to_owned)
            .context("the plugin names no control_plane_cluster")
    }

    fn listener_mut(&mut self, name: &str) -> Result<&mut Value> {
        self.listeners_mut()?
            .iter_mut()
            .find(|candidate| candidate.get("name").and_then(Value::as_str) == Some(name))
            .with_context(|| format!("the bootstrap has no listener `{name}`"))
    }

    fn listeners_mut(&mut self) -> Result<&mut Vec<Value>> {
        array_mut(&mut self.0, "/static_resources/listeners")
    }

    fn clusters_mut(&mut self) -> Result<&mut Vec<Value>> {
        array_mut(&mut self.0, "/static_resources/clusters")
    }

    fn cluster_mut(&mut self, name: &str) -> Result<&mut Value> {
        self.clusters_mut()?
            .iter_mut()
            .find(|cluster| cluster.get("name").and_then(Value::as_str) == Some(name))
            .with_context(|| format!("the bootstrap has no cluster `{name}`"))
    }
}

fn array_mut<'a>(value: &'a mut Value, pointer: &str) -> Result<&'a mut Vec<Value>> {
    let found = value.pointer_mut(pointer).and_then(Value::as_array_mut);
    found.ok_or_else(|| anyhow!("the bootstrap has no list at {pointer}"))
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// Sets a nested key, making the objects on the way.
fn set(value: &mut Value, path: &[&str], new: Value) {
    let mut place = value;
    for key in path {
        if !place.is_object() {
            *place = json!({});
        }
        let Value::Object(map) = place else { return };
        place = map.entry(*key).or_insert(Value::Null);
    }
    *place = new;
}

/// Makes a cluster static, with one endpoint.
fn set_endpoint(cluster: &mut Value, address: Value) -> Result<()> {
    let map = cluster
        .as_object_mut()
        .context("a cluster of the bootstrap is no object")?;
    let resolver_keys: Vec<String> = map.keys().filter(|key| key.contains("dns_")).cloned().collect();
    for key in resolver_keys {
        map.remove(&key);
    }
    map.insert("type".to_owned(), json!("STATIC"));
    let endpoints = json!([{ "lb_endpoints": [{ "endpoint": { "address": address } }] }]);
    set(cluster, &["load_assignment", "endpoints"], endpoints);
    Ok(())
}

/// Every Wasm plugin's configuration object: whatever holds a `vm_config`.
fn plugins(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Object(map) if map.contains_key("vm_config") => vec![value],
        Value::Object(map) => map.values_mut().flat_map(plugins).collect(),
        Value::Array(list) => list.iter_mut().flat_map(plugins).collect(),
        _ => Vec::new(),
    }
}

fn plugin_configuration(plugin: &Value) -> Result<Value> {
    match plugin.pointer("/configuration/value") {
        Some(Value::String(text)) => {
            serde_json::from_str(text).context("a plugin's configuration is no JSON")
        }
        Some(object @ Value::Object(_)) => Ok(object.clone()),
        _ => bail!("a Wasm plugin has no configuration"),
    }
}

fn set_plugin_configuration(plugin: &mut Value, configuration: &Value) -> Result<()> {
    let place = plugin
        .pointer_mut("/configuration/value")
        .context("a Wasm plugin has no configuration")?;
    *place = if place.is_string() {
        json!(configuration.to_string())
    } else {
        configuration.clone()
    };
    Ok(())
}
