//! The address of the control plane in the form that is safe to hand to Envoy.
//!
//! Envoy takes a gRPC target from a filter as bytes, and first tries to parse them as a serialized
//! `envoy.config.core.v3.GrpcService`. A bare cluster name that happens to parse (`envoy`, `edge1`) ends the whole
//! process, so the filter always sends the real message.

use prost::Message;

/// The longest cluster name, in bytes, whose message is valid UTF-8. The SDK takes the message as a `&str`, and from
/// 128 bytes on a protobuf length needs a byte that UTF-8 does not allow here.
pub const MAX_CLUSTER_NAME: usize = 120;

const AUTHORITY: &str = "ebb";

/// `envoy.config.core.v3.GrpcService`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct GrpcService {
    #[prost(message, optional, tag = "1")]
    envoy_grpc: Option<EnvoyGrpc>,
}

/// `envoy.config.core.v3.GrpcService.EnvoyGrpc`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct EnvoyGrpc {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(string, tag = "2")]
    authority: String,
}

/// The serialized `GrpcService` for a cluster; `None` if the name is longer than [`MAX_CLUSTER_NAME`].
pub fn serialize(cluster_name: &str) -> Option<String> {
    let envoy_grpc = EnvoyGrpc {
        cluster_name: cluster_name.to_owned(),
        authority: AUTHORITY.to_owned(),
    };
    let service = GrpcService {
        envoy_grpc: Some(envoy_grpc),
    };
    String::from_utf8(service.encode_to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_parse_as_a_message_are_wrapped() {
        for name in [
            "envoy",
            "edge1",
            "my-cp",
            "management",
            "ebb_control_plane",
            "größe",
        ] {
            let service = serialize(name).unwrap();
            let inner = GrpcService::decode(service.as_bytes())
                .unwrap()
                .envoy_grpc
                .unwrap();
            assert_eq!(inner.cluster_name, name);
            assert_eq!(inner.authority, AUTHORITY);
        }
    }

    #[test]
    fn the_bytes_are_what_envoy_expects() {
        assert_eq!(
            serialize("cp").unwrap().as_bytes(),
            b"\x0a\x09\x0a\x02cp\x12\x03ebb"
        );
    }

    #[test]
    fn the_limit_is_exact() {
        assert!(serialize(&"x".repeat(MAX_CLUSTER_NAME)).is_some());
        for longer in MAX_CLUSTER_NAME + 1..MAX_CLUSTER_NAME + 300 {
            assert!(serialize(&"x".repeat(longer)).is_none(), "{longer} bytes");
        }
    }
}
