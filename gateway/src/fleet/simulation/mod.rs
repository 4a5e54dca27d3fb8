//! A fleet in virtual time: how the policies compare when many gateways, each of which sees its own requests alone,
//! share many batching endpoints of unequal speed.
//!
//! The clusters, leases and policies are the gateway's own; only the endpoints and the clock are made up. An endpoint
//! runs up to `BATCH` waiting requests at a time in `8 + 2n` milliseconds, a slow one in four times that, give or take
//! a tenth. Requests arrive by a Poisson process, each at a random gateway. The same seed, the same figures.
//!
//! What still waits at the end counts with the time that it has waited: a policy that lets queues grow without bound
//! must not look better for answering less.

mod chart;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use forebay_config::gateway::Policy;

use super::lease::tests::{POLICIES, cluster};
use super::{Ask, Bearings, Cluster, Lease};
use crate::traffic::retry::Outcome;

const BATCH: usize = 8;
const SLOWNESS: f64 = 4.0;
const JITTER: f64 = 0.1;

/// What is simulated.
#[derive(Debug, Clone, Copy)]
struct Scene {
    endpoints: u16,
    gateways: usize,
    /// One of so many endpoints is slow.
    slow: u16,
    /// As a share of what the fleet can do in full batches.
    load: f64,
    /// Seconds that are not measured, and seconds that are.
    warm_up: f64,
    measured: f64,
    seed: u64,
}

/// What it came to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    requests: usize,
    /// Milliseconds.
    p50: f64,
    p99: f64,
    /// Standard deviation of the mean number of requests at an endpoint, as a share of the mean over all.
    spread: f64,
    /// Mean size of the batches.
    batch: f64,
}

/// An endpoint as it is, not as a gateway sees it.
#[derive(Default)]
struct Server {
    slowness: f64,
    waiting: VecDeque<Request>,
    running: Vec<Request>,
    /// Seconds that requests spent here.
    spent: f64,
}

struct Request {
    lease: Lease,
    arrived: f64,
}

struct Run {
    scene: Scene,
    start: Instant,
    random: fastrand::Rng,
    clusters: Vec<Cluster>,
    servers: Vec<Server>,
    /// Nanoseconds, so that they can be ordered, and whose batch it is.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    latencies: Vec<f64>,
    batches: usize,
}

impl Run {
    fn new(scene: Scene, policy: Policy) -> Self {
        let start = Instant::now();
        let server = |number: u16| Server {
            slowness: if number.is_multiple_of(scene.slow) {
                SLOWNESS
            } else {
                1.0
            },
            ..Server::default()
        };
        Self {
            start,
            random: fastrand::Rng::with_seed(scene.seed),
            clusters: (0..scene.gateways)
                .map(|_| cluster(scene.endpoints, policy, start))
                .collect(),
            servers: (0..scene.endpoints).map(server).collect(),
            ends: BinaryHeap::new(),
            latencies: Vec::new(),
            batches: 0,
            scene,
        }
    }

    fn figures(mut self) -> Figures {
        let capacity: f64 = self
            .servers
            .iter()
            .map(|server| BATCH as f64 / (server.slowness * batch_time(BATCH)))
            .sum();
        let rate = capacity * self.scene.load;
        let end = self.scene.warm_up + self.scene.measured;
        let mut arrival = 0.0;
        loop {
            arrival += -(1.0 - self.random.f64()).ln() / rate;
            self.finish_until(arrival.min(end));
            if arrival > end {
                break;
            }
            self.place(arrival);
        }
        let waiting = self.servers.iter_mut().enumerate();
        let waiting = waiting.flat_map(|(number, server)| {
            let left = server.waiting.drain(..).chain(server.running.drain(..));
            left.map(move |request| (number, request.arrived))
                .collect::<Vec<_>>()
        });
        for (number, arrived) in waiting.collect::<Vec<_>>() {
            self.record(number, arrived, end);
        }
        assert!(self.clusters.iter().all(|cluster| cluster.active() == 0));
        self.sum_up()
    }

    fn at(&self, time: f64) -> Instant {
        self.start + Duration::from_secs_f64(time)
    }

    /// A request arrives.
    fn place(&mut self, time: f64) {
        let gateway = self.random.usize(..self.clusters.len());
        let bearings = Bearings {
            // Of a hundred thousand sessions.
            key: Some(self.random.u64(..100_000)),
            ..Bearings::default()
        };
        let ask = Ask {
            random: self.random.u64(..),
            ..Ask::new(&[], self.at(time)).with(bearings)
        };
        let lease = self.clusters[gateway].lease(&ask).ok();
        let lease = lease.expect("every endpoint takes requests");
        let number = lease.index;
        self.servers[number].waiting.push_back(Request {
            lease,
            arrived: time,
        });
        if self.servers[number].running.is_empty() {
            self.begin(number, time);
        }
    }

    /// The next batch of a server that is free.
    fn begin(&mut self, number: usize, time: f64) {
        let play = 1.0 + JITTER * (2.0 * self.random.f64() - 1.0);
        let server = &mut self.servers[number];
        let size = server.waiting.len().min(BATCH);
        if size == 0 {
            return;
        }
        server.running.extend(server.waiting.drain(..size));
        if time >= self.scene.warm_up {
            self.batches += 1;
        }
        let end = time + server.slowness * batch_time(size) * play;
        self.ends.push(Reverse(((end * 1e9) as u64, number)));
    }

    /// All batches that end before then.
    fn finish_until(&mut self, time: f64) {
        while let Some(Reverse((nanos, number))) = self.ends.peek().copied() {
            let end = nanos as f64 / 1e9;
            if end > time {
                return;
            }
            self.ends.pop();
            let now = self.at(end);
            for request in std::mem::take(&mut self.servers[number].running) {
                request.lease.finish(Outcome::Success, now);
                self.record(number, request.arrived, end);
            }
            self.begin(number, end);
        }
    }

    fn record(&mut self, number: usize, arrived: f64, end: f64) {
        if arrived >= self.scene.warm_up {
            self.latencies.push(end - arrived);
            self.servers[number].spent += end - arrived;
        }
    }

    fn sum_up(mut self) -> Figures {
        self.latencies.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let place = (self.latencies.len() as f64 * share) as usize;
            self.latencies.get(place).copied().unwrap_or(0.0) * 1e3
        };
        let count = self.servers.len() as f64;
        let mean = self.servers.iter().map(|server| server.spent).sum::<f64>() / count;
        let squares = self
            .servers
            .iter()
            .map(|server| (server.spent - mean).powi(2));
        Figures {
            requests: self.latencies.len(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            spread: (squares.sum::<f64>() / count).sqrt() / mean,
            batch: self.latencies.len() as f64 / self.batches.max(1) as f64,
        }
    }
}

/// Seconds for a batch of this size on a server that is not slow.
fn batch_time(size: usize) -> f64 {
    (8.0 + 2.0 * size as f64) / 1e3
}

fn simulate(scene: Scene, policy: Policy) -> Figures {
    Run::new(scene, policy).figures()
}

const SMALL: Scene = Scene {
    endpoints: 40,
    gateways: 4,
    slow: 10,
    load: 0.6,
    warm_up: 1.0,
    measured: 2.0,
    seed: 7,
};

#[test]
fn the_same_seed_gives_the_same_figures() {
    let scene = Scene {
        warm_up: 0.2,
        measured: 0.2,
        ..SMALL
    };
    for policy in POLICIES {
        assert_eq!(simulate(scene, policy), simulate(scene, policy));
    }
}

#[test]
fn what_looks_at_the_load_beats_what_does_not() {
    let p99 = |policy| simulate(SMALL, policy).p99;
    let blind = p99(Policy::RoundRobin).min(p99(Policy::Random));
    for policy in [Policy::LeastWork, Policy::LeastRequest] {
        let p99 = p99(policy);
        assert!(p99 < 0.5 * blind, "{policy:?}: {p99} ms beside {blind} ms");
    }
}

/// Draws `docs/balancing.svg`:
/// `cargo test --release -p forebay-gateway thousand_endpoints -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes, and is meant for a release build"]
fn a_thousand_endpoints_behind_fifty_gateways() {
    let scene = |load| Scene {
        endpoints: 1_000,
        gateways: 50,
        slow: 10,
        load,
        warm_up: 3.0,
        measured: 3.0,
        seed: 7,
    };
    let rows = POLICIES.map(|policy| {
        let figures = [0.6, 0.85].map(|load| simulate(scene(load), policy));
        println!("{:>14}: {figures:?}", policy.name());
        (policy.name(), figures)
    });
    let picture = chart::draw(&rows);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/balancing.svg");
    std::fs::write(&path, picture).expect("a writable folder");
}
