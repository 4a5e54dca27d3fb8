//! The model that a REST path of the Open Inference Protocol names:
//! `/v2/models/MODEL[/versions/VERSION][/…]`, and `/v2/repository/models/MODEL/…` of Triton's repository extension.
//!
//! Which call it is, and whether the rest of the path makes sense, is not decided here.

use std::borrow::Cow;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestModel<'a> {
    /// Never empty.
    pub name: Cow<'a, str>,
    pub version: Option<Cow<'a, str>>,
}

impl<'a> RestModel<'a> {
    pub fn name_and_version(&self) -> (Option<&str>, Option<&str>) {
        (Some(&self.name), self.version.as_deref())
    }

    /// `path`: as received, without the query; percent-escapes are decoded in each segment. None: it names no model,
    /// or one that cannot exist (an empty name, a broken escape, bytes that are not UTF-8).
    pub fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix("/v2/")?;
        if let Some(path) = path.strip_prefix("repository/models/") {
            let (name, _) = first_segment(path);
            return Some(Self {
                name: decode(name)?,
                version: None,
            });
        }
        let path = path.strip_prefix("models/")?;
        // Statistics of all models: the place of a name, but none.
        if path == "stats" {
            return None;
        }
        let (name, rest) = first_segment(path);
        let version = match rest.strip_prefix("versions/") {
            Some(rest) => Some(decode(first_segment(rest).0)?),
            None => None,
        };
        Some(Self {
            name: decode(name)?,
            version,
        })
    }
}

/// The segment, and what follows its slash.
fn first_segment(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

/// Without percent-escapes. None: nothing, a broken escape, or bytes that are not UTF-8.
pub fn decode(segment: &str) -> Option<Cow<'_, str>> {
    if segment.is_empty() {
        return None;
    }
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            _ => byte,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(path: &str) -> Option<(String, Option<String>)> {
        RestModel::of(path)
            .map(|model| (model.name.into_owned(), model.version.map(Cow::into_owned)))
    }

    #[test]
    fn models_and_versions_are_found() {
        for (path, name, version) in [
            ("/v2/models/m", "m", None),
            ("/v2/models/m/", "m", None),
            ("/v2/models/m/infer", "m", None),
            ("/v2/models/m/versions/3", "m", Some("3")),
            ("/v2/models/m/versions/3/infer", "m", Some("3")),
            ("/v2/models/m/versions", "m", None),
            (
                "/v2/models/versions/versions/versions",
                "versions",
                Some("versions"),
            ),
            ("/v2/models/stats/infer", "stats", None),
            ("/v2/repository/models/m/load", "m", None),
            ("/v2/models/a%2Fb%20c/versions/%31", "a/b c", Some("1")),
            ("/v2/models/a+b", "a+b", None),
            ("/v2/models/%C3%a4", "ä", None),
        ] {
            assert_eq!(
                of(path),
                Some((name.to_owned(), version.map(str::to_owned))),
                "{path}"
            );
        }
    }

    #[test]
    fn other_paths_name_none() {
        for path in [
            "",
            "/",
            "/v2",
            "/v2/models",
            "/v2/models/",
            "/v2/models//infer",
            "/v2/models/stats",
            "/v2/models/m/versions//infer",
            "/v2/models/m/versions/",
            "/v2/repository/index",
            "/v2/repository/models/",
            "/v2/health/live",
            "/v1/models/m",
            "/x/v2/models/m",
            "/v2/models/%",
            "/v2/models/%4",
            "/v2/models/%zz",
            "/v2/models/%+1",
            "/v2/models/%ff",
            "/v2/models/m/versions/%",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn plain_paths_are_borrowed() {
        let model = RestModel::of("/v2/models/m/versions/3/infer").unwrap();
        assert!(matches!(
            model,
            RestModel {
                name: Cow::Borrowed("m"),
                version: Some(Cow::Borrowed("3"))
            }
        ));
    }

    proptest! {
        #[test]
        fn any_name_survives_escaping(name in "\\PC{1,20}") {
            let escaped: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(of(&format!("/v2/models/{escaped}/infer")), Some((name, None)));
        }

        #[test]
        fn no_path_panics(path in "(/v2/models/)?[%/a-f0-9é]{0,20}") {
            let _ = of(&path);
        }
    }
}
