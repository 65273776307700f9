//! `/ready` and `/live`.

use nix::sys::signal::Signal;

use crate::world::{World, eventually};

#[test]
fn ready_is_bad_from_the_announcement_on_and_live_is_not() {
    let mut world = World::new();
    let config = format!("[drain]\nannounce = \"1s\"\n{}", world.recorder("a", ""));
    world.ready(&config);
    world.noted("a start");
    assert_eq!(world.health("/live"), Some((200, "alive".to_owned())));
    assert_eq!(world.health("/nothing").map(|(status, _)| status), Some(404));
    world.signal(Signal::SIGTERM);
    let why = eventually("it is not ready", || {
        world
            .health("/ready")
            .filter(|(status, _)| *status == 503)
            .map(|(_, why)| why)
    });
    assert_eq!(why, "shutting down: received SIGTERM");
    assert_eq!(world.journal(), ["a start"], "it is only announced");
    assert_eq!(world.health("/live").map(|(status, _)| status), Some(200));
    assert_eq!(world.ends(), 0);
    assert!(!world.path("ebb.sock").exists(), "its socket is removed");
}

#[test]
fn one_that_is_started_in_the_place_of_a_killed_one_takes_its_sockets() {
    let mut world = World::new();
    let config = world.recorder("a", "");
    world.ready(&config);
    world.signal(Signal::SIGKILL);
    // Its processes outlive it; the world's end removes them.
    eventually("it is gone", || {
        std::os::unix::net::UnixStream::connect(world.path("ebb.sock")).err()
    });
    assert!(world.path("health.sock").exists());
    world.start(&config);
    world.until_ready();
    world.signal(Signal::SIGTERM);
}
