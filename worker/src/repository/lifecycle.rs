//! The life of one model's versions: loading, ready, replaced, unloaded.
//!
//! Told what happens, it says what is served and which loaded models are to be let go; it never drops one
//! itself, as that may take as long as the requests that are still on it. Two rules hold throughout: a version
//! that is served stays so until its successor is ready, and nothing that fails takes away what works.
//! Pure: `M` is whatever stands for a loaded model.

use std::collections::{BTreeMap, BTreeSet};

use crate::repository::layout::Plan;

/// How a version is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    Loading,
    Ready,
    /// Takes no new requests; some are still being answered.
    Unloading,
    Unavailable,
}

/// Why there is no model to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// Everything was unloaded.
    Unloaded,
    UnknownVersion,
    NotReady(String),
}

/// What is said of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionStatus {
    /// None: the model has no version.
    pub version: Option<u64>,
    pub state: ModelState,
    /// Why it is not ready; or, if it is, what failed since or is not honoured. May be empty.
    pub reason: String,
}

#[derive(Debug)]
pub struct Lifecycle<M> {
    versions: BTreeMap<u64, Version<M>>,
    /// Why nothing was to be served when the folder was last looked at.
    problem: Option<String>,
    /// What is asked for and not honoured.
    notes: String,
    wanted: BTreeSet<u64>,
    present: BTreeSet<u64>,
}

#[derive(Debug)]
struct Version<M> {
    phase: Phase<M>,
    /// Models of this version that were let go and still answer.
    leaving: usize,
}

#[derive(Debug)]
enum Phase<M> {
    Loading,
    /// `note`: what went wrong with loading it anew.
    Ready {
        model: M,
        note: String,
    },
    Failed(String),
    Unloaded,
}

impl<M> Default for Lifecycle<M> {
    fn default() -> Self {
        Self {
            versions: BTreeMap::new(),
            problem: None,
            notes: String::new(),
            wanted: BTreeSet::new(),
            present: BTreeSet::new(),
        }
    }
}

impl<M> Lifecycle<M> {
    /// The folder was looked at, and its versions are about to be loaded, or loaded anew.
    pub fn begin(&mut self, plan: &Plan) {
        self.problem.clone_from(&plan.problem);
        self.present.clone_from(&plan.present);
        self.notes = plan.notes.join("; ");
        self.wanted = plan.versions.keys().copied().collect();
        for version in &self.wanted {
            let version = self.versions.entry(*version).or_insert(Version {
                phase: Phase::Loading,
                leaving: 0,
            });
            if !matches!(version.phase, Phase::Ready { .. }) {
                version.phase = Phase::Loading;
            }
        }
    }

    /// The version is ready in its new form. Its former one, if any, is to be let go.
    pub fn loaded(&mut self, version: u64, model: M) -> Option<M> {
        let entry = self.versions.entry(version).or_insert(Version {
            phase: Phase::Loading,
            leaving: 0,
        });
        let ready = Phase::Ready {
            model,
            note: String::new(),
        };
        let former = std::mem::replace(&mut entry.phase, ready);
        entry.let_go(former)
    }

    /// The version cannot be loaded. If it is served already, it goes on in its former form.
    pub fn failed(&mut self, version: u64, reason: String) {
        let Some(entry) = self.versions.get_mut(&version) else {
            return;
        };
        match &mut entry.phase {
            Phase::Ready { note, .. } => {
                *note = format!("loading it anew failed, the former one is served: {reason}");
            }
            phase => *phase = Phase::Failed(reason),
        }
    }

    /// Every version of the plan was tried. What is served beyond the plan is to be let go: at once if its
    /// folder is gone, else only if all of the plan is served without complaint.
    pub fn finish(&mut self) -> Vec<M> {
        let complete = self.problem.is_none()
            && self.wanted.iter().all(|version| {
                let phase = self.versions.get(version).map(|version| &version.phase);
                matches!(phase, Some(Phase::Ready { note, .. }) if note.is_empty())
            });
        let mut let_go = Vec::new();
        for (number, version) in &mut self.versions {
            if self.wanted.contains(number) || (self.present.contains(number) && !complete) {
                continue;
            }
            let former = std::mem::replace(&mut version.phase, Phase::Unloaded);
            let_go.extend(version.let_go(former));
        }
        self.forget();
        let_go
    }

    /// Nothing is to be served any more: all of it is to be let go.
    pub fn unload(&mut self) -> Vec<M> {
        self.problem = None;
        self.wanted.clear();
        let mut let_go = Vec::new();
        for version in self.versions.values_mut() {
            let former = std::mem::replace(&mut version.phase, Phase::Unloaded);
            let_go.extend(version.let_go(former));
        }
        let_go
    }

    /// The model's folder is gone; what was let go is forgotten as soon as it ends.
    pub fn removed(&mut self) -> Vec<M> {
        let let_go = self.unload();
        self.present.clear();
        self.forget();
        let_go
    }

    /// A model that was let go answers nobody any more.
    pub fn gone(&mut self, version: u64) {
        if let Some(entry) = self.versions.get_mut(&version) {
            entry.leaving = entry.leaving.saturating_sub(1);
        }
        self.forget();
    }

    /// Versions that are neither served nor loading nor on disk.
    fn forget(&mut self) {
        let (wanted, present) = (&self.wanted, &self.present);
        self.versions.retain(|number, version| {
            let over = matches!(version.phase, Phase::Unloaded) && version.leaving == 0;
            !over || wanted.contains(number) || present.contains(number)
        });
    }

    /// The model to run; without a version the highest one that is ready.
    pub fn serving(&self, version: Option<u64>) -> Result<&M, Absent> {
        let Some(number) = version else {
            let highest = self.versions.values().rev().find_map(Version::model);
            return highest.ok_or_else(|| self.why_not());
        };
        let Some(version) = self.versions.get(&number) else {
            return Err(Absent::UnknownVersion);
        };
        match &version.phase {
            Phase::Ready { model, .. } => Ok(model),
            Phase::Loading => Err(Absent::NotReady("it is loading".to_owned())),
            Phase::Failed(reason) => Err(Absent::NotReady(reason.clone())),
            Phase::Unloaded if self.served().next().is_some() => Err(Absent::UnknownVersion),
            Phase::Unloaded => Err(Absent::Unloaded),
        }
    }

    fn why_not(&self) -> Absent {
        let mut failed = None;
        for version in self.versions.values().rev() {
            match &version.phase {
                Phase::Loading => return Absent::NotReady("it is loading".to_owned()),
                Phase::Failed(reason) => failed = failed.or(Some(reason)),
                Phase::Ready { .. } | Phase::Unloaded => {}
            }
        }
        match failed.or(self.problem.as_ref()) {
            Some(reason) => Absent::NotReady(reason.clone()),
            None => Absent::Unloaded,
        }
    }

    /// Every version that takes requests, ascending.
    pub fn served(&self) -> impl DoubleEndedIterator<Item = (u64, &M)> {
        let versions = self.versions.iter();
        versions.filter_map(|(number, version)| Some((*number, version.model()?)))
    }

    /// Something should be served, whether it is or not.
    pub fn in_use(&self) -> bool {
        let unloaded = |version: &Version<M>| matches!(version.phase, Phase::Unloaded);
        self.problem.is_some() || !self.versions.values().all(unloaded)
    }

    /// Nothing is left to be said of it.
    pub fn is_over(&self) -> bool {
        self.problem.is_none() && self.versions.is_empty()
    }

    /// A line for each version, ascending.
    pub fn status(&self) -> Vec<VersionStatus> {
        let mut lines: Vec<VersionStatus> = self
            .versions
            .iter()
            .map(|(number, version)| {
                let (state, reason) = match version.state() {
                    (ModelState::Ready, "") => (ModelState::Ready, &self.notes[..]),
                    told => told,
                };
                VersionStatus {
                    version: Some(*number),
                    state,
                    reason: reason.to_owned(),
                }
            })
            .collect();
        if let Some(problem) = &self.problem {
            lines.push(VersionStatus {
                version: None,
                state: ModelState::Unavailable,
                reason: problem.clone(),
            });
        }
        lines
    }
}

impl<M> Version<M> {
    fn model(&self) -> Option<&M> {
        match &self.phase {
            Phase::Ready { model, .. } => Some(model),
            Phase::Loading | Phase::Failed(_) | Phase::Unloaded => None,
        }
    }

    fn let_go(&mut self, former: Phase<M>) -> Option<M> {
        let Phase::Ready { model, .. } = former else {
            return None;
        };
        self.leaving += 1;
        Some(model)
    }

    fn state(&self) -> (ModelState, &str) {
        match &self.phase {
            Phase::Loading => (ModelState::Loading, "it is loading"),
            Phase::Ready { note, .. } => (ModelState::Ready, note),
            Phase::Failed(reason) => (ModelState::Unavailable, reason),
            Phase::Unloaded if self.leaving > 0 => {
                (ModelState::Unloading, "it answers its last requests")
            }
            Phase::Unloaded => (ModelState::Unavailable, "unloaded"),
        }
    }
}

#[cfg(test)]
mod tests;
