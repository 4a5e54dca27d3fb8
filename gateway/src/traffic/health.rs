//! Turns single health probes into a verdict on an endpoint.
//!
//! Several passes in a row make an unhealthy endpoint healthy and several failures in a row make a healthy one
//! unhealthy, so that one lost packet decides nothing. A new endpoint is unknown and takes no traffic; its first
//! probe decides alone, because until then either verdict would be a guess.

/// What is known about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// Not probed yet; takes no traffic.
    Unknown,
    Healthy,
    Unhealthy,
}

/// Counts probes that contradict the present verdict.
#[derive(Debug, Clone)]
pub struct HealthMachine {
    rise: u32,
    fall: u32,
    state: HealthState,
    /// Probes in a row that disagree with `state`.
    against: u32,
}

impl HealthMachine {
    /// `rise` passes in a row heal, `fall` failures in a row condemn; 0 counts as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self {
            rise,
            fall,
            state: HealthState::Unknown,
            against: 0,
        }
    }

    pub fn state(&self) -> HealthState {
        self.state
    }

    /// The new state if this probe changed it.
    pub fn record(&mut self, pass: bool) -> Option<HealthState> {
        let verdict = if pass {
            HealthState::Healthy
        } else {
            HealthState::Unhealthy
        };
        if verdict == self.state {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = match self.state {
            HealthState::Unknown => 1,
            HealthState::Healthy => self.fall,
            HealthState::Unhealthy => self.rise,
        };
        if self.against < needed {
            return None;
        }
        self.state = verdict;
        self.against = 0;
        Some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pass_of_a_new_endpoint_suffices() {
        let mut machine = HealthMachine::new(3, 3);
        assert_eq!(machine.state(), HealthState::Unknown);
        assert_eq!(machine.record(true), Some(HealthState::Healthy));
        assert_eq!(machine.record(true), None);
    }

    #[test]
    fn the_first_failure_of_a_new_endpoint_suffices() {
        let mut machine = HealthMachine::new(3, 3);
        assert_eq!(machine.record(false), Some(HealthState::Unhealthy));
        assert_eq!(machine.record(false), None);
        assert_eq!(machine.state(), HealthState::Unhealthy);
    }

    #[test]
    fn healthy_falls_after_failures_in_a_row() {
        let mut machine = HealthMachine::new(2, 3);
        machine.record(true);
        for _ in 0..2 {
            assert_eq!(machine.record(false), None);
            assert_eq!(machine.record(false), None);
            assert_eq!(machine.record(true), None, "a pass starts the count anew");
        }
        assert_eq!(machine.record(false), None);
        assert_eq!(machine.record(false), None);
        assert_eq!(machine.record(false), Some(HealthState::Unhealthy));
    }

    #[test]
    fn unhealthy_rises_after_passes_in_a_row() {
        let mut machine = HealthMachine::new(2, 3);
        machine.record(false);
        assert_eq!(machine.record(true), None);
        assert_eq!(
            machine.record(false),
            None,
            "a failure starts the count anew"
        );
        assert_eq!(machine.record(true), None);
        assert_eq!(machine.record(true), Some(HealthState::Healthy));
    }

    #[test]
    fn thresholds_of_zero_count_as_one() {
        let mut machine = HealthMachine::new(0, 0);
        assert_eq!(machine.record(true), Some(HealthState::Healthy));
        assert_eq!(machine.record(false), Some(HealthState::Unhealthy));
        assert_eq!(machine.record(true), Some(HealthState::Healthy));
    }
}
