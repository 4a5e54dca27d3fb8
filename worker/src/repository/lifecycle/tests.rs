//! Every event in every state, with letters for models.

use proptest::prelude::*;

use super::*;

type Model = &'static str;

fn plan(wanted: &[u64], present: &[u64]) -> Plan {
    Plan {
        versions: wanted
            .iter()
            .map(|version| (*version, Ok(String::new())))
            .collect(),
        present: present.iter().copied().collect(),
        problem: None,
        notes: Vec::new(),
    }
}

/// Version 1 is ready as "a".
fn ready() -> Lifecycle<Model> {
    let mut life = Lifecycle::default();
    life.begin(&plan(&[1], &[1]));
    assert_eq!(life.loaded(1, "a"), None);
    assert!(life.finish().is_empty());
    life
}

fn states<M>(life: &Lifecycle<M>) -> Vec<(Option<u64>, ModelState)> {
    let lines = life.status().into_iter();
    lines.map(|line| (line.version, line.state)).collect()
}

fn reason(life: &Lifecycle<Model>, version: u64) -> String {
    let mut lines = life.status().into_iter();
    lines
        .find(|line| line.version == Some(version))
        .map_or_else(String::new, |line| line.reason)
}

#[test]
fn a_version_loads_and_is_ready() {
    let mut life = Lifecycle::default();
    life.begin(&plan(&[1], &[1]));
    assert_eq!(states(&life), [(Some(1), ModelState::Loading)]);
    let loading = Absent::NotReady("it is loading".to_owned());
    assert_eq!(life.serving(None), Err(loading.clone()));
    assert_eq!(life.serving(Some(1)), Err(loading));
    life.loaded(1, "a");
    assert_eq!(states(&life), [(Some(1), ModelState::Ready)]);
    assert_eq!(life.serving(None), Ok(&"a"));
    assert_eq!(life.serving(Some(2)), Err(Absent::UnknownVersion));
}

#[test]
fn a_version_that_fails_says_why() {
    let mut life: Lifecycle<Model> = Lifecycle::default();
    life.begin(&plan(&[1], &[1]));
    life.failed(1, "bad file".to_owned());
    assert!(life.finish().is_empty());
    assert_eq!(states(&life), [(Some(1), ModelState::Unavailable)]);
    let why = Absent::NotReady("bad file".to_owned());
    assert_eq!(life.serving(None), Err(why.clone()));
    assert_eq!(life.serving(Some(1)), Err(why));
    assert!(life.in_use());
}

#[test]
fn while_it_loads_anew_the_former_one_is_served() {
    let mut life = ready();
    life.begin(&plan(&[1], &[1]));
    assert_eq!(life.serving(None), Ok(&"a"));
    assert_eq!(states(&life), [(Some(1), ModelState::Ready)]);
    assert_eq!(life.loaded(1, "b"), Some("a"));
    assert_eq!(life.serving(Some(1)), Ok(&"b"));
    life.gone(1);
    assert_eq!(states(&life), [(Some(1), ModelState::Ready)]);
}

#[test]
fn when_loading_anew_fails_the_former_one_stays_and_the_reason_is_told() {
    let mut life = ready();
    life.begin(&plan(&[1], &[1]));
    life.failed(1, "half a file".to_owned());
    assert!(life.finish().is_empty());
    assert_eq!(life.serving(None), Ok(&"a"));
    assert!(reason(&life, 1).contains("half a file"));
    // The next attempt clears it.
    life.begin(&plan(&[1], &[1]));
    life.loaded(1, "b");
    assert_eq!(reason(&life, 1), "");
}

#[test]
fn a_new_version_takes_over_when_it_is_ready() {
    let mut life = ready();
    life.begin(&plan(&[2], &[1, 2]));
    assert_eq!(life.serving(None), Ok(&"a"));
    life.loaded(2, "b");
    assert_eq!(life.serving(None), Ok(&"b"));
    assert_eq!(life.finish(), ["a"]);
    assert_eq!(life.serving(Some(1)), Err(Absent::UnknownVersion));
    let leaving = [
        (Some(1), ModelState::Unloading),
        (Some(2), ModelState::Ready),
    ];
    assert_eq!(states(&life), leaving);
    life.gone(1);
    assert_eq!(states(&life)[0], (Some(1), ModelState::Unavailable));
    assert_eq!(reason(&life, 1), "unloaded");
}

#[test]
fn a_broken_new_version_takes_nothing_away() {
    let mut life = ready();
    life.begin(&plan(&[2], &[1, 2]));
    life.failed(2, "bad".to_owned());
    assert!(life.finish().is_empty());
    assert_eq!(life.serving(None), Ok(&"a"));
    assert_eq!(life.serving(Some(2)), Err(Absent::NotReady("bad".into())));
    let both = [
        (Some(1), ModelState::Ready),
        (Some(2), ModelState::Unavailable),
    ];
    assert_eq!(states(&life), both);
}

#[test]
fn a_version_whose_folder_is_gone_goes_even_if_its_successor_is_broken() {
    let mut life = ready();
    life.begin(&plan(&[2], &[2]));
    life.failed(2, "bad".to_owned());
    assert_eq!(life.finish(), ["a"]);
    life.gone(1);
    assert_eq!(states(&life), [(Some(2), ModelState::Unavailable)]);
}

#[test]
fn a_folder_without_versions_lets_go_of_all_and_says_so() {
    let mut life = ready();
    life.begin(&Plan::broken("no version".to_owned(), BTreeSet::new()));
    assert_eq!(life.finish(), ["a"]);
    life.gone(1);
    assert_eq!(states(&life), [(None, ModelState::Unavailable)]);
    assert_eq!(
        life.serving(None),
        Err(Absent::NotReady("no version".into()))
    );
    assert!(life.in_use());
}

#[test]
fn a_plan_that_is_broken_leaves_the_versions_that_are_there() {
    let mut life = ready();
    life.begin(&Plan::broken("bad config".to_owned(), BTreeSet::from([1])));
    assert!(life.finish().is_empty());
    assert_eq!(life.serving(None), Ok(&"a"));
    let both = [
        (Some(1), ModelState::Ready),
        (None, ModelState::Unavailable),
    ];
    assert_eq!(states(&life), both);
}

#[test]
fn what_is_not_honoured_is_told_of_what_is_ready() {
    let mut life = Lifecycle::default();
    let plan = Plan {
        notes: vec!["sequence_batching: no".to_owned(), "b: no".to_owned()],
        ..plan(&[1], &[1])
    };
    life.begin(&plan);
    life.loaded(1, "a");
    assert_eq!(reason(&life, 1), "sequence_batching: no; b: no");
    assert!(life.finish().is_empty());
    life.begin(&plan);
    life.failed(1, "half a file".to_owned());
    assert!(reason(&life, 1).contains("half a file"));
}

#[test]
fn several_versions_are_served_and_the_highest_is_the_default() {
    let mut life = Lifecycle::default();
    life.begin(&plan(&[2, 3, 10], &[2, 3, 10]));
    life.loaded(10, "j");
    life.loaded(2, "b");
    life.failed(3, "bad".to_owned());
    assert!(life.finish().is_empty());
    assert_eq!(life.serving(None), Ok(&"j"));
    assert_eq!(life.serving(Some(2)), Ok(&"b"));
    let served: Vec<_> = life.served().collect();
    assert_eq!(served, [(2, &"b"), (10, &"j")]);
}

#[test]
fn a_highest_version_that_is_not_ready_is_passed_over() {
    let mut life = ready();
    life.begin(&plan(&[1, 2], &[1, 2]));
    assert_eq!(life.serving(None), Ok(&"a"));
}

#[test]
fn what_is_unloaded_takes_no_requests_and_may_come_back() {
    let mut life = ready();
    assert_eq!(life.unload(), ["a"]);
    assert_eq!(life.serving(None), Err(Absent::Unloaded));
    assert_eq!(life.serving(Some(1)), Err(Absent::Unloaded));
    assert_eq!(states(&life), [(Some(1), ModelState::Unloading)]);
    assert!(!life.in_use());
    life.gone(1);
    assert_eq!(states(&life), [(Some(1), ModelState::Unavailable)]);
    assert!(life.unload().is_empty());
    life.begin(&plan(&[1], &[1]));
    assert_eq!(states(&life), [(Some(1), ModelState::Loading)]);
    life.loaded(1, "b");
    assert_eq!(life.serving(None), Ok(&"b"));
}

#[test]
fn a_model_whose_folder_is_gone_is_forgotten_once_its_requests_are_answered() {
    let mut life = ready();
    assert_eq!(life.removed(), ["a"]);
    assert_eq!(states(&life), [(Some(1), ModelState::Unloading)]);
    assert!(!life.is_over());
    life.gone(1);
    assert!(life.is_over());
}

#[test]
fn a_load_that_ends_after_an_unload_is_served() {
    // The commands of one model follow each other; if they did not, the last word would count.
    let mut life = ready();
    life.begin(&plan(&[1], &[1]));
    assert_eq!(life.unload(), ["a"]);
    assert_eq!(life.loaded(1, "b"), None);
    assert_eq!(life.serving(None), Ok(&"b"));
}

#[derive(Debug, Clone)]
enum Event {
    Begin(Vec<u64>, Vec<u64>),
    Loaded(u64),
    Failed(u64),
    Finish,
    Unload,
    Removed,
    Gone(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let versions = || proptest::collection::vec(1..4u64, 0..3);
    prop_oneof![
        (versions(), versions()).prop_map(|(wanted, present)| Event::Begin(wanted, present)),
        (1..4u64).prop_map(Event::Loaded),
        (1..4u64).prop_map(Event::Failed),
        Just(Event::Finish),
        Just(Event::Unload),
        Just(Event::Removed),
        (0..8usize).prop_map(Event::Gone),
    ]
}

proptest! {
    /// Whatever happens: every model that was loaded is either served or was let go, once; what is let go and
    /// not yet gone is on record; and what is served is what the index calls ready.
    #[test]
    fn no_model_is_lost(events in proptest::collection::vec(event(), 0..40)) {
        let mut life: Lifecycle<u32> = Lifecycle::default();
        let (mut made, mut leaving, mut ended): (u32, Vec<(u64, u32)>, usize) = (0, Vec::new(), 0);
        let mut version_of = BTreeMap::new();
        for event in events {
            let let_go: Vec<u32> = match event {
                Event::Begin(wanted, present) => {
                    life.begin(&plan(&wanted, &present));
                    Vec::new()
                }
                Event::Loaded(version) => {
                    made += 1;
                    version_of.insert(made, version);
                    life.loaded(version, made).into_iter().collect()
                }
                Event::Failed(version) => {
                    let before = life.served().count();
                    life.failed(version, "bad".to_owned());
                    prop_assert_eq!(life.served().count(), before);
                    Vec::new()
                }
                Event::Finish => life.finish(),
                Event::Unload => life.unload(),
                Event::Removed => life.removed(),
                Event::Gone(which) => {
                    if !leaving.is_empty() {
                        let (version, _) = leaving.remove(which % leaving.len());
                        life.gone(version);
                        ended += 1;
                    }
                    Vec::new()
                }
            };
            leaving.extend(let_go.into_iter().map(|model| (version_of[&model], model)));
            let served = life.served().count();
            prop_assert_eq!(made as usize, served + leaving.len() + ended);
            let ready = life.status().iter().filter(|line| line.state == ModelState::Ready).count();
            prop_assert_eq!(ready, served);
            for line in life.status() {
                let Some(version) = line.version else { continue };
                let answers = leaving.iter().any(|(number, _)| *number == version);
                prop_assert!(line.state != ModelState::Unloading || answers);
            }
            prop_assert_eq!(life.serving(None).is_ok(), served > 0);
        }
    }
}
