//! Who may change the server: load and unload models, register memory, change settings.
//!
//! With a token file the caller must send its content as a bearer token (RFC 6750). The file is read on every
//! such call, so that a token is changed by changing the file. Without one everybody may.

use std::path::PathBuf;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use super::Fault;

#[derive(Debug, Clone, Default)]
pub struct Guard {
    token_file: Option<PathBuf>,
}

impl Guard {
    /// # Errors
    /// A token file that cannot be read, or that has no token.
    pub fn new(token_file: Option<PathBuf>) -> Result<Guard, String> {
        let guard = Guard { token_file };
        guard.token()?;
        Ok(guard)
    }

    /// Lets a caller with these headers pass, or says why not.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let token = self.token().map_err(|error| {
            tracing::error!("{error}");
            Fault::Internal("the token of this server cannot be read".to_owned())
        })?;
        let Some(token) = token else { return Ok(()) };
        let sent = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let sent = sent.and_then(bearer).ok_or_else(|| {
            Fault::Unauthenticated(
                "this call changes the server and needs the header 'authorization: Bearer TOKEN'"
                    .to_owned(),
            )
        })?;
        if bool::from(sent.ct_eq(token.as_bytes())) {
            Ok(())
        } else {
            Err(Fault::Unauthenticated(
                "the bearer token is not the one that this server expects".to_owned(),
            ))
        }
    }

    fn token(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.token_file else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("cannot read the token file '{}': {error}", file.display()))?;
        match text.trim() {
            "" => Err(format!("the token file '{}' is empty", file.display())),
            token => Ok(Some(token.to_owned())),
        }
    }
}

/// The token of a header's value; the scheme's name is not case-sensitive.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn without_a_token_everybody_passes() {
        assert_eq!(Guard::default().check(&HeaderMap::new()), Ok(()));
    }

    #[test]
    fn the_token_is_what_the_file_says_now() {
        let file = std::env::temp_dir().join(format!("forebay-token-{}", std::process::id()));
        std::fs::write(&file, "s3cret\n").unwrap();
        let guard = Guard::new(Some(file.clone())).unwrap();
        for right in ["Bearer s3cret", "bearer  s3cret "] {
            assert_eq!(guard.check(&with(right)), Ok(()), "{right}");
        }
        let wrong = [
            "Bearer s3cre",
            "Bearer s3crets",
            "Bearer ",
            "Basic s3cret",
            "s3cret",
            "",
        ];
        for headers in wrong.map(with).into_iter().chain([HeaderMap::new()]) {
            assert!(
                matches!(guard.check(&headers), Err(Fault::Unauthenticated(_))),
                "{headers:?}"
            );
        }
        std::fs::write(&file, "new").unwrap();
        assert!(guard.check(&with("Bearer s3cret")).is_err());
        assert_eq!(guard.check(&with("Bearer new")), Ok(()));
        std::fs::write(&file, " \n").unwrap();
        assert!(matches!(
            guard.check(&with("Bearer ")),
            Err(Fault::Internal(_))
        ));
        assert!(
            Guard::new(Some(file.clone()))
                .unwrap_err()
                .contains("is empty")
        );
        std::fs::remove_file(&file).unwrap();
        assert!(
            Guard::new(Some(file))
                .unwrap_err()
                .contains("cannot read the token file")
        );
    }
}
