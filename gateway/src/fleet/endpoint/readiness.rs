//! Which models an endpoint is ready for, of those that probes ask about.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Endpoint;

impl Endpoint {
    /// What a probe has found, by the place in the list of models.
    pub(in crate::fleet) fn set_ready_models(&self, ready: u64) {
        if self.ready_models.swap(ready, Ordering::Relaxed) != ready {
            let room = self.vital.lock().room.clone();
            if let Some(room) = room {
                room.look_again(Instant::now());
            }
        }
    }

    /// `model` is a bit, or 0 for one that no probe asks about.
    pub(in crate::fleet) fn is_ready_for(&self, model: u64) -> bool {
        model == 0 || self.ready_models.load(Ordering::Relaxed) & model != 0
    }

    pub(super) fn unready_models(&self) -> Vec<String> {
        let models = self.blueprint.health.iter();
        let models = models.flat_map(|health| health.models.iter().enumerate());
        let unready = models.filter(|(place, _)| !self.is_ready_for(1 << place));
        unready.map(|(_, model)| model.clone()).collect()
    }
}
