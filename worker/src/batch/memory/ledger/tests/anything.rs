//! Whatever instances do, in any order: the budget holds, no engine is lost, and nobody waits forever.

use proptest::prelude::*;

use super::super::*;
use super::at;

const LIMIT: u64 = 6;

#[derive(Debug, Clone, Copy)]
enum Step {
    Run,
    Stop,
    /// The engine panics.
    Lose,
    Grow(u64),
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Run),
        8 => Just(Step::Stop),
        1 => Just(Step::Lose),
        2 => (0..8u64).prop_map(Step::Grow),
        1 => Just(Step::Leave),
    ]
}

/// Instances as their threads behave. What stands for an engine is the seat of its instance.
struct Instances {
    ledger: Ledger<SeatId>,
    seats: Vec<SeatId>,
    gone: Vec<SeatId>,
    /// Engines that went into the ledger, and that came out of it.
    parked: usize,
    returned: usize,
    clock: u64,
}

impl Instances {
    fn new(sessions: &[(u64, usize)]) -> Self {
        let mut ledger = Ledger::new(LIMIT);
        let mut seats = Vec::new();
        for (bytes, members) in sessions {
            let first = ledger.add(*bytes);
            seats.push(first);
            seats.extend((1..*members).map(|_| ledger.join(first)));
        }
        Self {
            ledger,
            seats,
            gone: Vec::new(),
            parked: 0,
            returned: 0,
            clock: 0,
        }
    }

    fn in_use(&self, seat: SeatId) -> bool {
        matches!(self.ledger.holding(seat), Some(Holding::InUse))
    }

    fn idle(&self) -> usize {
        let sessions = self.ledger.sessions.values();
        let members = sessions.flat_map(|session| session.members.values());
        members
            .filter(|member| matches!(member, Holding::Idle { .. }))
            .count()
    }

    fn run(&mut self, seat: SeatId) {
        if self.ledger.take(seat).is_some() {
            self.returned += 1;
        } else if !self.in_use(seat) {
            self.returned += self.ledger.claim(seat).len();
        }
    }

    fn stop(&mut self, seat: SeatId) {
        if self.in_use(seat) {
            self.parked += 1;
            self.clock += 1;
            let let_go = self.ledger.park(seat, Some(seat), at(self.clock));
            self.returned += let_go.len();
        }
    }

    fn act(&mut self, which: usize, step: Step) {
        let seat = self.seats[which % self.seats.len()];
        if self.gone.contains(&seat) {
            return;
        }
        match step {
            Step::Run => self.run(seat),
            Step::Stop => self.stop(seat),
            Step::Lose if self.in_use(seat) => {
                let let_go = self.ledger.park(seat, None, at(self.clock));
                self.returned += let_go.len();
            }
            // An instance knows after a run.
            Step::Grow(bytes) if self.in_use(seat) => {
                self.ledger.resize(seat, bytes);
                self.stop(seat);
            }
            Step::Lose | Step::Grow(_) => {}
            Step::Leave => {
                self.returned += self.ledger.remove(seat).len();
                self.gone.push(seat);
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let counted: u64 = self.ledger.sessions.values().map(Session::counted).sum();
        prop_assert_eq!(counted, self.ledger.taken());
        prop_assert_eq!(self.parked, self.returned + self.idle(), "engines are lost");
        let pressed = self.ledger.taken() > LIMIT || !self.ledger.waiting.is_empty();
        prop_assert!(!pressed || self.idle() == 0, "an idle one stayed");
        for seat in &self.ledger.waiting {
            prop_assert!(!self.ledger.holds(*seat) && !self.gone.contains(seat));
        }
        if let Some(first) = self.ledger.waiting.front() {
            let wanted = self.ledger.taken() + self.ledger.needed(*first);
            prop_assert!(wanted > LIMIT, "there was room for the first");
        }
        Ok(())
    }
}

fn sessions() -> impl Strategy<Value = Vec<(u64, usize)>> {
    proptest::collection::vec((1..9u64, 1..4usize), 1..6)
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    proptest::collection::vec((0..20usize, step()), 0..80)
}

proptest! {
    #[test]
    fn the_budget_holds_and_no_engine_is_lost(sessions in sessions(), steps in steps()) {
        let mut instances = Instances::new(&sessions);
        let mut grown = false;
        for (which, step) in steps {
            grown |= matches!(step, Step::Grow(_));
            instances.act(which, step);
            instances.check()?;
            prop_assert!(grown || instances.ledger.taken() <= LIMIT);
        }
    }

    /// Whoever runs stops, and wants to run again at once: those who waited come first, each in a round or less.
    #[test]
    fn nobody_starves(sessions in sessions(), steps in steps()) {
        let mut instances = Instances::new(&sessions);
        for (which, step) in steps {
            instances.act(which, step);
        }
        let mut waiting: Vec<SeatId> = instances.ledger.waiting.iter().copied().collect();
        for _ in 0..waiting.len() {
            for seat in instances.seats.clone() {
                if instances.in_use(seat) {
                    waiting.retain(|waiting| *waiting != seat);
                    instances.stop(seat);
                    instances.run(seat);
                    instances.check()?;
                }
            }
        }
        waiting.retain(|seat| !instances.in_use(*seat));
        prop_assert!(waiting.is_empty(), "{waiting:?} wait forever");
    }
}
