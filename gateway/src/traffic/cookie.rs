//! A cookie of a request (RFC 6265, section 4.2): `name=value` pairs between semicolons, in one header or, over HTTP/2, in
//! several.

use http::HeaderMap;
use http::header::COOKIE;

/// The first value of that name which is not empty.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter();
    let mut pairs = pairs.flat_map(|header| header.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (own, value) = pair.split_at(equals);
        let value = value.get(1..)?.trim_ascii();
        (own.trim_ascii() == name.as_bytes() && !value.is_empty()).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_from_one_header_or_several() {
        let mut headers = HeaderMap::new();
        for header in ["theme=dark; session=;session = a=b ", "user=7", "broken"] {
            headers.append(COOKIE, header.parse().unwrap());
        }
        let found = |name| cookie(&headers, name).map(|value| std::str::from_utf8(value).unwrap());
        assert_eq!(found("theme"), Some("dark"));
        assert_eq!(found("session"), Some("a=b"));
        assert_eq!(found("user"), Some("7"));
        assert_eq!(found("broken"), None);
        assert_eq!(found("ser"), None);
    }
}
