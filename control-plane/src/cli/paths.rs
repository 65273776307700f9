//! Where things are when nobody says otherwise.

use std::{env, path::PathBuf};

use crate::address::Address;

/// What the defaults depend on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Effective user id of the process.
    pub uid: u32,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process. A variable that is no absolute path counts as unset, as the XDG base directory
    /// specification wants it.
    #[must_use]
    pub fn of_this_process() -> Self {
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        Self {
            uid: rustix::process::geteuid().as_raw(),
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
            state_home: absolute("XDG_STATE_HOME"),
            home: absolute("HOME"),
        }
    }

    /// Where the control plane listens, and where its clients look for it.
    #[must_use]
    pub fn address(&self) -> Address {
        let directory = match (&self.runtime_dir, self.uid) {
            (_, 0) => PathBuf::from("/run/ebb"),
            (Some(directory), _) => directory.join("ebb"),
            (None, uid) => PathBuf::from(format!("/tmp/ebb-{uid}")),
        };
        Address::Unix(directory.join("ebb.sock"))
    }

    /// Where the control plane keeps its durable state; none if the user has no home.
    #[must_use]
    pub fn state(&self) -> Option<PathBuf> {
        if self.uid == 0 {
            return Some(PathBuf::from("/var/lib/ebb"));
        }
        let home_state = || Some(self.home.as_ref()?.join(".local/state"));
        Some(self.state_home.clone().or_else(home_state)?.join("ebb"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_the_places_of_a_system_service() {
        let root = Surroundings {
            uid: 0,
            runtime_dir: Some("/run/user/0".into()),
            ..Surroundings::default()
        };
        assert_eq!(root.address().to_string(), "unix:/run/ebb/ebb.sock");
        assert_eq!(root.state(), Some("/var/lib/ebb".into()));
    }

    #[test]
    fn a_user_has_the_xdg_places_and_then_the_usual_ones() {
        let mut user = Surroundings {
            uid: 1000,
            runtime_dir: Some("/run/user/1000".into()),
            state_home: Some("/home/ann/state".into()),
            home: Some("/home/ann".into()),
        };
        assert_eq!(user.address().to_string(), "unix:/run/user/1000/ebb/ebb.sock");
        assert_eq!(user.state(), Some("/home/ann/state/ebb".into()));
        user.runtime_dir = None;
        user.state_home = None;
        assert_eq!(user.address().to_string(), "unix:/tmp/ebb-1000/ebb.sock");
        assert_eq!(user.state(), Some("/home/ann/.local/state/ebb".into()));
        user.home = None;
        assert_eq!(user.state(), None);
    }
}
