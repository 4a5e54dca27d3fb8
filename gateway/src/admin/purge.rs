//! `DELETE /cache`: forgets what response caches keep, of all routes or of `?route=`, of all models or of `&model=`,
//! in this process and in Redis.
//!
//! A page in a browser cannot send DELETE to another origin unasked, as it could a GET or a POST.

use http::{Method, StatusCode};
use serde_json::json;

use crate::cache::shared;
use crate::gateway::{Route, Snapshot};
use crate::protocol::rest_model::decode;

pub const PATH: &str = "/cache";

pub async fn answer(
    snapshot: &Snapshot,
    method: &Method,
    query: Option<&str>,
) -> (StatusCode, String) {
    if method != Method::DELETE {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "use DELETE");
    }
    match Wanted::parse(query.unwrap_or_default()) {
        Ok(wanted) => purge(&snapshot.routes, &wanted).await,
        Err(problem) => refuse(StatusCode::BAD_REQUEST, &problem),
    }
}

async fn purge(routes: &[Route], wanted: &Wanted) -> (StatusCode, String) {
    let named = |route: &&Route| {
        let name = wanted.route.as_deref();
        name.is_none_or(|name| name == route.config.name)
    };
    let cached = |route: &&Route| route.cache.is_some();
    let routes: Vec<&Route> = routes.iter().filter(named).filter(cached).collect();
    if routes.is_empty() {
        let problem = match &wanted.route {
            Some(name) => format!("no route '{name}' has a cache"),
            None => "no route has a cache".to_owned(),
        };
        return refuse(StatusCode::NOT_FOUND, &problem);
    }
    let model = wanted.model.as_deref();
    let caches = routes.iter().filter_map(|route| route.cache.as_ref());
    let removed: usize = caches.map(|cache| cache.purge(model)).sum();
    let mut answer = json!({ "removed": removed });
    let mut from_redis = 0;
    for route in &routes {
        let Some(redis) = &route.redis else {
            continue;
        };
        match shared::purge(redis, &route.config, model).await {
            Ok(removed) => from_redis += removed,
            Err(error) => {
                answer["error"] = format!("not purged in redis: {error}").into();
                return (StatusCode::BAD_GATEWAY, answer.to_string());
            }
        }
        answer["removed_from_redis"] = from_redis.into();
    }
    (StatusCode::OK, answer.to_string())
}

fn refuse(status: StatusCode, problem: &str) -> (StatusCode, String) {
    (status, json!({ "error": problem }).to_string())
}

/// None: all.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    route: Option<String>,
    model: Option<String>,
}

impl Wanted {
    /// What cannot be meant is refused: a typo must not purge everything.
    fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "route" => &mut wanted.route,
                "model" => &mut wanted.model,
                _ => return Err(format!("'{name}' is neither route nor model")),
            };
            let value = decode(value).ok_or_else(|| format!("'{pair}' names nothing"))?;
            if place.replace(value.into_owned()).is_some() {
                return Err(format!("'{name}' is there twice"));
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_purge_is_said_exactly() {
        let wanted = |route: Option<&str>, model: Option<&str>| Wanted {
            route: route.map(str::to_owned),
            model: model.map(str::to_owned),
        };
        assert_eq!(Wanted::parse(""), Ok(wanted(None, None)));
        assert_eq!(
            Wanted::parse("model=a%2Fb&route=r"),
            Ok(wanted(Some("r"), Some("a/b")))
        );
        for query in [
            "models=a",
            "model",
            "model=",
            "model=%zz",
            "route=a&route=b",
        ] {
            assert!(Wanted::parse(query).is_err(), "{query}");
        }
    }
}
