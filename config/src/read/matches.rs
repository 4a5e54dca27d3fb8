//! `[routes.match]`: conditions, brought into the one form in which equal ones are equal.

use regex::Regex;

use super::{Keys, Read, Table, Value, address, all, http, names, table};
use crate::gateway::{HeaderMatch, HeaderValueMatch, HostMatch, Match, ModelMatch, PathMatch};

const KEYS: Keys = &["host", "path", "methods", "headers", "model", "version"];
const PATH_KEYS: Keys = &["exact", "prefix", "regex"];

const HOST: &str = r#"a host without port, such as "example.com" or "*.example.com""#;
const PATH: &str = r#"a path such as "/v2", or one of { exact = "/v2" }, { prefix = "/v2" }, { regex = "/v2/.*" }"#;
const EXACT: &str = "a path that begins with / and is percent-encoded, without ? and #";

pub(super) fn matches(route: &Table<'_>) -> Read<Match> {
    let table = route.table("match", KEYS)?;
    let host = table.optional("host", |value| host(&value));
    let path = table.optional("path", |value| path(&value));
    let methods = table.or("methods", Vec::new(), |value| methods(&value));
    let headers = table.or("headers", Vec::new(), |value| headers(&value));
    let model = model(&table);
    Ok(Match {
        host: host?,
        path: path?.flatten(),
        methods: methods?,
        headers: headers?,
        model: model?,
    })
}

fn host(value: &Value<'_>) -> Read<HostMatch> {
    let text = value.string(HOST)?.to_ascii_lowercase();
    match text.strip_prefix('*') {
        Some(suffix) if suffix.strip_prefix('.').is_some_and(address::is_name) => {
            Ok(HostMatch::Suffix(suffix.to_owned()))
        }
        None if address::is_host(&text) => Ok(HostMatch::Exact(text)),
        _ => value.wrong(HOST),
    }
}

/// None for the prefix `/`: it holds for every request, as no condition does.
fn path(value: &Value<'_>) -> Read<Option<PathMatch>> {
    if value.as_str().is_some() {
        return exact_path(value).map(|path| Some(PathMatch::Exact(path)));
    }
    if !value.is_table() {
        return value.wrong(PATH);
    }
    let table = value.table(PATH_KEYS)?;
    let exact = table.optional("exact", |value| exact_path(&value));
    let prefix = table.optional("prefix", |value| exact_path(&value));
    let regex = table.optional("regex", |value| regex(&value));
    match (exact?, prefix?, regex?) {
        (Some(path), None, None) => Ok(Some(PathMatch::Exact(path))),
        (None, Some(path), None) => Ok(match path.trim_end_matches('/') {
            "" => None,
            segments => Some(PathMatch::Prefix(segments.to_owned())),
        }),
        (None, None, Some(regex)) => Ok(Some(PathMatch::Regex(regex))),
        _ => value.wrong(PATH),
    }
}

fn exact_path(value: &Value<'_>) -> Read<String> {
    value.string_that(EXACT, http::is_path).map(str::to_owned)
}

/// Compiled alone first, so that `a)|(b` is refused, and then once more so that it matches whole paths only.
fn regex(value: &Value<'_>) -> Read<Regex> {
    let text = value.string("a regular expression")?;
    let compiled = Regex::new(text).and_then(|_| Regex::new(&format!(r"\A(?:{text})\z")));
    compiled.or_else(|error| {
        let told = error.to_string();
        let reason = told.lines().last().unwrap_or_default();
        value.wrong(format!(
            "a regular expression ({})",
            reason.trim_start_matches("error: ")
        ))
    })
}

fn methods(value: &Value<'_>) -> Read<Vec<String>> {
    let methods = value.array(r#"methods, such as ["GET", "POST"]"#)?;
    if methods.is_empty() {
        return value.wrong("at least one method; leave the key out to match any");
    }
    let read = all(methods.iter().map(|method| {
        method
            .string_that(r#"a method such as "POST""#, http::is_token)
            .map(str::to_ascii_uppercase)
    }));
    let mut read = read?;
    names::unique("a method", methods.iter().cloned().zip(read.iter()))?;
    read.sort();
    Ok(read)
}

fn headers(value: &Value<'_>) -> Read<Vec<HeaderMatch>> {
    let headers = value.entries(r#"a table such as { "x-tenant" = "a", "x-debug" = true }"#)?;
    let read = all(headers.iter().map(|(name, value)| header(name, value)));
    let mut read = read?;
    let names = headers
        .iter()
        .map(|(_, value)| value.clone())
        .zip(read.iter().map(|header| &header.name));
    names::unique("a header name (in any case)", names)?;
    read.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(read)
}

fn header(name: &str, value: &Value<'_>) -> Read<HeaderMatch> {
    if !http::is_token(name) {
        return value.wrong("a header name of letters, digits and hyphens as its key");
    }
    let name = name.to_ascii_lowercase();
    if name == "host" {
        return value
            .wrong("the key host of the match instead, as HTTP/2 requests have no such header");
    }
    let condition = match (value.as_str(), value.as_bool()) {
        (Some(text), _) if http::is_field_value(text) => HeaderValueMatch::Exact(text.to_owned()),
        (_, Some(true)) => HeaderValueMatch::Present,
        _ => return value.wrong("the value of the header as a string, or true for any value"),
    };
    Ok(HeaderMatch {
        name,
        value: condition,
    })
}

fn model(table: &Table<'_>) -> Read<Option<ModelMatch>> {
    let is_name = |text: &str| !text.is_empty() && !text.contains(char::is_control);
    let text = |expected: &'static str| {
        move |value: Value<'_>| value.string_that(expected, is_name).map(str::to_owned)
    };
    let name = table.optional("model", text("the name of a model"));
    let version = table.optional(
        "version",
        text(r#"the version of a model as a string, such as "1""#),
    );
    match (name?, version?) {
        (Some(name), version) => Ok(Some(ModelMatch { name, version })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(table.missing(
            "model",
            &format!(
                "a model, as {} is set",
                table::join(table.path(), "version")
            ),
        )),
    }
}
