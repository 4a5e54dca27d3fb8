//! The key of a request, by which `ring_hash` sends those that belong together to the same endpoint.
//!
//! Of the configured sources the first that the request has counts; an empty value is as good as none. A key is a hash
//! on which all gateways agree.

use std::net::IpAddr;

use forebay_config::gateway as config;
use http::{HeaderMap, HeaderName};

use crate::protocol::method::Method;
use crate::protocol::parameter::{self, Sought};
use crate::protocol::peek::{Peek, peek_model};
use crate::traffic::cookie::cookie;
use crate::traffic::hash;

#[derive(Debug)]
pub struct Affinity {
    parameter: Option<String>,
    header: Option<HeaderName>,
    cookie: Option<String>,
    pub model: bool,
    pub source: bool,
}

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub headers: &'a HeaderMap,
    pub source: Option<IpAddr>,
    /// Named in the path.
    pub model: Option<&'a str>,
    pub message: Option<MessageHead<'a>>,
}

/// The beginning of the (first) message of a gRPC call, not compressed.
#[derive(Debug, Clone, Copy)]
pub struct MessageHead<'a> {
    pub bytes: &'a [u8],
    /// It is all of the message.
    pub complete: bool,
    pub method: Method,
}

impl Affinity {
    pub fn new(config: &config::Affinity) -> Self {
        Self {
            parameter: config.parameter.clone(),
            // A token, so it is a name.
            header: config.header.as_ref().and_then(|name| name.parse().ok()),
            cookie: config.cookie.clone(),
            model: config.model,
            source: config.source,
        }
    }

    /// Whether it looks into the messages of gRPC calls.
    pub fn reads_messages(&self) -> bool {
        self.parameter.is_some() || self.model
    }

    /// None: the request has none of the sources.
    pub fn key(&self, seen: &Seen<'_>) -> Option<u64> {
        let value = self.parameter(seen);
        let value = value.or_else(|| Some(seen.headers.get(self.header.as_ref()?)?.as_bytes()));
        let value = value.filter(|value| !value.is_empty());
        let value = value.or_else(|| cookie(seen.headers, self.cookie.as_deref()?));
        let value = value.or_else(|| self.model(seen).map(str::as_bytes));
        value.map(hash::of).or_else(|| {
            let source = seen.source.filter(|_| self.source)?;
            Some(hash::of_address(source))
        })
    }

    fn parameter<'a>(&self, seen: &Seen<'a>) -> Option<&'a [u8]> {
        let name = self.parameter.as_ref()?;
        let message = seen.message?;
        if !matches!(message.method, Method::Infer | Method::StreamInfer) {
            return None;
        }
        match parameter::find(message.bytes, name, message.complete) {
            Sought::Found(value) => Some(value),
            Sought::Absent | Sought::NeedMore => None,
        }
    }

    fn model<'a>(&self, seen: &Seen<'a>) -> Option<&'a str> {
        self.model.then(|| seen.model()).flatten()
    }
}

impl<'a> Seen<'a> {
    /// What a cluster knows its model by, after a reload too.
    pub fn model_key(&self) -> Option<u64> {
        self.model().map(|model| hash::of(model.as_bytes()))
    }

    /// Named in the path or in the message.
    pub fn model(&self) -> Option<&'a str> {
        self.model.or_else(|| {
            let message = self.message?;
            let fields = message.method.model_fields()?;
            match peek_model(message.bytes, fields, message.complete) {
                Peek::Found(model) => model.name,
                Peek::NeedMore | Peek::Invalid | Peek::Compressed => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::inference::infer_parameter::ParameterChoice;
    use forebay_proto::inference::{InferParameter, ModelInferRequest};
    use http::HeaderValue;
    use prost::Message;

    use super::*;

    fn affinity() -> config::Affinity {
        config::Affinity {
            parameter: None,
            header: None,
            cookie: None,
            model: false,
            source: false,
            bound: 1.25,
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn message() -> Vec<u8> {
        let choice = ParameterChoice::StringParam("s-1".to_owned());
        let parameter = InferParameter {
            parameter_choice: Some(choice),
        };
        ModelInferRequest {
            model_name: "minilm".into(),
            parameters: [("session".to_owned(), parameter)].into(),
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn the_first_source_that_a_request_has_counts() {
        let all = Affinity::new(&config::Affinity {
            parameter: Some("session".into()),
            header: Some("x-session".into()),
            cookie: Some("sid".into()),
            model: true,
            source: true,
            ..affinity()
        });
        assert!(all.reads_messages());
        let message = message();
        let full = headers(&[("x-session", "h"), ("cookie", "a=1; sid=c")]);
        let bare = headers(&[]);
        let mut seen = Seen {
            headers: &full,
            source: Some("10.0.0.9".parse().unwrap()),
            model: None,
            message: Some(MessageHead {
                bytes: &message,
                complete: true,
                method: Method::Infer,
            }),
        };
        let expect = |seen: &Seen<'_>, value: &[u8]| {
            assert_eq!(all.key(seen), Some(hash::of(value)), "{value:?}");
        };
        expect(&seen, b"s-1");
        seen.message = None;
        expect(&seen, b"h");
        let cookies = headers(&[("x-session", ""), ("cookie", "a=1; sid=c")]);
        seen.headers = &cookies;
        expect(&seen, b"c");
        (seen.headers, seen.model) = (&bare, Some("resnet"));
        expect(&seen, b"resnet");
        seen.model = None;
        expect(&seen, &[10, 0, 0, 9]);
        seen.source = Some("::ffff:10.0.0.9".parse().unwrap());
        expect(&seen, &[10, 0, 0, 9]);
        seen.source = None;
        assert_eq!(all.key(&seen), None);
    }

    #[test]
    fn what_is_not_configured_is_not_looked_at() {
        let message = message();
        let by_model = Affinity::new(&config::Affinity {
            model: true,
            ..affinity()
        });
        let with = headers(&[("x-session", "h"), ("cookie", "sid=c")]);
        let seen = Seen {
            headers: &with,
            source: Some("10.0.0.9".parse().unwrap()),
            model: None,
            message: Some(MessageHead {
                bytes: &message,
                complete: true,
                method: Method::Infer,
            }),
        };
        assert_eq!(by_model.key(&seen), Some(hash::of(b"minilm")));
        let by_parameter = Affinity::new(&config::Affinity {
            parameter: Some("user".into()),
            ..affinity()
        });
        assert_eq!(by_parameter.key(&seen), None);
    }

    #[test]
    fn cookies_are_found_wherever_they_stand() {
        for (values, expected) in [
            (vec!["sid=a"], Some(&b"a"[..])),
            (vec!["x=1;sid=a=b ; y=2"], Some(b"a=b")),
            (vec!["x=1", "sid=z"], Some(b"z")),
            (vec!["sid=", "xsid=1", "sidx=2"], None),
            (vec![], None),
        ] {
            let pairs: Vec<_> = values.iter().map(|value| ("cookie", *value)).collect();
            assert_eq!(cookie(&headers(&pairs), "sid"), expected, "{values:?}");
        }
    }
}
