//! How an endpoint does beside its peers, and leaving it out.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Endpoint;
use crate::traffic::outlier::{Reading, Standing};
use crate::traffic::window::Window;

/// What an endpoint is judged by beside its peers.
pub(super) struct Conduct {
    pub window: Window,
    pub standing: Standing,
}

impl Endpoint {
    /// What it did within the window, to be compared with others; None: it is not compared.
    pub(in crate::fleet) fn conduct(&self, now: Instant) -> Option<Reading> {
        let vital = self.vital.lock();
        let conduct = vital.conduct.as_ref()?;
        let (succeeded, failed) = conduct.window.totals(now);
        Some(Reading {
            succeeded,
            failed,
            ejected: conduct.standing.left(now) > Duration::ZERO,
        })
    }

    /// Leaves it out for a while, after which it begins anew.
    pub(in crate::fleet) fn eject(&self, now: Instant) {
        let mut vital = self.vital.lock();
        let (Some(config), Some(conduct)) = (&self.blueprint.outlier, vital.conduct.as_mut())
        else {
            return;
        };
        conduct.standing.eject(config, now);
        let (succeeded, failed) = conduct.window.totals(now);
        conduct.window.clear();
        let left = conduct.standing.left(now);
        self.ejected_until
            .store(self.nanos(now + left), Ordering::Relaxed);
        drop(vital);
        self.counters.ejections.fetch_add(1, Ordering::Relaxed);
        let (address, cluster) = (&self.blueprint.address, &self.blueprint.cluster);
        log::warn!(
            "{address} in cluster '{cluster}' is left out for {left:?}: {failed} of its {} requests failed, \
             many more than of the others",
            succeeded + failed
        );
    }

    pub(in crate::fleet) fn is_ejected(&self, now: Instant) -> bool {
        self.nanos(now) < self.ejected_until.load(Ordering::Relaxed)
    }
}
