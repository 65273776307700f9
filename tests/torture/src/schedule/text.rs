//! Schedules as people read them.

use std::fmt;

use super::{
    ClientPlan, DrainPlan, EnvoyPlan, Evidence, Pace, Policy, Protocol, RequestPlan, Schedule, Scope,
    WorldPlan,
};

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.world)?;
        for (number, round) in self.rounds.iter().enumerate() {
            writeln!(f, "  round {number}")?;
            for drain in &round.drains {
                writeln!(f, "    {:>5} {drain}", drain.at)?;
            }
            for client in &round.clients {
                writeln!(f, "          {client}")?;
            }
            for fault in &round.faults {
                writeln!(f, "    {:>5} {:?}", fault.at, fault.fault)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for WorldPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relay = if self.relay { ", relay" } else { "" };
        let trap = if self.trap { ", can trap" } else { "" };
        write!(f, "state {:?}{relay}{trap}", self.state)?;
        for (number, envoy) in self.envoys.iter().enumerate() {
            write!(f, "; Envoy {number}: {envoy}")?;
        }
        Ok(())
    }
}

impl fmt::Display for EnvoyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let admin = if self.admin { "admin" } else { "no admin" };
        write!(
            f,
            "{:?} node {} workers {} filters {:?} {admin} reconnect {:?}",
            self.version, self.node, self.workers, self.order, self.reconnect_max_ms
        )
    }
}

impl fmt::Display for DrainPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "drain {} {} by {:?}", self.scope, self.policy, self.via)?;
        if self.waits {
            f.write_str(", once the control plane is there")?;
        }
        if let Some(at) = self.cancel_at {
            write!(f, ", cancelled at {at}")?;
        }
        if let Some(stop) = self.then {
            let signal = if stop.kill { "SIGKILL" } else { "SIGTERM" };
            write!(f, ", then {signal} to Envoy {}", stop.envoy)?;
        }
        Ok(())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Listener(listener) => write!(f, "listener {}", listener.name()),
            Self::ListenerOf(node, listener) => write!(f, "listener {} of node {node}", listener.name()),
            Self::Upstream(endpoint) => write!(f, "upstream {endpoint:?}"),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeout {} quiet {}", self.timeout, self.quiet)?;
        if self.announce > 0 {
            write!(f, " announce {}", self.announce)?;
        }
        if self.ramp > 0 {
            write!(f, " ramp {}", self.ramp)?;
        }
        if self.evidence != Evidence::Auto {
            write!(f, " evidence {:?}", self.evidence)?;
        }
        f.write_str(if self.abort { " abort" } else { "" })
    }
}

impl fmt::Display for ClientPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client of {} on Envoy {}", self.listener.name(), self.envoy)?;
        match self.protocol {
            Protocol::Http1 => {}
            Protocol::Http2(window) => write!(f, " HTTP/2 window {window}")?,
        }
        if let Pace::Slow(bytes, pause) = self.pace {
            write!(f, " reads {bytes} B every {pause} ms")?;
        }
        self.requests
            .iter()
            .try_for_each(|request| write!(f, "; {request}"))
    }
}

impl fmt::Display for RequestPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            authz_ms,
            hold_ms,
            bytes,
            endpoint,
        } = self;
        write!(
            f,
            "at {at} {endpoint:?} authz {authz_ms} hold {hold_ms} bytes {bytes}"
        )
    }
}
