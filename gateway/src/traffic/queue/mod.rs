//! Who waits for a free endpoint of a cluster, and who is next.
//!
//! Strictly by urgency, as whoever sets it means it. Within one urgency tenants take turns, and within a tenant its
//! routes do, so that neither a tenant nor a route gets more by asking more often (max-min fairness, as round robin
//! gives it to requests that each take one slot). Within one line the earliest deadline goes first.
//!
//! Not all requests can go to the same endpoints. Those that can share a lane; lanes take turns too, and one whose first
//! request cannot be served holds up none of the others.
//!
//! A full queue drops from the longest line, as McKenney's stochastic fairness queueing does (INFOCOM 1990): a
//! tenant that floods the queue pushes out its own requests, not those of others. Urgent requests push out less
//! urgent ones.
//!
//! Whoever waits holds a `Ticket` and leaves with it. Every operation takes logarithmic time, and time in proportion to the
//! lanes, of which there are as many as the configuration makes, however many requests there are.

mod line;
pub mod pace;
mod turns;

#[cfg(test)]
mod tests;

use std::time::Instant;

use line::Line;
use smallvec::SmallVec;
use turns::Turns;

const URGENCIES: usize = 8;

/// 0, served first, to 7: the scale of RFC 9218, with its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency(u8);

/// Where a request stands among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub urgency: Urgency,
    /// Equal for requests that the same endpoints take.
    pub lane: u64,
    /// Whose it is; equal for requests of one tenant.
    pub tenant: u64,
    pub route: u64,
    /// From then on a slot is of no use to it; None: it waits for as long as it takes.
    pub until: Option<Instant>,
}

/// The right to leave the queue again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    place: Place,
    number: u64,
}

/// Lanes whose requests cannot be served now.
pub type Blocked = SmallVec<[u64; 4]>;

/// What came of asking who is next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T, R> {
    Served(T, R),
    /// It has waited for longer than is of use.
    Expired(T),
    /// Nobody waits, or nobody whose turn it is can be served now.
    Nobody,
}

#[derive(Debug)]
pub struct Queue<T> {
    size: usize,
    classes: [Turns<Turns<Turns<Line<T>>>>; URGENCIES],
    length: usize,
    tickets: u64,
}

impl Default for Urgency {
    fn default() -> Self {
        Self(3)
    }
}

impl Urgency {
    /// A bare digit, or `u=` in a list of parameters as RFC 9218 writes it. Whatever else stands there has no say.
    pub fn parse(value: &[u8]) -> Self {
        let digit = |text: &[u8]| match text {
            [digit @ b'0'..=b'7'] => Some(Self(digit - b'0')),
            _ => None,
        };
        let mut parameters = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        digit(value.trim_ascii())
            .or_else(|| parameters.find_map(|parameter| digit(parameter.strip_prefix(b"u=")?)))
            .unwrap_or_default()
    }

    fn index(self) -> usize {
        usize::from(self.0).min(URGENCIES - 1)
    }
}

impl<T> Queue<T> {
    /// `size`: how many may wait; 0: nobody.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            classes: std::array::from_fn(|_| Turns::default()),
            length: 0,
            tickets: 0,
        }
    }

    /// From now on; those beyond it who wait already may go on.
    pub fn resize(&mut self, size: usize) {
        self.size = size;
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Somebody waits in this lane.
    pub fn has_lane(&self, lane: u64) -> bool {
        let mut classes = self.classes.iter();
        classes.any(|class| class.get(lane).is_some())
    }

    /// How many of those who wait are served before a newcomer at `place`, if nobody else comes: all that are more
    /// urgent, then as many of its own urgency as turns go to others until it has had enough for itself.
    pub fn ahead(&self, place: &Place) -> usize {
        let index = place.urgency.index();
        let urgent: usize = self.classes[..index].iter().map(Turns::len).sum();
        let class = &self.classes[index];
        let lane = class.get(place.lane);
        let tenant = lane.and_then(|lane| lane.get(place.tenant));
        let line = tenant.and_then(|tenant| tenant.get(place.route));
        let in_line = line.map_or(0, |line| line.before(place.until));
        let in_tenant = tenant.map_or(0, |tenant| tenant.ahead(in_line, line.is_some()));
        let in_lane = lane.map_or(0, |lane| lane.ahead(in_tenant, tenant.is_some()));
        urgent + class.ahead(in_lane, lane.is_some())
    }

    /// Lets `item` wait; with it comes whoever had to go for it. Err: there is no room for it.
    pub fn push(&mut self, place: Place, item: T) -> Result<(Ticket, Option<T>), T> {
        let mut pushed_out = None;
        if self.length >= self.size {
            pushed_out = self.make_room(&place);
            if pushed_out.is_none() {
                return Err(item);
            }
        }
        let number = self.tickets;
        self.tickets += 1;
        self.classes[place.urgency.index()].change(place.lane, |lane| {
            lane.change(place.tenant, |tenant| {
                tenant.change(place.route, |line| line.push(place.until, number, item));
            });
        });
        self.length += 1;
        Ok((Ticket { place, number }, pushed_out))
    }

    /// Takes the one whose turn it is, if `serve` has something for it; of each lane `serve` is asked about one at most,
    /// and about none of the lanes in `blocked`. Lanes for which there was nothing are added to those.
    pub fn next<R>(
        &mut self,
        now: Instant,
        blocked: &mut Blocked,
        mut serve: impl FnMut(&T) -> Option<R>,
    ) -> Next<T, R> {
        for class in self.classes.iter_mut().filter(|class| class.len() > 0) {
            let next = class.serve_any(|key, lane| {
                if blocked.contains(&key) {
                    return None;
                }
                let next = lane
                    .serve(|tenant| tenant.serve(|line| line.next(now, &mut serve)).flatten())
                    .flatten();
                if next.is_none() {
                    blocked.push(key);
                }
                next
            });
            if let Some(next) = next {
                self.length -= 1;
                return next;
            }
        }
        Next::Nobody
    }

    /// Whoever holds the ticket waits no longer; None: it does not wait any more.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        let place = ticket.place;
        let removed = self.classes[place.urgency.index()].visit(place.lane, |lane| {
            let removed = lane.visit(place.tenant, |tenant| {
                tenant.visit(place.route, |line| line.remove(place.until, ticket.number))
            });
            removed.flatten().flatten()
        });
        let removed = removed.flatten();
        self.length -= usize::from(removed.is_some());
        removed
    }

    /// Takes out whoever has the least claim, unless a newcomer at `place` has even less.
    fn make_room(&mut self, place: &Place) -> Option<T> {
        let last = self.classes.iter().rposition(|class| class.len() > 0)?;
        let own = place.urgency.index();
        if last < own {
            return None;
        }
        let class = &mut self.classes[last];
        let newcomer = last == own;
        let lane = class.longest_beside(newcomer.then_some(place.lane))?;
        let own_lane = newcomer && lane == place.lane;
        let dropped = class.visit(lane, |tenants| {
            let tenant = tenants.longest_beside(own_lane.then_some(place.tenant))?;
            let own_tenant = own_lane && tenant == place.tenant;
            let dropped = tenants.visit(tenant, |routes| {
                let route = routes.longest_beside(own_tenant.then_some(place.route))?;
                if own_tenant && route == place.route {
                    return None;
                }
                routes.visit(route, Line::pop_last).flatten()
            });
            dropped.flatten()
        });
        let dropped = dropped.flatten();
        self.length -= usize::from(dropped.is_some());
        dropped
    }
}
