//! What a cluster does once a second, for as long as the gateway lives: its endpoints are compared, and those who wait are
//! looked after, since an ejection or a slow start ends by the clock alone.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use crate::gateway::Gateway;

const INTERVAL: Duration = Duration::from_secs(1);

pub fn start(gateway: Weak<Gateway>, runtime: &Handle) {
    runtime.spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(gateway) = gateway.upgrade() else {
                return;
            };
            let now = Instant::now();
            for cluster in &gateway.snapshot().clusters {
                cluster.eject_outliers(now);
                if let Some(room) = cluster.room() {
                    room.look_again(now);
                }
            }
        }
    });
}
