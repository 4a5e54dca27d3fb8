mod anything;
mod leaving;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Request {
    id: u32,
    group: Group,
    priority: u32,
    rows: usize,
    deadline: Option<Instant>,
    cancelled: Rc<Cell<bool>>,
    /// How often the queue asked for something.
    asked: Rc<Cell<usize>>,
}

impl Request {
    fn count(&self) -> &Self {
        self.asked.set(self.asked.get() + 1);
        self
    }
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Waiting for Request {
    fn group(&self) -> &Group {
        &self.count().group
    }

    fn rows(&self) -> usize {
        self.count().rows
    }

    fn number(&self) -> u64 {
        u64::from(self.count().id)
    }

    fn priority(&self) -> u32 {
        self.count().priority
    }

    fn weight(&self) -> Weight {
        match self.count().group {
            Group::Alone => Weight::Alone { bytes: 40 },
            Group::Shape { row_bytes, .. } => Weight::Rows { row_bytes },
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.count().deadline
    }

    fn is_cancelled(&self) -> bool {
        self.count().cancelled.get()
    }

    fn split(mut self, rows: usize) -> Result<(Self, Self), Self> {
        let first = Request {
            rows,
            ..self.clone()
        };
        self.rows -= rows;
        Ok((first, self))
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
        priority: 1,
        rows: 1,
        deadline: None,
        cancelled: Rc::default(),
        asked: Rc::default(),
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

fn ranked(id: u32, priority: u32) -> Request {
    Request {
        priority,
        ..request(id)
    }
}

fn send(rows: usize) -> impl FnMut(Standing<'_>) -> Call {
    move |_| Call::Send(Cut::whole(rows))
}

fn filled(requests: impl IntoIterator<Item = Request>, start: Instant) -> Queue<Request> {
    let mut queue = Queue::new(100);
    for (position, request) in requests.into_iter().enumerate() {
        let moment = start + Duration::from_millis(position as u64);
        assert_eq!(admit(&mut queue, request, moment), []);
    }
    queue
}

fn ids(decision: &Decision<Request>) -> Vec<u32> {
    match decision {
        Decision::Run(batch) => batch.iter().map(|request| request.id).collect(),
        Decision::WaitUntil(_) | Decision::Empty => Vec::new(),
    }
}

/// Lets a request in, which must succeed, and says who made room.
fn admit(queue: &mut Queue<Request>, request: Request, now: Instant) -> Vec<(Request, Dropped)> {
    let pushed = queue.push(request, now);
    assert!(pushed.place.is_ok());
    pushed.dropped
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
    assert_eq!(admit(&mut queue, wide(5, 8), start), []);
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
        false => Call::Send(Cut::whole(1)),
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
        Call::Send(Cut::whole(1))
    });
}

#[test]
fn lower_priority_numbers_go_first_and_the_others_fill_up() {
    let start = Instant::now();
    let mut queue = filled(
        [
            ranked(0, 2),
            ranked(1, 1),
            ranked(2, 3),
            ranked(3, 1),
            ranked(4, 2),
        ],
        start,
    );
    assert_eq!(batch(&mut queue, start, 3), [1, 3, 0]);
    assert_eq!(admit(&mut queue, ranked(5, 1), start), []);
    assert_eq!(batch(&mut queue, start, 8), [5, 4, 2]);
}

#[test]
fn the_group_with_the_most_urgent_request_goes_first() {
    let start = Instant::now();
    let urgent = Request {
        priority: 0,
        ..wide(2, 9)
    };
    let mut queue = filled([wide(0, 8), wide(1, 9), urgent], start);
    assert_eq!(batch(&mut queue, start, 8), [2, 1]);
    assert_eq!(batch(&mut queue, start, 8), [0]);
}

#[test]
fn a_request_larger_than_a_batch_goes_in_parts_and_keeps_its_place() {
    let start = Instant::now();
    let mut queue = filled([rows(0, 3), rows(1, 9), rows(2, 1)], start);
    let cut = Cut {
        rows: 4,
        whole: 4,
        fill: 0,
        done_at: None,
    };
    let mut taken = Vec::new();
    while let Decision::Run(batch) = queue.next(start, |_| Call::Send(cut)).decision {
        taken.push(
            batch
                .iter()
                .map(|part| (part.id, part.rows))
                .collect::<Vec<_>>(),
        );
        let left: usize = taken.iter().flatten().map(|(_, rows)| rows).sum();
        assert_eq!(queue.rows(), 13 - left);
    }
    assert_eq!(
        taken,
        [
            vec![(0, 3), (1, 1)],
            vec![(1, 4)],
            vec![(1, 4)],
            vec![(2, 1)]
        ]
    );
}

#[test]
fn a_small_batch_takes_a_part_of_a_request_that_does_not_fit() {
    let start = Instant::now();
    let mut queue = filled([rows(0, 3), rows(1, 6)], start);
    let cut = Cut {
        rows: 8,
        whole: 8,
        fill: 4,
        done_at: None,
    };
    let turn = queue.next(start, |_| Call::Send(cut));
    let Decision::Run(batch) = turn.decision else {
        panic!("nothing went");
    };
    assert_eq!(
        batch.iter().map(|part| part.rows).collect::<Vec<_>>(),
        [3, 5]
    );
    assert_eq!((queue.requests(), queue.rows()), (1, 1));
}

#[test]
fn the_backlog_is_told_by_priority_and_class_of_weight() {
    let start = Instant::now();
    let alone = Request {
        group: Group::Alone,
        rows: 50,
        ..ranked(3, 2)
    };
    let mut queue = filled([rows(0, 2), wide(1, 9), wide(2, 100), alone], start);
    let row = |row_bytes| Weight::Rows { row_bytes };
    let expected = [
        ((1, row(32)), 3),
        ((1, row(256)), 1),
        ((2, Weight::Alone { bytes: 32 }), 1),
    ];
    for (key, rows) in expected {
        assert_eq!(queue.backlog().get(&key), Some(&rows), "{key:?}");
    }
    while let Decision::Run(_) = queue.next(start, send(8)).decision {}
    assert!(queue.backlog().values().all(|rows| *rows == 0));
}

#[test]
fn nobody_looks_at_all_that_wait() {
    let start = Instant::now();
    let mut queue = Queue::new(usize::MAX);
    let asked: Rc<Cell<usize>> = Rc::default();
    let number = 2_000;
    let mut places = Vec::new();
    for id in 0..number {
        let request = Request {
            asked: asked.clone(),
            deadline: Some(start + Duration::from_secs(u64::from(id) + 1)),
            ..ranked(id, id % 3)
        };
        places.push(queue.push(request, start).place.unwrap());
    }
    let mut count = |act: &mut dyn FnMut(&mut Queue<Request>)| {
        asked.set(0);
        act(&mut queue);
        asked.get()
    };
    let waiting = count(&mut |queue| {
        let turn = queue.next(start, |standing| Call::Wait {
            until: standing.oldest,
        });
        assert_eq!(turn.decision, Decision::WaitUntil(start));
    });
    assert!(waiting < 10, "the sums are kept, yet {waiting} questions");
    let removed = count(&mut |queue| assert!(queue.remove(places[1000]).is_some()));
    let cut = count(&mut |queue| assert_eq!(batch(queue, start, 4).len(), 4));
    assert!(removed < 20 && cut < 100, "{removed} and {cut} questions");
}

#[test]
fn groups_in_which_nobody_waits_are_forgotten_in_the_end() {
    let start = Instant::now();
    let mut queue = Queue::new(10);
    for id in 0..500 {
        assert_eq!(admit(&mut queue, wide(id, i64::from(id)), start), []);
        assert_eq!(batch(&mut queue, start, 8), [id]);
    }
    assert!(queue.slots.len() <= REMEMBERED && queue.groups.len() <= REMEMBERED + 1);
}
