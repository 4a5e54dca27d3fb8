//! How the discoveries are doing: for the metrics, and for whom it was said already.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// One state per cluster that has a discovery.
#[derive(Debug, Default)]
pub struct Discoveries(Mutex<BTreeMap<String, Discovery>>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// As it is written in the configuration.
    pub kind: &'static str,
    /// The last look was answered.
    pub up: bool,
    /// Looks that changed the endpoints.
    pub changes: u64,
    pub failures: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Answered { changed: bool },
    Failed,
}

impl Discoveries {
    /// Whether this look says something else than the one before.
    pub fn record(&self, cluster: &str, kind: &'static str, look: Look) -> bool {
        let mut discoveries = self.0.lock();
        let state = discoveries.entry(cluster.to_owned()).or_insert(Discovery {
            kind,
            up: true,
            changes: 0,
            failures: 0,
        });
        state.kind = kind;
        let was_up = state.up;
        state.up = look != Look::Failed;
        match look {
            Look::Answered { changed } => state.changes += u64::from(changed),
            Look::Failed => state.failures += 1,
        }
        state.up != was_up
    }

    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.lock().retain(|cluster, _| keep(cluster));
    }

    /// By cluster.
    pub fn all(&self) -> Vec<(String, Discovery)> {
        let discoveries = self.0.lock();
        discoveries
            .iter()
            .map(|(cluster, state)| (cluster.clone(), state.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_are_news() {
        let discoveries = Discoveries::default();
        let look = |look| discoveries.record("a", "dns", look);
        assert!(!look(Look::Answered { changed: true }));
        assert!(look(Look::Failed));
        assert!(!look(Look::Failed));
        assert!(look(Look::Answered { changed: false }));
        let state = Discovery {
            kind: "dns",
            up: true,
            changes: 1,
            failures: 2,
        };
        assert_eq!(discoveries.all(), [("a".to_owned(), state)]);
        discoveries.retain(|cluster| cluster != "a");
        assert_eq!(discoveries.all(), []);
    }
}
