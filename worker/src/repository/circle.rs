//! Whether a model is made of itself, directly or by way of others. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The way from `name` back to `name`, if there is one. `steps`: what a model is made of. Each model is looked at
/// once, so it ends whatever the steps of others are.
pub fn through(name: &str, steps: impl Fn(&str) -> BTreeSet<String>) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<String, String> = BTreeMap::new();
    let mut left = vec![name.to_owned()];
    while let Some(at) = left.pop() {
        for step in steps(&at) {
            if step == name {
                return Some(way_back(name, at, &came_from));
            }
            if !came_from.contains_key(&step) {
                came_from.insert(step.clone(), at.clone());
                left.push(step);
            }
        }
    }
    None
}

fn way_back(name: &str, last: String, came_from: &BTreeMap<String, String>) -> Vec<String> {
    let mut way = vec![name.to_owned()];
    let mut at = Some(&last);
    while let Some(model) = at.filter(|model| *model != name) {
        way.push(model.clone());
        at = came_from.get(model);
    }
    way.push(name.to_owned());
    way.reverse();
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, made_of: &[(&str, &[&str])]) -> Option<String> {
        let steps = |of: &str| {
            let rows = made_of.iter().filter(|(model, _)| *model == of);
            let steps = rows.flat_map(|(_, steps)| steps.iter());
            steps.map(|step| (*step).to_owned()).collect()
        };
        through(name, steps).map(|way| way.join(" "))
    }

    #[test]
    fn a_circle_is_named_in_its_order() {
        let circle: &[(&str, &[&str])] = &[("a", &["x", "b"]), ("b", &["c", "x"]), ("c", &["a"])];
        assert_eq!(found("a", circle).as_deref(), Some("a b c a"));
        assert_eq!(found("c", circle).as_deref(), Some("c a b c"));
        assert_eq!(found("x", circle), None);
        assert_eq!(found("a", &[("a", &["a"])]).as_deref(), Some("a a"));
    }

    #[test]
    fn it_ends_at_a_circle_of_others_and_where_ways_meet_again() {
        let others: &[(&str, &[&str])] = &[("o", &["a"]), ("a", &["b"]), ("b", &["a"])];
        assert_eq!(found("o", others), None);
        let meeting: &[(&str, &[&str])] = &[("o", &["a", "b"]), ("a", &["m"]), ("b", &["m"])];
        assert_eq!(found("o", meeting), None);
    }
}
