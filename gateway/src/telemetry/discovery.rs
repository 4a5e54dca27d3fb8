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
    /// The last look was answered, and all that it named is in force.
    pub up: bool,
    /// Looks that changed the endpoints, be it in part.
    pub changes: u64,
    pub failures: u64,
    /// What was said of the last look, if that is more than that it failed.
    told: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look<'a> {
    Answered {
        changed: bool,
    },
    Failed,
    /// Answered, but not all of it is in force.
    Partial {
        why: &'a str,
        changed: bool,
    },
}

impl Discoveries {
    /// Whether this look says something else than the one before.
    pub fn record(&self, cluster: &str, kind: &'static str, look: Look<'_>) -> bool {
        let mut discoveries = self.0.lock();
        let state = discoveries.entry(cluster.to_owned()).or_insert(Discovery {
            kind,
            up: true,
            changes: 0,
            failures: 0,
            told: None,
        });
        state.kind = kind;
        let was_up = state.up;
        state.up = matches!(look, Look::Answered { .. });
        match look {
            Look::Answered { changed } => state.changes += u64::from(changed),
            Look::Failed => state.failures += 1,
            Look::Partial { changed, .. } => {
                state.failures += 1;
                state.changes += u64::from(changed);
            }
        }
        let told = match look {
            Look::Partial { why, .. } => Some(why),
            Look::Answered { .. } | Look::Failed => None,
        };
        let news = state.up != was_up || state.told.as_deref() != told;
        if news {
            state.told = told.map(str::to_owned);
        }
        news
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
            told: None,
        };
        assert_eq!(discoveries.all(), [("a".to_owned(), state)]);
        assert!(look(Look::Failed));
        let partial = |why, changed| Look::Partial { why, changed };
        assert!(look(partial("one is lost", true)));
        assert!(!look(partial("one is lost", false)));
        assert!(look(partial("another is lost", false)));
        let (_, state) = discoveries.all().remove(0);
        assert_eq!((state.changes, state.failures), (2, 6));
        assert!(look(Look::Answered { changed: true }));
        discoveries.retain(|cluster| cluster != "a");
        assert_eq!(discoveries.all(), []);
    }
}
