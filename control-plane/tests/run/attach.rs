//! Processes that Ebb did not start.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;

use crate::world::{World, quoted};

/// Killed with the test.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn other(world: &World) -> Other {
    let child = Command::new("sh")
        .arg(world.path("recorder.sh"))
        .env("NAME", "other")
        .env("JOURNAL", world.path("journal"))
        .stdin(Stdio::null())
        .spawn()
        .expect("started");
    world.noted("other start");
    Other(child)
}

#[test]
fn an_attached_process_is_stopped_in_its_place() {
    let mut world = World::new();
    let mut other = other(&world);
    fs::write(world.path("other.pid"), format!("{}\n", other.0.id())).expect("pid file");
    let config = format!(
        "{}{}[[process]]\nname = \"other\"\nattach = {}\ndepends_on = [\"base\"]\n",
        world.recorder("top", "depends_on = [\"other\"]"),
        world.recorder("base", ""),
        quoted(&world.path("other.pid")),
    );
    world.ready(&config);
    world.noted("top start");
    world.noted("base start");
    let pid = other.0.id();
    world.status("its pid is known", |status| status["processes"][2]["pid"] == pid);
    world.signal(Signal::SIGTERM);
    // The zombie is the test's, and stays until it is waited for: a pidfd tells all the same.
    assert_eq!(world.ends(), 0);
    assert!(other.0.wait().expect("waited").success());
    let journal = world.journal();
    assert_eq!(
        journal[journal.len() - 6..],
        [
            "top term",
            "top exit",
            "other term",
            "other exit",
            "base term",
            "base exit"
        ]
    );
}

#[test]
fn the_death_of_an_attached_process_is_noticed() {
    let mut world = World::new();
    let mut other = other(&world);
    let config = format!(
        "{}[[process]]\nname = \"other\"\nattach = {}\ncritical = true\n",
        world.recorder("base", ""),
        other.0.id(),
    );
    world.ready(&config);
    world.noted("base start");
    other.0.kill().expect("killed");
    assert_eq!(world.ends(), 1);
    assert!(
        world.read("err").contains("critical process other exited"),
        "{}",
        world.read("err")
    );
}

#[test]
fn what_cannot_be_attached_fails_the_start() {
    let mut world = World::new();
    let config = format!(
        "{}[[process]]\nname = \"other\"\nattach = {}\n",
        world.recorder("base", ""),
        quoted(&world.path("no.pid")),
    );
    world.start(&config);
    assert_eq!(world.ends(), 1);
    assert!(
        world
            .read("err")
            .contains("other did not start: cannot read the pid file"),
        "{}",
        world.read("err")
    );
}
