//! The few grammars of HTTP that a configuration can break (RFC 9110, RFC 3986).

use super::{Read, Value};

/// The name of a header that requests bring, in lower case.
pub(super) fn header_name(value: &Value<'_>) -> Read<String> {
    let is_name = |text: &str| is_token(text) && !text.eq_ignore_ascii_case("host");
    let expected = r#"the name of a header, such as "x-tenant", and not host"#;
    let name = value.string_that(expected, is_name)?;
    Ok(name.to_ascii_lowercase())
}

/// A method or the name of a header.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The value of a header as it arrives: visible ASCII, blanks only inside.
pub(super) fn is_field_value(text: &str) -> bool {
    text.trim() == text
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() || b" \t".contains(&byte))
}

/// A path as it stands in a request, so percent-encoded where it must be; without query and fragment.
pub(super) fn is_path(text: &str) -> bool {
    is_path_and_query(text) && !text.contains('?')
}

pub(super) fn is_path_and_query(text: &str) -> bool {
    text.starts_with('/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars() {
        assert!(is_token("x-api-key") && is_token("M-SEARCH"));
        assert!(!is_token("") && !is_token("a b") && !is_token("a:b") && !is_token("é"));
        assert!(is_field_value("") && is_field_value("text/plain; q=1"));
        assert!(!is_field_value(" a") && !is_field_value("a\n") && !is_field_value("é"));
        assert!(is_path("/") && is_path("/v2/models/a%20b") && !is_path("/a?b"));
        assert!(is_path_and_query("/a?b") && !is_path_and_query("a") && !is_path_and_query("/a#b"));
        assert!(!is_path("/a b") && !is_path("/é") && !is_path(""));
    }
}
