//! Where a gRPC server listens and where a client finds it: a Unix socket or a TCP port.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
};

/// The longest path that fits into `sockaddr_un` with its terminating NUL, in bytes.
const UNIX_PATH_MAX: usize = 107;

/// A Unix socket or a TCP port, written `unix:/path` or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Path of a Unix stream socket, at most 107 bytes.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// Name or IP address; an IPv6 address stands here without its brackets. Never empty.
        host: String,
        /// Port; 0 lets the system choose one when listening.
        port: u16,
    },
}

/// Why a text is not an [`Address`]: one line that says how to write it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// `unix:` with nothing behind it.
    #[error("`{0}` names no socket: write `unix:/path/to/socket`")]
    NoPath(String),
    /// The system cannot bind or connect a path that long.
    #[error("the socket path `{0}` is longer than {UNIX_PATH_MAX} bytes: choose a shorter one")]
    PathTooLong(String),
    /// A path without its `unix:`.
    #[error("`{0}` looks like a path: write `unix:{0}`")]
    BarePath(String),
    /// A URL, whose scheme this is not.
    #[error("`{0}` is a URL: write `host:port` or `unix:/path`, without a scheme")]
    Url(String),
    /// An IPv6 address whose port cannot be told from its last group.
    #[error("`{0}` is an IPv6 address without brackets: write `[address]:port`")]
    BareIpv6(String),
    /// Neither form.
    #[error("`{0}` is not an address: write `unix:/path` or `host:port`, the port from 0 to 65535")]
    Malformed(String),
}

impl Address {
    /// Whether only this machine can reach it: a Unix socket, a loopback address or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host
                        .parse::<IpAddr>()
                        .is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
        }
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let owned = || text.to_owned();
        if let Some(path) = text.strip_prefix("unix:") {
            // gRPC also writes `unix:///path`: there the authority between the slashes is empty.
            let path = if path.starts_with("///") {
                path.get(2..).unwrap_or(path)
            } else {
                path
            };
            return match path.len() {
                _ if path.contains('\0') => Err(ParseAddressError::Malformed(text.replace('\0', "\\0"))),
                0 => Err(ParseAddressError::NoPath(owned())),
                1..=UNIX_PATH_MAX => Ok(Self::Unix(PathBuf::from(path))),
                _ => Err(ParseAddressError::PathTooLong(path.to_owned())),
            };
        }
        if text.contains("://") {
            return Err(ParseAddressError::Url(owned()));
        }
        if text.starts_with(['/', '.']) {
            return Err(ParseAddressError::BarePath(owned()));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(ParseAddressError::BareIpv6(owned()));
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| ParseAddressError::Malformed(owned()))?;
        // Digits alone: `parse` would also take `+80`.
        let port = Some(port)
            .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|port| port.parse().ok())
            .ok_or_else(|| ParseAddressError::Malformed(owned()))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(ipv6) if ipv6.parse::<Ipv6Addr>().is_ok() => ipv6,
            Some(_) => return Err(ParseAddressError::Malformed(owned())),
            None if host.contains(':') => return Err(ParseAddressError::BareIpv6(owned())),
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(ParseAddressError::Malformed(owned()));
        }
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn both_forms_are_read_and_written_back() {
        let cases = [
            (
                "unix:/run/ebb/ebb.sock",
                Address::Unix("/run/ebb/ebb.sock".into()),
            ),
            ("unix:ebb.sock", Address::Unix("ebb.sock".into())),
            ("127.0.0.1:0", tcp("127.0.0.1", 0)),
            ("ebb.example.com:9001", tcp("ebb.example.com", 9001)),
            ("[::1]:65535", tcp("::1", 65535)),
        ];
        for (text, address) in cases {
            assert_eq!(text.parse(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string(), text);
        }
        assert_eq!(
            "unix:///run/ebb.sock".parse(),
            Ok(Address::Unix("/run/ebb.sock".into()))
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_cure() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_MAX));
        let cases = [
            ("", "write `unix:/path` or `host:port`"),
            ("localhost", "write `unix:/path` or `host:port`"),
            (":9000", "write `unix:/path` or `host:port`"),
            ("host:", "the port from 0 to 65535"),
            ("host:65536", "the port from 0 to 65535"),
            ("host:+80", "the port from 0 to 65535"),
            ("host name:80", "is not an address"),
            ("[::1:80", "write `[address]:port`"),
            ("[nonsense]:80", "is not an address"),
            ("::1", "write `[address]:port`"),
            ("fe80::1:zz:80", "write `[address]:port`"),
            ("unix:", "write `unix:/path/to/socket`"),
            ("/run/ebb.sock", "write `unix:/run/ebb.sock`"),
            ("http://127.0.0.1:80", "without a scheme"),
            (long.as_str(), "longer than 107 bytes"),
        ];
        for (text, hint) in cases {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(hint), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn loopback_is_what_only_this_machine_reaches() {
        for text in [
            "unix:/x",
            "127.0.0.1:1",
            "127.9.9.9:1",
            "localhost:1",
            "LocalHost:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(text.parse::<Address>().expect(text).is_loopback(), "{text}");
        }
        for text in [
            "0.0.0.0:1",
            "[::]:1",
            "10.0.0.1:1",
            "localhost.example.com:1",
            "ebb:1",
        ] {
            assert!(!text.parse::<Address>().expect(text).is_loopback(), "{text}");
        }
    }
}
