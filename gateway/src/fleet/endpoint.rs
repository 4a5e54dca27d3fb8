//! One endpoint as this gateway sees it: where it is, what is in flight there, how it has been doing.
//!
//! An `Endpoint` outlives the configuration that named it: a reload that names the same address with the same
//! blueprint keeps it, and with it the latency average, the breaker, the health and the open connections.

mod blueprint;
mod conduct;
mod readiness;
mod reports;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_config::gateway as config;
use http::HeaderValue;
use http::uri::Scheme;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

pub use self::blueprint::EndpointBlueprint;
use self::conduct::Conduct;
pub use self::view::EndpointView;
use super::ask::Ask;
use super::waiting::WaitingRoom;
use crate::security::tls::PeerTrust;
use crate::traffic::balance::Candidate;
use crate::traffic::breaker::{Breaker, BreakerState, Permit, Transition};
use crate::traffic::ewma::PeakEwma;
use crate::traffic::health::{HealthMachine, HealthState};
use crate::traffic::others::Others;
use crate::traffic::outlier::Standing;
use crate::traffic::retry::Outcome;
use crate::traffic::service_line::ServiceLine;
use crate::traffic::window::Window;
use crate::upstream::{Channels, Target};

/// Decay of the latency average and its value before the first answer; Finagle's and linkerd's defaults.
const EWMA_TAU: Duration = Duration::from_secs(10);
const EWMA_INITIAL: Duration = Duration::from_millis(30);
/// What a failure counts as, in latency: failing fast must not look fast (linkerd's default).
const FAILURE_PENALTY: Duration = Duration::from_secs(5);

pub struct Endpoint {
    pub blueprint: EndpointBlueprint,
    pub scheme: Scheme,
    /// The address as a header value, for `x-forebay-endpoint`.
    pub name_header: HeaderValue,
    pub target: Target,
    pub channels: Channels,
    /// For pingora's connector, which makes no use of `target`; None: plain text.
    pub trust: Option<PeerTrust>,
    pub counters: EndpointCounters,
    active: AtomicU32,
    /// Of the requests in flight.
    rows: AtomicU64,
    vital: Mutex<Vital>,
    /// Hash of the load report that came last.
    last_report: AtomicU64,
    born: Instant,
    /// Nanoseconds after `born` of the last answer of any kind.
    last_answer: AtomicU64,
    /// The same, of the last time a request came while none was in flight.
    busy_since: AtomicU64,
    /// The same, of the end of its last ejection.
    ejected_until: AtomicU64,
    /// A bit for each model that probes ask about.
    ready_models: AtomicU64,
    /// Told when it turns healthy.
    pub(super) recovered: Arc<Notify>,
    tasks: Mutex<Vec<AbortHandle>>,
}

struct Vital {
    health: Option<HealthMachine>,
    breaker: Option<Breaker>,
    latency: PeakEwma,
    line: ServiceLine,
    others: Others,
    /// Since when it takes traffic without interruption; while it takes none, of no meaning.
    well_since: Instant,
    /// Of its cluster, if that has a limit: told when the endpoint could take another request.
    room: Option<Arc<WaitingRoom>>,
    /// None: it is not compared with the others of its cluster.
    conduct: Option<Conduct>,
}

impl Vital {
    /// A request was answered.
    fn learn(&mut self, entry: &Entry, now: Instant) {
        let time = now.saturating_duration_since(entry.started);
        self.latency.observe(now, time);
        self.line.observe(now, entry.load, time);
    }

    /// What it did before it failed says nothing about it now.
    fn well_again(&mut self, now: Instant) {
        self.latency = PeakEwma::new(EWMA_TAU, EWMA_INITIAL, now);
        self.line = ServiceLine::new(now);
        self.others = Others::default();
        self.well_since = now;
        if let Some(conduct) = self.conduct.as_mut() {
            conduct.window.clear();
        }
    }
}

/// One request's passage, from `enter` to `leave`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    permit: Option<Permit>,
    pub started: Instant,
    pub rows: u32,
    /// Rows that were there when it came, its own included.
    load: f64,
}

impl Entry {
    pub(super) fn is_probe(&self) -> bool {
        self.permit.is_some_and(|permit| permit.is_probe())
    }

    /// Known to be made while no other endpoint takes requests.
    pub(super) fn lone(self) -> Self {
        Self {
            permit: self.permit.map(Permit::lone),
            ..self
        }
    }
}

#[derive(Default)]
pub struct EndpointCounters {
    pub requests: AtomicU64,
    pub failures: AtomicU64,
    pub cancelled: AtomicU64,
    pub probes_failed: AtomicU64,
    pub ejections: AtomicU64,
}

impl Endpoint {
    pub fn new(
        blueprint: EndpointBlueprint,
        target: Target,
        trust: Option<PeerTrust>,
        shards: usize,
        now: Instant,
    ) -> Arc<Self> {
        let name_header = HeaderValue::from_str(&blueprint.address)
            .unwrap_or_else(|_| HeaderValue::from_static("endpoint"));
        let vital = Vital {
            health: blueprint.health.as_ref().map(|health| {
                HealthMachine::new(health.healthy_threshold, health.unhealthy_threshold)
            }),
            breaker: blueprint.breaker.map(Breaker::new),
            latency: PeakEwma::new(EWMA_TAU, EWMA_INITIAL, now),
            line: ServiceLine::new(now),
            others: Others::default(),
            well_since: now,
            conduct: blueprint.outlier.map(|outlier| Conduct {
                window: Window::new(outlier.window),
                standing: Standing::new(now),
            }),
            room: None,
        };
        Arc::new(Self {
            scheme: if target.tls.is_some() {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            },
            channels: Channels::new(target.clone(), shards),
            blueprint,
            name_header,
            target,
            trust,
            counters: EndpointCounters::default(),
            active: AtomicU32::new(0),
            rows: AtomicU64::new(0),
            vital: Mutex::new(vital),
            last_report: AtomicU64::new(0),
            born: now,
            last_answer: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            ready_models: AtomicU64::new(u64::MAX),
            recovered: Arc::default(),
            tasks: Mutex::default(),
        })
    }

    /// Takes over what was learned about the same server under other settings, its health included.
    pub fn inherit(&self, former: &Self) {
        let former = former.vital.lock();
        let mut vital = self.vital.lock();
        vital.latency = former.latency;
        vital.line = former.line.clone();
        vital.well_since = former.well_since;
        let was_healthy = former
            .health
            .as_ref()
            .is_none_or(|health| health.state() == HealthState::Healthy);
        if was_healthy && let Some(health) = vital.health.as_mut() {
            // One pass suffices for an endpoint that is unknown.
            health.record(true);
        }
    }

    /// This endpoint as a choice at position `index`, or None when it may not take traffic now.
    /// Only what `policy` looks at is computed. With `panic` one that fails its checks may too, if it ever passed one.
    pub fn candidate(
        &self,
        index: usize,
        weight: u32,
        policy: config::Policy,
        panic: bool,
        ask: &Ask<'_>,
    ) -> Option<Candidate> {
        let now = ask.now;
        let vital = self.vital.lock();
        let healthy = vital
            .health
            .as_ref()
            .is_none_or(|health| match health.state() {
                HealthState::Healthy => true,
                HealthState::Unhealthy => panic,
                HealthState::Unknown => false,
            });
        let admitted = vital
            .breaker
            .as_ref()
            .is_none_or(|breaker| breaker.would_admit(now));
        (healthy && admitted).then(|| Candidate {
            index,
            weight,
            active: self.active.load(Ordering::Relaxed),
            cost: match policy {
                config::Policy::PeakEwma => vital.latency.get(now),
                _ => 0.0,
            },
            expectation: match policy {
                config::Policy::LeastWork => {
                    let load = self.rows() as f64 + f64::from(ask.bearings.rows);
                    let expectation = vital.line.expectation(now, load, self.silence(now));
                    Some(expectation.beside(vital.others.now(now)))
                }
                _ => None,
            },
        })
    }

    /// Asks the breaker for leave and counts the request; None when the breaker says no, or `most` are in flight.
    pub(super) fn enter(&self, ask: &Ask<'_>, most: u32) -> Option<Entry> {
        let mut vital = self.vital.lock();
        // Counted up under the lock alone, so never beyond `most`.
        if self.active() >= most {
            return None;
        }
        let permit = match vital.breaker.as_mut() {
            None => None,
            Some(breaker) => Some(breaker.admit(ask.now)?),
        };
        Some(self.count(permit, ask))
    }

    /// The same for a request that no other endpoint takes: an open breaker lets it through sooner. None also where
    /// the endpoint is not healthy, and where all is well with it but that it is ejected or not ready for the model.
    pub(super) fn enter_lone(&self, ask: &Ask<'_>, most: u32) -> Option<Entry> {
        let mut vital = self.vital.lock();
        if self.active() >= most {
            return None;
        }
        let health = vital.health.as_ref().map(HealthMachine::state);
        if health.is_some_and(|state| state != HealthState::Healthy) {
            return None;
        }
        let breaker = vital.breaker.as_mut()?;
        let passed_over = self.is_ejected(ask.now) || !self.is_ready_for(ask.model);
        if passed_over && breaker.state(ask.now) == BreakerState::Closed {
            return None;
        }
        let permit = breaker.admit_lone(ask.now)?;
        Some(self.count(Some(permit), ask))
    }

    /// Under the lock of `vital`.
    fn count(&self, permit: Option<Permit>, ask: &Ask<'_>) -> Entry {
        let now = ask.now;
        let others = self.active.fetch_add(1, Ordering::Relaxed);
        if others == 0 {
            self.busy_since.store(self.nanos(now), Ordering::Relaxed);
        }
        let rows = u64::from(ask.bearings.rows);
        let before = self.rows.fetch_add(rows, Ordering::Relaxed);
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        Entry {
            permit,
            started: now,
            rows: ask.bearings.rows,
            load: before.saturating_add(rows) as f64,
        }
    }

    /// Takes any request: it is healthy, and its breaker closed or off.
    pub(super) fn is_in_service(&self, now: Instant) -> bool {
        let vital = self.vital.lock();
        let health = vital.health.as_ref().map(HealthMachine::state);
        let breaker = vital.breaker.as_ref().map(|breaker| breaker.state(now));
        health.is_none_or(|state| state == HealthState::Healthy)
            && breaker.is_none_or(|state| state == BreakerState::Closed)
    }

    /// The latency of a request that goes on being answered.
    pub(super) fn answered(&self, entry: &Entry, now: Instant) {
        self.vital.lock().learn(entry, now);
    }

    /// The other end of `enter`: `outcome` is None for a call that was given up before it was answered.
    pub(super) fn leave(&self, entry: Entry, now: Instant, outcome: Option<Outcome>) {
        let permit = entry.permit;
        // Sequentially consistent with `active` and the waiting room's count, see there.
        self.active.fetch_sub(1, Ordering::SeqCst);
        self.rows
            .fetch_sub(u64::from(entry.rows), Ordering::Relaxed);
        let mut vital = self.vital.lock();
        let mut transition = None;
        match outcome {
            None => {
                self.counters.cancelled.fetch_add(1, Ordering::Relaxed);
                if let (Some(breaker), Some(permit)) = (vital.breaker.as_mut(), permit) {
                    breaker.on_cancel(permit);
                }
            }
            Some(outcome) => {
                match outcome {
                    Outcome::Success => vital.learn(&entry, now),
                    Outcome::Failure => {
                        self.counters.failures.fetch_add(1, Ordering::Relaxed);
                        vital.latency.penalize(now, FAILURE_PENALTY);
                        vital.line.penalize(now);
                    }
                    Outcome::Fault | Outcome::Busy => vital.line.penalize(now),
                    Outcome::Neutral => {}
                }
                let failed = matches!(outcome, Outcome::Failure | Outcome::Fault);
                if let Some(conduct) = vital.conduct.as_mut()
                    && (failed || outcome == Outcome::Success)
                {
                    conduct.window.record(now, !failed);
                }
                if let (Some(breaker), Some(permit)) = (vital.breaker.as_mut(), permit) {
                    transition = breaker.on_result(now, permit, outcome != Outcome::Failure);
                    if transition == Some(Transition::Closed) {
                        vital.well_again(now);
                    }
                }
            }
        }
        let room = vital.room.clone();
        drop(vital);
        if !matches!(outcome, None | Some(Outcome::Failure)) {
            self.note_answer(now);
        }
        if let Some(room) = room {
            let now = Instant::now();
            let held = now.saturating_duration_since(entry.started);
            room.freed(held, outcome == Some(Outcome::Success), now);
        }
        if let Some(transition) = transition {
            log::warn!(
                "breaker of {} in cluster '{}': {transition:?}",
                self.blueprint.address,
                self.blueprint.cluster
            );
        }
    }

    /// Records a health probe. An endpoint that turns unhealthy and has answered nothing since `silent_since`
    /// has its connections cut, so that calls waiting on it go elsewhere at once.
    pub(super) fn probed(&self, passed: bool, detail: &str, silent_since: Option<Instant>) {
        if !passed {
            self.counters.probes_failed.fetch_add(1, Ordering::Relaxed);
        }
        let mut vital = self.vital.lock();
        let changed = vital
            .health
            .as_mut()
            .and_then(|health| health.record(passed));
        if changed == Some(HealthState::Healthy) {
            let now = Instant::now();
            vital.well_again(now);
            if let Some(conduct) = vital.conduct.as_mut() {
                conduct.standing.readmit(now);
                self.ejected_until.store(0, Ordering::Relaxed);
            }
            if let Some(breaker) = vital.breaker.as_mut() {
                breaker.end_pause();
            }
        }
        let room = vital.room.clone();
        drop(vital);
        let Some(state) = changed else { return };
        if let Some(room) = room {
            room.look_again(Instant::now());
        }
        let (address, cluster) = (&self.blueprint.address, &self.blueprint.cluster);
        match state {
            HealthState::Healthy => {
                self.recovered.notify_one();
                log::info!("{address} in cluster '{cluster}' is healthy");
            }
            _ => log::warn!("{address} in cluster '{cluster}' is unhealthy: {detail}"),
        }
        if state == HealthState::Unhealthy
            && silent_since.is_some_and(|since| self.silent_since(since))
        {
            self.channels.cut();
        }
    }

    pub fn is_healthy(&self) -> bool {
        self.vital
            .lock()
            .health
            .as_ref()
            .is_none_or(|health| health.state() == HealthState::Healthy)
    }

    /// How long it has been taking traffic since it turned healthy or its breaker closed.
    pub(super) fn well_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.vital.lock().well_since)
    }

    pub fn active(&self) -> u32 {
        self.active.load(Ordering::SeqCst)
    }

    /// Of the requests in flight.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Whom to tell from now on when a request leaves or the endpoint's health changes.
    pub(super) fn tell(&self, room: Option<Arc<WaitingRoom>>) {
        self.vital.lock().room = room;
    }

    /// Ties the life of a task to the endpoint's.
    pub(super) fn keep_task(&self, task: AbortHandle) {
        self.tasks.lock().push(task);
    }

    fn note_answer(&self, now: Instant) {
        self.last_answer.store(self.nanos(now), Ordering::Relaxed);
    }

    /// How long requests have been in flight without any of them being answered.
    fn silence(&self, now: Instant) -> Duration {
        if self.active() == 0 {
            return Duration::ZERO;
        }
        let answered = self.last_answer.load(Ordering::Relaxed);
        let since = answered.max(self.busy_since.load(Ordering::Relaxed));
        Duration::from_nanos(self.nanos(now).saturating_sub(since))
    }

    /// Since this endpoint was made.
    fn nanos(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born).as_nanos();
        u64::try_from(age).unwrap_or(u64::MAX)
    }

    /// No answer of any kind came after `since`.
    pub fn silent_since(&self, since: Instant) -> bool {
        let last = self.born + Duration::from_nanos(self.last_answer.load(Ordering::Relaxed));
        last < since
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().drain(..) {
            task.abort();
        }
    }
}
