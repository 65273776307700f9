//! Who is speaking: the Envoy node and the VM in it.

use ebb_proto::v1::FilterHello;
use prost::Message;

/// Identity of a VM, as far as it is known before a stream opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Envoy's `node.id`; never empty.
    pub node_id: String,
    /// Envoy's `node.cluster`; may be empty.
    pub node_cluster: String,
    /// Random number of this VM.
    pub epoch: u64,
}

/// The Envoy process around a VM, as its VMs agree on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its random number.
    pub number: u64,
    /// The epochs of its VMs that have asked for a stream and not said goodbye.
    pub vms: Vec<u64>,
}

/// `envoy.config.core.v3.Node`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
}

impl Identity {
    /// Reads the identity out of Envoy's attribute `xds.node`, a serialized `Node`.
    ///
    /// # Errors
    /// One line that says what to set when the node has no id, or when the attribute is not a node.
    pub fn from_node(node: &[u8], epoch: u64) -> Result<Self, String> {
        let node = Node::decode(node).map_err(|error| format!("Envoy's xds.node cannot be read: {error}"))?;
        if node.id.is_empty() {
            return Err("Envoy has no node id: set node.id in its bootstrap, or --service-node".to_owned());
        }
        Ok(Self {
            node_id: node.id,
            node_cluster: node.cluster,
            epoch,
        })
    }

    /// The first words on a stream; the caller adds the intervals.
    pub fn hello(&self, process: Process) -> FilterHello {
        FilterHello {
            node_id: self.node_id.clone(),
            node_cluster: self.node_cluster.clone(),
            process: process.number,
            epoch: self.epoch,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            report_interval: None,
            drain_report_interval: None,
            vms: process.vms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_node_and_skips_what_it_does_not_know() {
        // id "a", cluster "b", and metadata (field 3) that is skipped.
        let identity = Identity::from_node(b"\x0a\x01a\x12\x01b\x1a\x02\x0a\x00", 7).unwrap();
        assert_eq!(
            identity,
            Identity {
                node_id: "a".to_owned(),
                node_cluster: "b".to_owned(),
                epoch: 7
            }
        );
    }

    #[test]
    fn a_node_without_an_id_is_refused_with_what_to_do() {
        let error = Identity::from_node(b"", 7).unwrap_err();
        assert!(error.contains("node.id"), "{error}");
        assert!(Identity::from_node(b"\xff", 7).is_err());
    }
}
