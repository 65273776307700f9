//! Values of the configuration that are written as text.

use std::{fmt, marker::PhantomData, path::PathBuf, str::FromStr, time::Duration};

use nix::{
    sys::signal::Signal,
    unistd::{Gid, Group, Uid, User},
};
use serde::{Deserialize, Deserializer, de};

use crate::address::{Address, ParseAddressError};

/// The longest duration that is accepted: longer ones are mistakes, and clocks overflow on them.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads `250ms`, `30s` or `5m`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= DURATION_MAX => Ok(duration),
        Ok(_) => Err("longer than a year: write a shorter duration".to_owned()),
        Err(error) => Err(format!(
            "{error}: write a duration such as \"250ms\", \"30s\" or \"5m\""
        )),
    }
}

/// A duration written as `"250ms"`, `"30s"` or `"5m"`; a bare 0 is accepted too.
#[derive(Clone, Copy, Debug)]
pub(super) struct DurationText(pub(super) Duration);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = DurationText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"250ms\", \"30s\" or \"5m\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                match value {
                    0 => Ok(DurationText(Duration::ZERO)),
                    _ => Err(E::custom(format!(
                        "a duration needs its unit: write \"{value}s\" or \"{value}ms\""
                    ))),
                }
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
                parse_duration(value).map(DurationText).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Whatever reads itself from a string and says in its error what to write.
#[derive(Clone, Debug)]
pub(super) struct Text<T>(pub(super) T);

impl<'de, T> Deserialize<'de> for Text<T>
where
    T: FromStr<Err: fmt::Display>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Visitor<T> {
            type Value = Text<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
                value.parse().map(Text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor(PhantomData))
    }
}

/// A signal by its name, `SIGTERM` or `TERM`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignalName(pub(super) Signal);

impl FromStr for SignalName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = if text.starts_with("SIG") {
            text.to_owned()
        } else {
            format!("SIG{text}")
        };
        match name.parse() {
            Ok(Signal::SIGSTOP) => Err("SIGSTOP ends no process: write for example \"SIGTERM\"".to_owned()),
            Ok(signal) => Ok(Self(signal)),
            Err(_) => Err("no such signal: write its name, for example \"SIGTERM\"".to_owned()),
        }
    }
}

/// Signals that processes may have relayed: those that Ebb can receive, and that are no stop, no fault and no end of a child.
pub const RELAYABLE: [Signal; 12] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGURG,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
];

/// One of [`RELAYABLE`].
#[derive(Clone, Copy, Debug)]
pub(super) struct RelayedSignal(pub(super) Signal);

impl FromStr for RelayedSignal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let SignalName(signal) = text.parse()?;
        if RELAYABLE.contains(&signal) {
            return Ok(Self(signal));
        }
        let why = match signal {
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => "stops Ebb, in order",
            _ => "is not one that can be passed on",
        };
        Err(format!("{signal} {why}: write for example \"SIGUSR1\""))
    }
}

/// An HTTP resource: a server and a path on it, written `unix:/socket:/path`, `host:port/path` or `http://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// The server.
    pub address: Address,
    /// The path, with its leading slash.
    pub path: String,
}

impl FromStr for HttpTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("https://") {
            return Err("https is not spoken: write \"http://host:port/path\"".to_owned());
        }
        let (address, path) = if let Some(rest) = text.strip_prefix("unix:") {
            match rest.split_once(":/") {
                Some((socket, path)) => (format!("unix:{socket}"), format!("/{path}")),
                None => (text.to_owned(), "/".to_owned()),
            }
        } else {
            let rest = text.strip_prefix("http://").unwrap_or(text);
            match rest.split_once('/') {
                Some((server, path)) => (server.to_owned(), format!("/{path}")),
                None => (rest.to_owned(), "/".to_owned()),
            }
        };
        if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("the path of a URL has no spaces: percent-encode it".to_owned());
        }
        let address = address
            .parse()
            .map_err(|error| format!("{error} (for HTTP: \"unix:/socket:/path\" or \"host:port/path\")"))?;
        Ok(Self { address, path })
    }
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(_) => write!(f, "{}:{}", self.address, self.path),
            Address::Tcp { .. } => write!(f, "{}{}", self.address, self.path),
        }
    }
}

/// Where Envoy's admin endpoint is, written `unix:/socket`, `host:port` or `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAddress(pub Address);

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("https://") {
            return Err("https is not spoken: write \"http://host:port\"".to_owned());
        }
        let server = match text.strip_prefix("http://") {
            Some(rest) => rest.strip_suffix('/').unwrap_or(rest),
            None => text,
        };
        let is_path = server.starts_with("unix:") || server.starts_with(['/', '.']);
        if server.contains('/') && !server.contains("://") && !is_path {
            return Err(
                "names a path, and Envoy's admin endpoint is all of a server: write \"host:port\"".to_owned(),
            );
        }
        let parsed = server.parse();
        parsed
            .map(Self)
            .map_err(|error: ParseAddressError| error.to_string())
    }
}

/// Whom a process runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group; supplementary groups are dropped.
    pub gid: u32,
}

impl FromStr for Identity {
    type Err = String;

    /// `user`, `user:group`, `uid` or `uid:gid`. A bare name takes its primary group; a bare number takes the
    /// group of that user, or the same number where the system does not know it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let known = |found: nix::Result<Option<User>>| {
            found.map_err(|error| format!("cannot look up the user \"{user}\": {error}"))
        };
        let (uid, primary) = if let Ok(uid) = user.parse::<u32>() {
            let primary = known(User::from_uid(Uid::from_raw(uid)))?.map_or(uid, |user| user.gid.as_raw());
            (uid, primary)
        } else {
            let found = known(User::from_name(user))?
                .ok_or_else(|| format!("no user \"{user}\" here: write a known name or \"uid:gid\""))?;
            (found.uid.as_raw(), found.gid.as_raw())
        };
        let gid = match group {
            None => primary,
            Some(group) => match group.parse::<u32>() {
                Ok(gid) => gid,
                Err(_) => Group::from_name(group)
                    .map_err(|error| format!("cannot look up the group \"{group}\": {error}"))?
                    .map(|group| group.gid)
                    .map(Gid::as_raw)
                    .ok_or_else(|| format!("no group \"{group}\" here: write a known name or a number"))?,
            },
        };
        Ok(Self { uid, gid })
    }
}

/// Where the pid of a process that Ebb did not start comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachTo {
    /// The pid itself; at least 2.
    Pid(i32),
    /// A file that holds the pid, read when the process is attached.
    PidFile(PathBuf),
}

impl<'de> Deserialize<'de> for AttachTo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = AttachTo;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pid or the path of a pid file")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                match i32::try_from(value) {
                    Ok(pid) if pid > 1 => Ok(AttachTo::Pid(pid)),
                    _ => Err(E::custom("not the pid of a process that can be stopped")),
                }
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
                if value.is_empty() {
                    return Err(E::custom("write a pid or the path of a pid file"));
                }
                Ok(AttachTo::PidFile(PathBuf::from(value)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_targets_are_read_and_written_back() {
        for (text, written) in [
            ("unix:/run/admin.sock:/ready", "unix:/run/admin.sock:/ready"),
            ("unix:/run/admin.sock", "unix:/run/admin.sock:/"),
            ("127.0.0.1:9901/ready?x=1", "127.0.0.1:9901/ready?x=1"),
            ("http://[::1]:80", "[::1]:80/"),
        ] {
            let target: HttpTarget = text.parse().expect(text);
            assert_eq!(target.to_string(), written);
        }
        for text in [
            "https://x:1/",
            "localhost",
            "http://x:1/a b",
            "unix:",
            "ftp://x:1/",
        ] {
            assert!(text.parse::<HttpTarget>().is_err(), "{text}");
        }
    }

    #[test]
    fn admin_endpoints_and_checks_are_written_alike() {
        for (text, written) in [
            ("unix:/run/admin.sock", "unix:/run/admin.sock"),
            ("127.0.0.1:9901", "127.0.0.1:9901"),
            ("http://127.0.0.1:9901", "127.0.0.1:9901"),
            ("http://[::1]:9901/", "[::1]:9901"),
        ] {
            let AdminAddress(address) = text.parse().expect(text);
            assert_eq!(address.to_string(), written);
            // What is asked for readiness is written so, too, and then its path.
            let between = match address {
                Address::Unix(_) => ":/",
                Address::Tcp { .. } => "/",
            };
            let target = format!("{}{between}ready", text.trim_end_matches('/'));
            let target: HttpTarget = target.parse().expect(text);
            assert_eq!((target.address, target.path.as_str()), (address, "/ready"));
        }
        for (text, hint) in [
            ("https://a:1", "http://host:port"),
            ("http://a:1/ready", "host:port"),
            ("a:1/ready", "host:port"),
            ("ftp://a:1", "without a scheme"),
            ("/run/admin.sock", "unix:/run/admin.sock"),
            ("a", "host:port"),
        ] {
            let error = text.parse::<AdminAddress>().expect_err(text);
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn identities_are_resolved() {
        assert_eq!("root".parse(), Ok(Identity { uid: 0, gid: 0 }));
        assert_eq!(
            "12345".parse(),
            Ok(Identity {
                uid: 12345,
                gid: 12345
            })
        );
        assert_eq!("0:7".parse(), Ok(Identity { uid: 0, gid: 7 }));
        let error = "no-such-user-here".parse::<Identity>().expect_err("unknown");
        assert!(error.contains("no-such-user-here"), "{error}");
    }

    #[test]
    fn signals_are_read_by_name() {
        assert!(matches!("SIGQUIT".parse(), Ok(SignalName(Signal::SIGQUIT))));
        assert!(matches!("INT".parse(), Ok(SignalName(Signal::SIGINT))));
        assert!("SIGSTOP".parse::<SignalName>().is_err());
        assert!("15".parse::<SignalName>().is_err());
        assert!(matches!("HUP".parse(), Ok(RelayedSignal(Signal::SIGHUP))));
        for (name, why) in [
            ("SIGTERM", "stops Ebb"),
            ("SIGKILL", "is not one that can be passed on"),
            ("SIGCHLD", "is not one that can be passed on"),
            ("SIGSEGV", "is not one that can be passed on"),
            ("SIGNAL", "no such signal"),
        ] {
            let error = name.parse::<RelayedSignal>().expect_err(name);
            assert!(error.contains(why), "{name}: {error}");
        }
    }
}
