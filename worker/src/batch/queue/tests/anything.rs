//! Whatever happens, everybody comes out once and batches keep the rules.

use std::collections::HashMap;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Push {
        width: i64,
        rows: usize,
        priority: u32,
        patience: Option<u64>,
    },
    /// Marked as cancelled, and taken out or left to be found.
    Cancel {
        which: usize,
        remove: bool,
    },
    Next {
        cut: Cut,
        takes: Option<u64>,
        wait: bool,
    },
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (0i64..4, 1usize..9, 0u32..3, proptest::option::of(0u64..30)).prop_map(
        |(width, rows, priority, patience)| Step::Push {
            width,
            rows,
            priority,
            patience,
        },
    );
    let cut = (1usize..9, 1usize..9, 0usize..9).prop_map(|(rows, whole, fill)| Cut {
        rows,
        whole,
        fill,
        done_at: None,
    });
    let takes = proptest::option::of(0u64..30);
    let next =
        (cut, takes, any::<bool>()).prop_map(|(cut, takes, wait)| Step::Next { cut, takes, wait });
    let step = prop_oneof![
        4 => push,
        1 => (0usize..64, any::<bool>()).prop_map(|(which, remove)| Step::Cancel { which, remove }),
        2 => next,
        1 => (0u64..20).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..120)
}

/// What is known of the requests from outside.
#[derive(Default)]
struct Ledger {
    all: Vec<(Request, Option<Place>)>,
    /// Rows that are still inside, by request.
    inside: HashMap<u32, usize>,
}

impl Ledger {
    fn leave(&mut self, request: &Request) -> Result<(), TestCaseError> {
        let rows = self.inside.get_mut(&request.id);
        let rows = rows.ok_or_else(|| TestCaseError::fail("came out twice or never went in"))?;
        prop_assert!(*rows >= request.rows, "more rows than went in");
        *rows -= request.rows;
        if *rows == 0 {
            self.inside.remove(&request.id);
        }
        Ok(())
    }

    fn check_dropped(
        &mut self,
        dropped: &[(Request, Dropped)],
        now: Instant,
    ) -> Result<(), TestCaseError> {
        for (request, reason) in dropped {
            let really = match reason {
                Dropped::Cancelled => request.cancelled.get(),
                Dropped::Expired => request.deadline.is_some_and(|deadline| deadline <= now),
                Dropped::TooLate(_) => request.deadline.is_some_and(|deadline| deadline > now),
            };
            prop_assert!(really, "{} left for {reason:?}", request.id);
            self.leave(request)?;
        }
        Ok(())
    }

    /// Nobody of the batch's group who is left comes before somebody in the batch.
    fn check_order(&self, batch: &[Request]) -> Result<(), TestCaseError> {
        let rank = |request: &Request| (request.priority, request.id);
        for pair in batch.windows(2) {
            prop_assert!(rank(&pair[0]) < rank(&pair[1]), "order within a batch");
        }
        let Some(last) = batch.last() else {
            return Ok(());
        };
        for (other, _) in &self.all {
            let waits = self.inside.contains_key(&other.id) && other.id != last.id;
            if waits && other.group == last.group && !other.cancelled.get() {
                prop_assert!(rank(last) < rank(other), "{} passed {}", last.id, other.id);
            }
        }
        Ok(())
    }
}

fn check_batch(batch: &[Request], cut: Cut, now: Instant) -> Result<(), TestCaseError> {
    prop_assert!(!batch.is_empty());
    let total: usize = batch.iter().map(|request| request.rows).sum();
    prop_assert!(total <= cut.rows || batch.len() == 1);
    prop_assert!(total <= cut.rows.max(cut.whole) || batch[0].group == Group::Alone);
    prop_assert!(batch.len() == 1 || batch[0].group != Group::Alone);
    for request in batch {
        prop_assert!(request.group == batch[0].group);
        prop_assert!(!request.cancelled.get());
        prop_assert!(request.deadline.is_none_or(|deadline| deadline > now));
    }
    Ok(())
}

proptest! {
    #[test]
    fn everybody_comes_out_once_and_batches_keep_the_rules(steps in steps()) {
        let mut now = Instant::now();
        let mut queue = Queue::new(10);
        let mut ledger = Ledger::default();
        let last = Step::Next { cut: Cut::whole(4), takes: None, wait: false };
        for step in steps.into_iter().chain(std::iter::repeat_n(last, 20)) {
            match step {
                Step::Push { width, rows, priority, patience } => {
                    let request = Request {
                        group: if width == 0 { Group::Alone } else { shape(width) },
                        rows,
                        deadline: patience.map(|patience| now + Duration::from_millis(patience)),
                        ..ranked(ledger.all.len() as u32, priority)
                    };
                    let pushed = queue.push(request.clone(), now);
                    ledger.check_dropped(&pushed.dropped, now)?;
                    match &pushed.place {
                        Ok(_) => { ledger.inside.insert(request.id, rows); }
                        Err(back) => prop_assert_eq!(back.id, request.id),
                    }
                    ledger.all.push((request, pushed.place.ok()));
                }
                Step::Cancel { which, remove } => if let Some((request, place)) = ledger.all.get(which).cloned() {
                    request.cancelled.set(true);
                    if let (true, Some(place)) = (remove, place) {
                        let removed = queue.remove(place);
                        prop_assert_eq!(removed.is_some(), ledger.inside.contains_key(&request.id));
                        if let Some(request) = removed {
                            ledger.leave(&request)?;
                        }
                    }
                },
                Step::Pass(time) => now += Duration::from_millis(time),
                Step::Next { cut, takes, wait } => {
                    let done_at = takes.map(|time| now + Duration::from_millis(time));
                    let cut = Cut { done_at, ..cut };
                    let waiting = queue.rows();
                    let turn = queue.next(now, |_| match wait {
                        true => Call::Wait { until: now },
                        false => Call::Send(cut),
                    });
                    for (request, reason) in &turn.dropped {
                        if let Dropped::TooLate(_) = reason {
                            prop_assert!(waiting > request.rows, "gave way to nobody");
                            prop_assert!(request.deadline < done_at);
                        }
                    }
                    ledger.check_dropped(&turn.dropped, now)?;
                    match turn.decision {
                        Decision::Run(batch) => {
                            prop_assert!(!wait);
                            check_batch(&batch, cut, now)?;
                            for request in &batch {
                                ledger.leave(request)?;
                            }
                            ledger.check_order(&batch)?;
                        }
                        Decision::WaitUntil(_) => prop_assert!(wait && !queue.is_empty()),
                        Decision::Empty => prop_assert!(queue.is_empty()),
                    }
                }
            }
            let rows: usize = ledger.inside.values().sum();
            prop_assert_eq!((queue.requests(), queue.rows()), (ledger.inside.len(), rows));
            let backlog: usize = queue.backlog().values().sum();
            prop_assert!(backlog <= rows);
        }
        prop_assert!(ledger.inside.is_empty(), "somebody never came out");
        prop_assert!(queue.backlog().values().all(|rows| *rows == 0));
    }
}
