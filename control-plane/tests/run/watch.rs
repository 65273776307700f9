//! Following the processes: `WatchProcesses`, `ebb watch` and `ebb status`.

use ebb_proto::v1::{
    ProcessState, WatchProcessesRequest, WatchProcessesResponse, process_service_client::ProcessServiceClient,
};
use nix::sys::signal::Signal;

use crate::{grpc::Calls, world::World};

#[test]
fn whoever_watches_hears_of_every_change_until_the_end() {
    let mut world = World::new();
    let config = [
        world.recorder("top", "depends_on = [\"base\"]"),
        world.recorder("base", ""),
    ]
    .concat();
    world.ready(&config);
    world.noted("top start");
    world.noted("base start");
    let calls = Calls::to(&world);
    let mut client = ProcessServiceClient::new(calls.channel.clone());
    let watched = calls
        .runtime
        .block_on(client.watch_processes(WatchProcessesRequest {}));
    let mut watched = watched.expect("a stream").into_inner();
    let mut next = || {
        let message: Result<Option<WatchProcessesResponse>, _> = calls.runtime.block_on(watched.message());
        message.ok().flatten().map(|message| message.processes)
    };
    let first = next().expect("the current state first");
    let names: Vec<_> = first.iter().map(|process| process.name.as_str()).collect();
    assert_eq!(names, ["top", "base"]);
    for process in &first {
        assert_eq!(process.state(), ProcessState::Ready);
        assert!(process.pid != 0 && process.uptime.is_some(), "{process:?}");
    }
    world.signal(Signal::SIGTERM);
    let mut seen = Vec::new();
    while let Some(processes) = next() {
        seen.extend(processes.first().map(|top| (top.state(), top.exit.clone())));
    }
    let exited = (ProcessState::Exited, "exited with code 0".to_owned());
    assert!(
        seen.iter().any(|(state, _)| *state == ProcessState::Stopping) && seen.contains(&exited),
        "{seen:?}"
    );
    assert_eq!(world.ends(), 0);
}

#[test]
fn status_shows_the_processes() {
    let mut world = World::new();
    world.ready(&world.recorder("a", ""));
    world.noted("a start");
    let text = String::from_utf8(world.ebb(&["status"]).stdout).expect("UTF-8");
    let words = |start: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no {start} in {text}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(
        words("PROCESS"),
        ["PROCESS", "STATE", "PID", "UPTIME", "WAITS", "FOR"]
    );
    let process = words("a ");
    assert_eq!(process[..2], ["a", "ready"]);
    assert!(process[2].parse::<u32>().is_ok(), "{process:?}");
    world.status("its uptime is told", |status| {
        status["processes"][0]["uptime_ms"].as_u64() > Some(0)
    });
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}
