//! Which route takes a request: the most specific one that matches.
//!
//! Specificity is compared condition by condition, and the first difference decides:
//!
//! 1. host: exact, then suffix (longer first), then none;
//! 2. path: exact, then prefix (longer first), then regex, then none;
//! 3. model: name and version, then name, then none;
//! 4. headers: more, then fewer;
//! 5. methods: named, then any;
//! 6. the order in the file.
//!
//! Routes are sorted by this once, so finding is taking the first that matches. Those that name a model are reached
//! through a map by that name: a gateway in front of hundreds of models has a route for each, and a request looks
//! only at those of its own model and at those of none.

use std::cmp::Reverse;
use std::collections::HashMap;

use forebay_config::gateway::{HeaderMatch, HeaderValueMatch, HostMatch, PathMatch, Route};
use http::{HeaderMap, HeaderName, Method};

/// What routing looks at.
pub struct RequestHead<'a> {
    /// `Host` or `:authority` as received: any case, port included.
    pub host: Option<&'a str>,
    /// As received, without the query.
    pub path: &'a str,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// None: it names none, or it was not looked for since `needs_model` is false.
    pub model: Option<&'a str>,
    pub version: Option<&'a str>,
}

/// All routes of a configuration, in the order in which they are tried.
#[derive(Debug)]
pub struct Router {
    by_model: HashMap<String, Vec<Rule>>,
    any_model: Vec<Rule>,
    needs_host: bool,
}

/// A route's conditions, the model's name excepted.
#[derive(Debug)]
struct Rule {
    /// Place among all routes; the lowest that matches wins.
    rank: usize,
    /// Place in the configuration.
    route: usize,
    host: Option<HostMatch>,
    path: Option<PathMatch>,
    methods: Vec<String>,
    headers: Vec<HeaderRule>,
    version: Option<String>,
}

#[derive(Debug)]
struct HeaderRule {
    /// None: no header can have the configured name, so nothing matches.
    name: Option<HeaderName>,
    value: HeaderValueMatch,
}

impl Router {
    pub fn new(routes: &[Route]) -> Self {
        let mut order: Vec<_> = routes.iter().enumerate().collect();
        order.sort_by_key(|(_, route)| Reverse(specificity(route)));
        let mut router = Self {
            by_model: HashMap::new(),
            any_model: Vec::new(),
            needs_host: routes.iter().any(|route| route.matches.host.is_some()),
        };
        for (rank, (index, route)) in order.into_iter().enumerate() {
            let rule = Rule::new(rank, index, route);
            match &route.matches.model {
                Some(model) => router
                    .by_model
                    .entry(model.name.clone())
                    .or_default()
                    .push(rule),
                None => router.any_model.push(rule),
            }
        }
        router
    }

    /// The place of the matching route in the slice that the router was built from.
    pub fn find(&self, head: &RequestHead<'_>) -> Option<usize> {
        let host = head.host.filter(|_| self.needs_host).map(bare_host);
        let first = |rules: &[Rule], before: usize| {
            let mut candidates = rules.iter().take_while(|rule| rule.rank < before);
            candidates
                .find(|rule| rule.matches(host, head))
                .map(|rule| (rule.rank, rule.route))
        };
        let own = head
            .model
            .and_then(|model| self.by_model.get(model))
            .and_then(|rules| first(rules, usize::MAX));
        let before = own.map_or(usize::MAX, |(rank, _)| rank);
        first(&self.any_model, before)
            .or(own)
            .map(|(_, route)| route)
    }

    /// Whether any route matches on the model; if not, requests need not be searched for it.
    pub fn needs_model(&self) -> bool {
        !self.by_model.is_empty()
    }
}

impl Rule {
    fn new(rank: usize, route: usize, configured: &Route) -> Self {
        let matches = &configured.matches;
        let host = matches.host.as_ref().map(|host| match host {
            HostMatch::Exact(name) => HostMatch::Exact(bare_host(name).to_owned()),
            HostMatch::Suffix(suffix) => HostMatch::Suffix(suffix.clone()),
        });
        Self {
            rank,
            route,
            host,
            path: matches.path.clone(),
            methods: matches.methods.clone(),
            headers: matches.headers.iter().map(HeaderRule::new).collect(),
            version: matches
                .model
                .as_ref()
                .and_then(|model| model.version.clone()),
        }
    }

    fn matches(&self, host: Option<&str>, head: &RequestHead<'_>) -> bool {
        (self.methods.is_empty()
            || self
                .methods
                .iter()
                .any(|method| method == head.method.as_str()))
            && self
                .version
                .as_deref()
                .is_none_or(|version| head.version == Some(version))
            && self
                .host
                .as_ref()
                .is_none_or(|rule| host.is_some_and(|host| host_matches(rule, host)))
            && self
                .path
                .as_ref()
                .is_none_or(|rule| path_matches(rule, head.path))
            && self.headers.iter().all(|rule| rule.matches(head.headers))
    }
}

impl HeaderRule {
    fn new(configured: &HeaderMatch) -> Self {
        Self {
            name: configured.name.parse().ok(),
            value: configured.value.clone(),
        }
    }

    fn matches(&self, headers: &HeaderMap) -> bool {
        let Some(name) = &self.name else { return false };
        match &self.value {
            HeaderValueMatch::Present => headers.contains_key(name),
            HeaderValueMatch::Exact(wanted) => {
                headers.get_all(name).iter().any(|value| value == wanted)
            }
        }
    }
}

/// Greater is more specific.
fn specificity(route: &Route) -> impl Ord + use<> {
    let matches = &route.matches;
    let host = match &matches.host {
        Some(HostMatch::Exact(_)) => (2, 0),
        Some(HostMatch::Suffix(suffix)) => (1, suffix.len()),
        None => (0, 0),
    };
    let path = match &matches.path {
        Some(PathMatch::Exact(_)) => (3, 0),
        Some(PathMatch::Prefix(prefix)) => (2, prefix.len()),
        Some(PathMatch::Regex(_)) => (1, 0),
        None => (0, 0),
    };
    let model = matches.model.as_ref().map(|model| model.version.is_some());
    (
        host,
        path,
        model,
        matches.headers.len(),
        !matches.methods.is_empty(),
    )
}

/// Without port and without the brackets of an IPv6 address.
fn bare_host(host: &str) -> &str {
    if let Some(bracketed) = host.strip_prefix('[') {
        return bracketed
            .split_once(']')
            .map_or(bracketed, |(address, _)| address);
    }
    match host.split_once(':') {
        // A second colon: an IPv6 address without brackets, which cannot carry a port.
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

fn host_matches(rule: &HostMatch, host: &str) -> bool {
    match rule {
        HostMatch::Exact(name) => host.eq_ignore_ascii_case(name),
        HostMatch::Suffix(suffix) => host.len().checked_sub(suffix.len()).is_some_and(|start| {
            start > 0 && host.as_bytes()[start..].eq_ignore_ascii_case(suffix.as_bytes())
        }),
    }
}

fn path_matches(rule: &PathMatch, path: &str) -> bool {
    match rule {
        PathMatch::Exact(wanted) => path == wanted,
        PathMatch::Prefix(prefix) => {
            prefix == "/"
                || path
                    .strip_prefix(prefix.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

#[cfg(test)]
mod tests;
