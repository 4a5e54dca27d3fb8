//! What `/metrics` says. Triton's names where Triton counts the same thing, so that existing dashboards work;
//! names of our own for the rest. `docs/metrics.md` lists them all, and a test compares.
//!
//! A page shows what is served at this moment: what is unloaded disappears with its figures. Labels are names of
//! models, versions, and what the code chooses; nothing that a caller sends becomes a label.

mod batches;
mod cache;
mod learned;
mod machine;
mod requests;

use std::sync::Arc;

use parking_lot::Mutex;

use self::machine::Machine;
use super::prometheus::{Kind, Page};
use crate::batch::statistics::Statistics;
use crate::model::Model;
use crate::served::Served;

/// What pages need of each other: the use of the processor between two of them.
#[derive(Debug, Default)]
pub struct Metrics {
    machine: Mutex<Machine>,
}

/// A served version as the page shows it.
struct Shown<'a> {
    served: &'a Served,
    version: String,
    statistics: Statistics,
}

impl Metrics {
    pub fn page(&self, served: &[Arc<Served>]) -> String {
        let shown: Vec<Shown<'_>> = served
            .iter()
            .map(|served| Shown {
                served,
                version: served.version().to_string(),
                statistics: served.statistics(),
            })
            .collect();
        let mut page = Page::default();
        requests::write(&mut page, &shown);
        batches::write(&mut page, &shown);
        cache::write(&mut page, &shown);
        learned::write(&mut page, &shown);
        self.machine.lock().write(&mut page);
        page.into_text()
    }
}

impl<'a> Shown<'a> {
    /// The labels that all metrics of a version share.
    fn labels(&self) -> [(&'static str, &str); 2] {
        [("model", self.served.name()), ("version", &self.version)]
    }

    /// With one more label.
    fn labelled<'b>(&'b self, name: &'b str, value: &'b str) -> [(&'b str, &'b str); 3] {
        let [model, version] = self.labels();
        [model, version, (name, value)]
    }
}

/// One number for everything that is served.
fn family(page: &mut Page, header: Header<'_>, models: &[Shown<'_>], value: fn(&Shown<'_>) -> u64) {
    header.write(page);
    for model in models {
        page.sample(header.name, &model.labels(), value(model));
    }
}

/// The head of a family.
#[derive(Clone, Copy)]
struct Header<'a> {
    name: &'a str,
    kind: Kind,
    help: &'a str,
}

impl Header<'_> {
    fn write(&self, page: &mut Page) {
        page.family(self.name, self.kind, self.help);
    }
}

fn counter<'a>(name: &'a str, help: &'a str) -> Header<'a> {
    Header {
        name,
        kind: Kind::Counter,
        help,
    }
}

fn gauge<'a>(name: &'a str, help: &'a str) -> Header<'a> {
    Header {
        name,
        kind: Kind::Gauge,
        help,
    }
}

fn histogram<'a>(name: &'a str, help: &'a str) -> Header<'a> {
    Header {
        name,
        kind: Kind::Histogram,
        help,
    }
}

/// Those that an engine runs.
fn engines<'a, 'b>(models: &'a [Shown<'b>]) -> impl Iterator<Item = (&'a Shown<'b>, &'b Model)> {
    models
        .iter()
        .filter_map(|shown| Some((shown, shown.served.model()?)))
}

#[cfg(test)]
mod tests;
