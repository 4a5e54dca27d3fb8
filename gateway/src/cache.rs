//! The response cache of a route: its answers, the runs that calls wait for, and what is counted of both.
//!
//! A lock stands around the decisions of `traffic::cache`; what it guards is a table, and nothing is awaited under
//! it. Whoever leads holds a `Leading`: dropped without an answer, it wakes those who wait, and one of them leads on.

pub mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use forebay_cache::Key;
use forebay_config::gateway as config;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::protocol::cache_control::Wish;
use crate::traffic::cache::{Contents, Found, Kept, Run, Shelf};

pub struct ResponseCache {
    pub config: config::Cache,
    shelf: Mutex<Shelf<Waiting>>,
    counts: [AtomicU64; Served::ALL.len()],
    waiting: AtomicUsize,
}

/// How a call on a route with a cache was served; its name is in `x-forebay-cache`, metrics and traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// With a kept answer.
    Hit,
    /// By a run of its own.
    Miss,
    /// With the answer to an identical call.
    Shared,
    /// By a run, as it is nothing to be kept, or the client wants none that is.
    Bypass,
}

/// What became of a run that others wait for. The sender is gone: its caller left.
#[derive(Debug, Clone)]
pub enum Outcome {
    Underway,
    Answered(Arc<Kept>),
    /// An answer that cannot be shared: it is too large, or its worker forbids it.
    NotShared,
    Failed,
}

pub type Waiting = watch::Receiver<Outcome>;

/// What a call does next.
pub enum Next {
    Answer(Arc<Kept>),
    Wait(Waiting),
    Lead(Leading),
}

impl Served {
    pub const ALL: [Self; 4] = [Self::Hit, Self::Miss, Self::Shared, Self::Bypass];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Shared => "shared",
            Self::Bypass => "bypass",
        }
    }
}

impl ResponseCache {
    pub fn new(config: config::Cache) -> Self {
        Self {
            shelf: Mutex::new(Shelf::new(config.bytes)),
            config,
            counts: Default::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    pub fn look(self: &Arc<Self>, key: Key, wish: Wish, now: Instant) -> Next {
        let mut sender = None;
        let wait = || {
            let (send, receive) = watch::channel(Outcome::Underway);
            sender = Some(send);
            receive
        };
        match self.shelf.lock().look(key, wish, now, wait) {
            Found::Kept(kept) => Next::Answer(kept),
            Found::Underway(waiting) => Next::Wait(waiting),
            Found::Nothing(run) => Next::Lead(self.leading(run, sender)),
        }
    }

    /// A run that nobody waits for.
    pub fn alone(self: &Arc<Self>, key: Key) -> Leading {
        let run = self.shelf.lock().alone(key);
        self.leading(run, None)
    }

    fn leading(self: &Arc<Self>, run: Run, waiting: Option<watch::Sender<Outcome>>) -> Leading {
        Leading {
            cache: self.clone(),
            run: Some(run),
            waiting,
        }
    }

    /// Forgets the answers of a model, or all; how many that were.
    pub fn purge(&self, model: Option<&str>) -> usize {
        self.shelf.lock().purge(model)
    }

    pub fn contents(&self) -> Contents {
        self.shelf.lock().contents()
    }

    pub fn count(&self, served: Served) {
        self.counts[served as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn counted(&self, served: Served) -> u64 {
        self.counts[served as usize].load(Ordering::Relaxed)
    }

    /// Counts a call among those who wait, for as long as it does.
    pub fn enter(&self) -> Entered<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Entered(&self.waiting)
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

pub struct Entered<'a>(&'a AtomicUsize);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A run whose answer others may wait for.
pub struct Leading {
    cache: Arc<ResponseCache>,
    /// None: it has ended.
    run: Option<Run>,
    waiting: Option<watch::Sender<Outcome>>,
}

impl Leading {
    /// The answer, for those who wait and those who come later. False: it is for nobody else, as there was a purge.
    pub fn answered(mut self, kept: Arc<Kept>) -> bool {
        let run = self.run.as_ref();
        let current = run.is_some_and(|run| self.cache.shelf.lock().is_current(run));
        self.end(Some(kept.clone()));
        self.tell(Outcome::Answered(kept));
        current
    }

    /// There is none to share.
    pub fn ended(mut self, outcome: Outcome) {
        self.end(None);
        self.tell(outcome);
    }

    /// First the table, then those who wait: who looks again must not find a run that has ended.
    fn end(&mut self, kept: Option<Arc<Kept>>) {
        let Some(run) = self.run.take() else {
            return;
        };
        let evicted = self.cache.shelf.lock().end(&run, kept);
        // Freed here, where the lock is held no longer.
        drop(evicted);
    }

    fn tell(&self, outcome: Outcome) {
        if let Some(waiting) = &self.waiting {
            waiting.send_replace(outcome);
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.end(None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forebay_cache::Digest;
    use http::HeaderValue;

    use super::*;

    fn cache() -> Arc<ResponseCache> {
        Arc::new(ResponseCache::new(config::Cache::default()))
    }

    fn kept(now: Instant) -> Arc<Kept> {
        Arc::new(Kept {
            message: vec![7; 10].into(),
            model: "m".into(),
            endpoint: HeaderValue::from_static("w:1"),
            made: now,
            until: now + Duration::from_secs(1),
        })
    }

    fn lead(next: Next) -> Leading {
        match next {
            Next::Lead(leading) => leading,
            _ => panic!("somebody else leads"),
        }
    }

    fn wait(next: Next) -> Waiting {
        match next {
            Next::Wait(waiting) => waiting,
            _ => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn those_who_wait_hear_what_became_of_the_run() {
        let (cache, now, key) = (cache(), Instant::now(), Digest::new().key());
        let look = || cache.look(key, Wish::Any, now);
        // The one who led left: whoever looks next leads on.
        let first = lead(look());
        let mut second = wait(look());
        drop(first);
        assert!(second.changed().await.is_err());
        let third = lead(look());
        let mut fourth = wait(look());
        third.ended(Outcome::Failed);
        fourth.changed().await.unwrap();
        assert!(matches!(*fourth.borrow(), Outcome::Failed));
        let fifth = lead(look());
        let mut sixth = wait(look());
        assert!(fifth.answered(kept(now)));
        sixth.changed().await.unwrap();
        assert!(matches!(&*sixth.borrow(), Outcome::Answered(answer) if *answer == kept(now)));
        assert!(matches!(look(), Next::Answer(_)));
        let contents = cache.contents();
        assert_eq!((contents.entries, contents.underway), (1, 0));
    }

    #[test]
    fn waiting_is_counted_for_as_long_as_it_lasts() {
        let cache = cache();
        let entered = (cache.enter(), cache.enter());
        assert_eq!(cache.waiting(), 2);
        drop(entered);
        assert_eq!(cache.waiting(), 0);
    }
}
