use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Request {
    id: u32,
    group: Group,
    rows: usize,
    deadline: Option<Instant>,
    cancelled: Rc<Cell<bool>>,
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Waiting for Request {
    fn group(&self) -> &Group {
        &self.group
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }
}

fn shape(width: i64) -> Group {
    Group::Shape {
        dims: Box::new([0, 1, width]),
        row_bytes: width as usize * 4,
    }
}

fn request(id: u32) -> Request {
    Request {
        id,
        group: shape(8),
        rows: 1,
        deadline: None,
        cancelled: Rc::default(),
    }
}

fn wide(id: u32, width: i64) -> Request {
    Request {
        group: shape(width),
        ..request(id)
    }
}

fn rows(id: u32, rows: usize) -> Request {
    Request {
        rows,
        ..request(id)
    }
}

fn send(rows: usize) -> impl FnMut(Standing<'_>) -> Call {
    move |_| Call::Send { rows }
}

fn filled(requests: impl IntoIterator<Item = Request>, start: Instant) -> Queue<Request> {
    let mut queue = Queue::new(100);
    for (position, request) in requests.into_iter().enumerate() {
        let pushed = queue.push(request, start + Duration::from_millis(position as u64));
        assert_eq!(pushed, admitted(vec![]));
    }
    queue
}

fn ids(decision: &Decision<Request>) -> Vec<u32> {
    match decision {
        Decision::Run(batch) => batch.iter().map(|request| request.id).collect(),
        Decision::WaitUntil(_) | Decision::Empty => Vec::new(),
    }
}

fn admitted(dropped: Vec<(Request, Dropped)>) -> Pushed<Request> {
    Pushed {
        refused: None,
        dropped,
    }
}

fn batch(queue: &mut Queue<Request>, now: Instant, limit: usize) -> Vec<u32> {
    ids(&queue.next(now, send(limit)).decision)
}

#[test]
fn first_come_first_served_up_to_the_size() {
    let start = Instant::now();
    let mut queue = filled((0..5).map(request), start);
    assert_eq!(batch(&mut queue, start, 3), [0, 1, 2]);
    assert_eq!(batch(&mut queue, start, 3), [3, 4]);
    assert_eq!(queue.next(start, send(3)).decision, Decision::Empty);
    assert_eq!((queue.requests(), queue.rows()), (0, 0));
}

#[test]
fn different_shapes_never_mix_and_the_oldest_goes_first() {
    let start = Instant::now();
    let mut queue = filled(
        [wide(0, 8), wide(1, 9), wide(2, 8), wide(3, 9), wide(4, 9)],
        start,
    );
    assert_eq!(batch(&mut queue, start, 8), [0, 2]);
    assert_eq!(queue.push(wide(5, 8), start), admitted(vec![]));
    assert_eq!(batch(&mut queue, start, 2), [1, 3], "waited longer than 5");
    assert_eq!(batch(&mut queue, start, 8), [4]);
    assert_eq!(batch(&mut queue, start, 8), [5]);
}

#[test]
fn requests_that_share_nothing_go_one_by_one() {
    let alone = |id| Request {
        group: Group::Alone,
        ..request(id)
    };
    let start = Instant::now();
    let mut queue = filled([alone(0), alone(1)], start);
    assert_eq!(batch(&mut queue, start, 8), [0]);
    assert_eq!(batch(&mut queue, start, 8), [1]);
}

#[test]
fn several_rows_count_and_a_large_request_goes_by_itself() {
    let start = Instant::now();
    let mut queue = filled(
        [rows(0, 2), rows(1, 1), rows(2, 2), rows(3, 9), rows(4, 1)],
        start,
    );
    assert_eq!(queue.rows(), 15);
    assert_eq!(batch(&mut queue, start, 4), [0, 1], "2 would make 5 rows");
    assert_eq!(batch(&mut queue, start, 4), [2]);
    assert_eq!(batch(&mut queue, start, 4), [3]);
    assert_eq!(batch(&mut queue, start, 4), [4]);
}

#[test]
fn expired_requests_are_returned_and_not_run() {
    let start = Instant::now();
    let deadline = start + Duration::from_millis(50);
    let late = Request {
        deadline: Some(deadline),
        ..request(1)
    };
    let mut queue = filled([request(0), late, request(2)], start);
    let turn = queue.next(deadline, send(8));
    assert_eq!(ids(&turn.decision), [0, 2]);
    assert_eq!(turn.dropped, [(request(1), Dropped::Expired)]);
}

#[test]
fn a_request_is_run_until_its_deadline() {
    let start = Instant::now();
    let late = Request {
        deadline: Some(start + Duration::from_millis(50)),
        ..request(0)
    };
    let mut queue = filled([late], start);
    assert_eq!(batch(&mut queue, start + Duration::from_millis(49), 8), [0]);
}

#[test]
fn cancelled_requests_leave() {
    let start = Instant::now();
    let gone = request(0);
    let also_gone = request(2);
    let mut queue = filled([gone.clone(), request(1), also_gone.clone()], start);
    gone.cancelled.set(true);
    also_gone.cancelled.set(true);
    let turn = queue.next(start, send(8));
    assert_eq!(ids(&turn.decision), [1]);
    assert_eq!(
        turn.dropped,
        [
            (request(0), Dropped::Cancelled),
            (request(2), Dropped::Cancelled)
        ]
    );
    assert!(queue.is_empty());
}

#[test]
fn when_all_are_cancelled_the_next_group_goes() {
    let start = Instant::now();
    let gone = wide(0, 8);
    let mut queue = filled([gone.clone(), wide(1, 9)], start);
    gone.cancelled.set(true);
    let turn = queue.next(start, send(8));
    assert_eq!(ids(&turn.decision), [1]);
    assert_eq!(turn.dropped.len(), 1);
}

#[test]
fn waits_until_the_earliest_moment_of_all_groups() {
    let start = Instant::now();
    let patience = Duration::from_millis(20);
    let mut queue = filled([wide(0, 8), wide(1, 9)], start);
    let turn = queue.next(start, |standing| Call::Wait {
        until: standing.oldest + patience,
    });
    assert_eq!(turn.decision, Decision::WaitUntil(start + patience));
    assert_eq!(queue.requests(), 2);
}

#[test]
fn a_group_that_may_go_passes_an_older_one_that_waits() {
    let start = Instant::now();
    let mut queue = filled([wide(0, 8), wide(1, 9), wide(2, 10)], start);
    let turn = queue.next(start, |standing| match standing.group == &shape(8) {
        true => Call::Wait { until: start },
        false => Call::Send { rows: 1 },
    });
    assert_eq!(ids(&turn.decision), [1], "of those that may go, the oldest");
}

#[test]
fn the_question_about_a_group_tells_its_state() {
    let start = Instant::now();
    let deadline = start + Duration::from_secs(1);
    let urgent = Request {
        deadline: Some(deadline),
        rows: 3,
        ..request(1)
    };
    let mut queue = filled([request(0), urgent], start);
    queue.next(start, |standing| {
        assert_eq!(standing.rows, 4);
        assert_eq!(standing.oldest, start);
        assert_eq!(standing.deadline, Some(deadline));
        Call::Send { rows: 1 }
    });
}

#[test]
fn a_full_queue_refuses_unless_somebody_is_gone() {
    let start = Instant::now();
    let mut queue = Queue::new(2);
    let gone = request(0);
    assert_eq!(queue.push(gone.clone(), start), admitted(vec![]));
    assert_eq!(queue.push(request(1), start), admitted(vec![]));
    assert_eq!(queue.push(request(2), start).refused, Some(request(2)));
    gone.cancelled.set(true);
    assert_eq!(
        queue.push(request(3), start),
        admitted(vec![(request(0), Dropped::Cancelled)])
    );
    assert_eq!(batch(&mut queue, start, 8), [1, 3]);
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        width: i64,
        rows: usize,
        patience: Option<u64>,
    },
    Cancel(usize),
    Next {
        limit: usize,
        wait: bool,
    },
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push =
        (0i64..4, 1usize..5, proptest::option::of(0u64..30)).prop_map(|(width, rows, patience)| {
            Step::Push {
                width,
                rows,
                patience,
            }
        });
    let next = (1usize..9, any::<bool>()).prop_map(|(limit, wait)| Step::Next { limit, wait });
    let step = prop_oneof![
        4 => push,
        1 => (0usize..64).prop_map(Step::Cancel),
        2 => next,
        1 => (0u64..20).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn everybody_comes_out_once_and_batches_keep_the_rules(steps in steps()) {
        let mut now = Instant::now();
        let mut queue = Queue::new(10);
        let mut all: Vec<Request> = Vec::new();
        let mut inside: HashSet<u32> = HashSet::new();
        let mut newest_of_group: std::collections::HashMap<Group, u32> = std::collections::HashMap::new();
        let mut out = 0;
        let last = Step::Next { limit: 4, wait: false };
        for step in steps.into_iter().chain(std::iter::repeat_n(last, 20)) {
            let mut left = Vec::new();
            match step {
                Step::Push { width, rows, patience } => {
                    let request = Request {
                        id: all.len() as u32,
                        group: if width == 0 { Group::Alone } else { shape(width) },
                        rows,
                        deadline: patience.map(|patience| now + Duration::from_millis(patience)),
                        cancelled: Rc::default(),
                    };
                    all.push(request.clone());
                    let pushed = queue.push(request.clone(), now);
                    left = pushed.dropped;
                    match pushed.refused {
                        None => { inside.insert(request.id); }
                        Some(back) => prop_assert_eq!(back.id, request.id),
                    }
                }
                Step::Cancel(which) => if let Some(request) = all.get(which) {
                    request.cancelled.set(true);
                },
                Step::Pass(time) => now += Duration::from_millis(time),
                Step::Next { limit, wait } => {
                    let turn = queue.next(now, |_| match wait {
                        true => Call::Wait { until: now },
                        false => Call::Send { rows: limit },
                    });
                    left = turn.dropped;
                    match turn.decision {
                        Decision::Run(batch) => {
                            prop_assert!(!wait && !batch.is_empty());
                            let total: usize = batch.iter().map(|request| request.rows).sum();
                            prop_assert!(total <= limit || batch.len() == 1);
                            prop_assert!(batch.len() == 1 || batch[0].group != Group::Alone);
                            for request in &batch {
                                prop_assert!(request.group == batch[0].group);
                                prop_assert!(!request.cancelled.get());
                                prop_assert!(request.deadline.is_none_or(|deadline| deadline > now));
                                prop_assert!(inside.remove(&request.id), "came out twice or never went in");
                                let newest = newest_of_group.insert(request.group.clone(), request.id);
                                prop_assert!(newest.is_none_or(|newest| newest < request.id), "order within a group");
                                out += 1;
                            }
                        }
                        Decision::WaitUntil(_) => prop_assert!(wait && !queue.is_empty()),
                        Decision::Empty => prop_assert!(queue.is_empty()),
                    }
                }
            }
            for (request, reason) in left {
                let really = match reason {
                    Dropped::Cancelled => request.cancelled.get(),
                    Dropped::Expired => request.deadline.is_some_and(|deadline| deadline <= now),
                };
                prop_assert!(really);
                prop_assert!(inside.remove(&request.id), "came out twice or never went in");
                out += 1;
            }
            prop_assert_eq!(queue.requests(), inside.len());
            let rows: usize = all.iter().filter(|request| inside.contains(&request.id)).map(|request| request.rows).sum();
            prop_assert_eq!(queue.rows(), rows);
        }
        prop_assert!(inside.is_empty(), "somebody never came out");
        prop_assert!(out <= all.len());
    }
}
