//! Versions of Envoy, which want the same written otherwise.

use std::{fmt, str::FromStr};

/// A version of Envoy, as far as its configuration differs: the 40 of 1.40.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvoyVersion(u32);

impl EnvoyVersion {
    /// The first that the closer works with: before it Lua cannot close a connection.
    pub const OLDEST: Self = Self(37);
    /// The last that the tests run with.
    pub const NEWEST: Self = Self(40);
    /// The first that takes the capabilities of a plugin with its VM, and calls their old place deprecated.
    pub(super) const CAPABILITIES_OF_VM: Self = Self(40);
}

impl fmt::Display for EnvoyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

impl FromStr for EnvoyVersion {
    type Err = String;

    /// Reads `1.40`, or `1.40.0` as `envoy --version` says it.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            let digits = part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u32>().ok().filter(|_| digits)
        };
        let mut parts = text.split('.').map(number);
        let version = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(1)), Some(Some(minor)), None | Some(Some(_)), None) => Self(minor),
            _ => return Err(format!("`{text}` is no version of Envoy: write for example 1.40")),
        };
        let (oldest, newest) = (Self::OLDEST, Self::NEWEST);
        if version < oldest {
            Err(format!(
                "Envoy {version} cannot close a connection from Lua: use {oldest} or later"
            ))
        } else if version > newest {
            Err(format!(
                "what Envoy {version} wants is not known here, {newest} is the newest: use an ebb that knows it, or try {newest}"
            ))
        } else {
            Ok(version)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_envoy_says_them() {
        for (text, version) in [("1.37", 37), ("1.39.3", 39), ("1.40.0", 40)] {
            assert_eq!(text.parse(), Ok(EnvoyVersion(version)));
        }
        for (text, hint) in [
            ("1.36.9", "use 1.37 or later"),
            ("1.41", "1.40 is the newest"),
            ("", "for example 1.40"),
            ("1.+40", "for example 1.40"),
            ("1.40.0.0", "for example 1.40"),
            ("v1.40", "for example 1.40"),
            ("1.40.x", "for example 1.40"),
            ("2.1", "for example 1.40"),
        ] {
            let error = text.parse::<EnvoyVersion>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
