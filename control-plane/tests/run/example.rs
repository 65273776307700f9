//! The shipped example of a configuration.

use std::{fs, path::Path};

use ebb::config::{Origin, Restart, parse};

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy-config/ebb.toml");
    fs::read_to_string(path).expect("it is shipped")
}

#[test]
fn the_shipped_example_is_accepted() {
    let config = parse(&example(), None).expect("accepted");
    let names: Vec<&str> = config
        .processes
        .iter()
        .map(|process| process.name.as_str())
        .collect();
    assert_eq!(names, ["router", "policy-engine", "python-executor"]);
    let [router, engine, executor] = config.processes.as_slice() else {
        panic!("{names:?}")
    };
    assert_eq!(
        (&router.depends_on[..], &engine.depends_on[..]),
        (&[1][..], &[2][..])
    );
    assert!(router.drain.as_ref().is_some_and(|drain| drain.admin.is_some()));
    assert!(!engine.gate.is_empty() && matches!(engine.restart, Restart::OnFailure { .. }));
    assert!(executor.critical);
    let all = config.processes.iter();
    assert!(
        all.clone()
            .all(|process| matches!(process.origin, Origin::Command(_)))
    );
    assert!(all.clone().all(|process| process.ready.is_some()));
}

#[test]
fn the_keys_that_are_commented_out_in_it_are_accepted_as_well() {
    let mut uncommented = 0;
    let text: Vec<String> = example()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key)
                if key
                    .split_once('=')
                    .is_some_and(|(name, _)| !name.trim().contains(' ')) =>
            {
                uncommented += 1;
                key.to_owned()
            }
            _ => line.to_owned(),
        })
        .collect();
    assert!(uncommented >= 3, "this would show nothing: {text:#?}");
    if let Err(problems) = parse(&text.join("\n"), None) {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{problems:#?}");
    }
}
