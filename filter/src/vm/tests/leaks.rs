//! Whatever order Envoy's callbacks come in, the counts are those of a naive model, and nothing is left at the end.

use std::collections::BTreeMap;

use ebb_proto::v1::{ListenerCounts, UpstreamCounts};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::request::{Look, Request};

const LISTENERS: [&str; 2] = ["a", "b"];
const ADDRESSES: [Option<&str>; 3] = [None, Some("10.0.0.1:80"), Some("10.0.0.2:80")];
/// The root contexts: two of `a` (the second replaces the first), one of `b`, two in clusters.
const ROOTS: u32 = 5;

#[derive(Clone, Debug)]
enum Callback {
    Configure {
        root: u32,
    },
    Remove {
        root: u32,
    },
    Create {
        root: u32,
    },
    RequestHeaders {
        which: usize,
        bodiless: bool,
        address: usize,
    },
    ResponseHeaders {
        which: usize,
        address: usize,
    },
    Destroy {
        which: usize,
    },
    Drain {
        upstream: bool,
    },
    Serve,
    NewStream,
    Pass,
}

fn callback() -> impl Strategy<Value = Callback> {
    let (root, which, address) = (0..ROOTS, 0..16_usize, 0..ADDRESSES.len());
    prop_oneof![
        2 => root.clone().prop_map(|root| Callback::Configure { root }),
        1 => root.clone().prop_map(|root| Callback::Remove { root }),
        8 => root.prop_map(|root| Callback::Create { root }),
        8 => (which.clone(), any::<bool>(), address.clone()).prop_map(|(which, bodiless, address)|
            Callback::RequestHeaders { which, bodiless, address }),
        6 => (which.clone(), address).prop_map(|(which, address)| Callback::ResponseHeaders { which, address }),
        6 => which.prop_map(|which| Callback::Destroy { which }),
        1 => any::<bool>().prop_map(|upstream| Callback::Drain { upstream }),
        1 => Just(Callback::Serve),
        1 => Just(Callback::NewStream),
        1 => Just(Callback::Pass),
    ]
}

struct Host(Option<&'static str>);

impl Look for Host {
    fn upstream_address(&self) -> Option<String> {
        self.0.map(str::to_owned)
    }

    fn path(&self) -> Option<Vec<u8>> {
        None
    }

    fn content_type(&self) -> Option<Vec<u8>> {
        None
    }

    fn port(&self) -> Option<u32> {
        None
    }

    fn is_probe(&self) -> bool {
        false
    }

    fn end_details(&self) -> Option<Vec<u8>> {
        None
    }
}

/// What the model knows of a context: where it should count.
struct Context {
    request: Request,
    root: u32,
    listener: Option<&'static str>,
    attempt: Option<&'static str>,
}

struct World {
    bench: Bench,
    /// The plugin of each root context that is configured.
    plugins: BTreeMap<u32, Rc<Plugin>>,
    contexts: Vec<Context>,
    next_context: u32,
    generation: u64,
}

impl World {
    fn new() -> Self {
        Self {
            bench: Bench::new(),
            plugins: BTreeMap::new(),
            contexts: Vec::new(),
            next_context: 100,
            generation: 0,
        }
    }

    fn apply(&mut self, callback: Callback) {
        match callback {
            Callback::Configure { root } => {
                let config = match root {
                    0 | 1 => config("a", ""),
                    2 => config("b", r#","upstreams":true,"detect_grpc":true"#),
                    _ => Config::parse(br#"{"role":"upstream","control_plane_cluster":"cp"}"#).unwrap(),
                };
                let plugin = self.bench.plugin(root, config);
                self.plugins.insert(root, plugin);
            }
            Callback::Remove { root } => {
                if self.plugins.remove(&root).is_some() {
                    // Envoy makes a context in the same call in which its first headers arrive, so none is without
                    // headers when its root goes.
                    self.contexts.retain(|context| {
                        context.root != root || context.listener.is_some() || context.attempt.is_some()
                    });
                    self.bench.remove(root);
                }
            }
            Callback::Create { root } => {
                if let Some(plugin) = self.plugins.get(&root) {
                    self.contexts.push(Context {
                        request: Request::new(self.next_context, Rc::clone(plugin)),
                        root,
                        listener: None,
                        attempt: None,
                    });
                    self.next_context += 1;
                }
            }
            Callback::RequestHeaders {
                which,
                bodiless,
                address,
            } => self.request_headers(which, bodiless, ADDRESSES[address]),
            Callback::ResponseHeaders { which, address } => self.response_headers(which, ADDRESSES[address]),
            Callback::Destroy { which } => self.destroy(which),
            Callback::Drain { upstream } => {
                let lease = Some(prost_types::Duration {
                    seconds: 60,
                    nanos: 0,
                });
                let upstream = if upstream { "10.0.0.1:80" } else { "" };
                let directive = Directive {
                    lease,
                    awaited: true,
                    upstream: upstream.to_owned(),
                    ..Directive::default()
                };
                self.command(vec![directive]);
            }
            Callback::Serve => self.command(Vec::new()),
            Callback::NewStream => {
                let token = self.bench.next_token - 1;
                let actions = self
                    .bench
                    .vm
                    .handle(Event::Closed { token, status: 14 }, self.bench.now);
                self.bench.run(actions);
            }
            Callback::Pass => self.bench.pass(ms(700)),
        }
    }

    fn command(&mut self, directives: Vec<Directive>) {
        self.generation += 1;
        self.bench.command(self.generation, directives);
    }

    /// Of one of the contexts, if there are any.
    fn pick(&self, which: usize) -> Option<usize> {
        which.checked_rem(self.contexts.len())
    }

    fn request_headers(&mut self, which: usize, bodiless: bool, address: Option<&'static str>) {
        let clusters = self.plugins.keys().any(|root| *root >= 3);
        let Some(index) = self.pick(which) else { return };
        let context = &mut self.contexts[index];
        let serving = self.bench.vm.is_serving();
        match context.root {
            3.. if context.attempt.is_none() => context.attempt = Some(address.unwrap_or_default()),
            0..=2 if context.listener.is_none() => {
                let counts_attempts = context.root == 2 && !clusters;
                context.listener = Some(LISTENERS[usize::from(context.root == 2)]);
                context.attempt = counts_attempts.then_some("");
            }
            _ => {}
        }
        let crossings = context.request.begin(serving, bodiless, &Host(address));
        self.bench.report(&crossings);
    }

    fn response_headers(&mut self, which: usize, address: Option<&'static str>) {
        let Some(index) = self.pick(which) else { return };
        let context = &mut self.contexts[index];
        if let (0..=2, Some(attempt), Some(address)) = (context.root, &mut context.attempt, address) {
            *attempt = address;
        }
        let crossings = context.request.answered(true, &Host(address));
        self.bench.report(&crossings);
    }

    fn destroy(&mut self, which: usize) {
        let Some(index) = self.pick(which) else { return };
        let crossings = self.contexts.swap_remove(index).request.end(true, &Host(None));
        self.bench.report(&crossings);
    }

    fn agree(&self) -> Result<(), TestCaseError> {
        let counts = &self.bench.vm.counts;
        let listeners: BTreeMap<_, _> = counts
            .listeners
            .report()
            .into_iter()
            .map(|counts| (counts.name, counts.in_flight))
            .collect();
        for name in LISTENERS {
            let expected = self
                .contexts
                .iter()
                .filter(|context| context.listener == Some(name))
                .count();
            let counted = listeners.get(name).copied();
            prop_assert_eq!(counted.unwrap_or(0), expected as u64, "listener {}", name);
            prop_assert!(counted.is_some() || expected == 0);
        }
        for listener in counts.listeners.iter() {
            prop_assert_eq!(listener.oldest(usize::MAX).len() as u64, listener.in_flight());
        }
        let upstreams: BTreeMap<_, _> = counts
            .upstreams
            .report()
            .into_iter()
            .map(|counts| (counts.address, counts.in_flight))
            .collect();
        for address in ADDRESSES.map(Option::unwrap_or_default) {
            let expected = self
                .contexts
                .iter()
                .filter(|context| context.attempt == Some(address))
                .count();
            let counted = upstreams.get(address).copied().unwrap_or(0);
            prop_assert_eq!(counted, expected as u64, "upstream `{}`", address);
        }
        Ok(())
    }

    /// Whoever waits hears of a zero within some milliseconds: a limiter may hold it back for that long.
    fn told(&mut self, upstream: bool) -> Result<(), TestCaseError> {
        if self.bench.vm.owner.is_none() {
            return Ok(());
        }
        self.bench.pass(ms(20));
        let Some((_, report)) = self.bench.sent.last() else {
            return Ok(());
        };
        let counts = &self.bench.vm.counts;
        if upstream {
            for address in ["", "10.0.0.1:80"] {
                let zero = |counts: Vec<UpstreamCounts>| {
                    counts
                        .iter()
                        .all(|counts| counts.address != address || counts.in_flight == 0)
                };
                let (told, is) = (zero(report.upstreams.clone()), zero(counts.upstreams.report()));
                prop_assert_eq!(told, is, "upstream `{}`", address);
            }
        } else {
            let zeros = |counts: Vec<ListenerCounts>| -> Vec<(String, bool)> {
                let counts = counts.into_iter();
                counts
                    .map(|counts| (counts.name, counts.in_flight == 0))
                    .collect()
            };
            prop_assert_eq!(zeros(report.listeners.clone()), zeros(counts.listeners.report()));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn nothing_leaks_in_any_order(callbacks in vec(callback(), 0..150), upstream: bool) {
        let mut world = World::new();
        for callback in callbacks {
            world.apply(callback);
            world.agree()?;
        }
        world.bench.pass(ms(20_000));
        world.apply(Callback::Drain { upstream });
        while !world.contexts.is_empty() {
            world.destroy(0);
            world.agree()?;
            world.told(upstream)?;
        }
        let counts = &world.bench.vm.counts;
        prop_assert!(counts.listeners.report().iter().all(|counts| counts.in_flight == 0));
        prop_assert!(counts.upstreams.report().iter().all(|counts| counts.in_flight == 0));
        for root in 0..ROOTS {
            world.apply(Callback::Remove { root });
        }
        prop_assert!(world.bench.vm.counts.listeners.report().is_empty(), "a listener is left behind");
        prop_assert!(!world.bench.vm.counts.upstreams.has_filters());
    }
}
