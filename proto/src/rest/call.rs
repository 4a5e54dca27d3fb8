//! Which call of the protocol a method and a path name.

use std::borrow::Cow;

use http::Method;

use super::RestError;
use super::memory::{Memory, MemoryCall};
use crate::status::hex_byte;

/// A model in a path, its name and version percent-decoded and not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model<'a> {
    pub name: Cow<'a, str>,
    /// None: the server chooses.
    pub version: Option<Cow<'a, str>>,
}

impl Model<'_> {
    /// The version as gRPC messages have it: empty when the server chooses.
    pub fn version_or_empty(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }
}

/// A REST call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    ServerMetadata,
    ServerLive,
    ServerReady,
    ModelMetadata(Model<'a>),
    ModelReady(Model<'a>),
    ModelConfig(Model<'a>),
    /// None: of all models.
    ModelStatistics(Option<Model<'a>>),
    Infer(Model<'a>),
    RepositoryIndex,
    RepositoryLoad(Cow<'a, str>),
    RepositoryUnload(Cow<'a, str>),
    Memory(MemoryCall<'a>),
    /// Reads when the body is empty, else changes. None: the global settings.
    TraceSetting(Option<Cow<'a, str>>),
    /// Reads when the body is empty, else changes.
    LogSettings,
}

impl<'a> Call<'a> {
    /// Reads a request line; `path` is without the query. None when the protocol has no such path.
    ///
    /// # Errors
    /// A name that is empty, badly escaped or not UTF-8 (400), or a method that does not go with the path (405).
    pub fn parse(method: &Method, path: &'a str) -> Result<Option<Self>, RestError> {
        let Some(call) = Self::of_path(path)? else {
            return Ok(None);
        };
        let allowed = call.methods();
        if !allowed.split(", ").any(|allowed| method == allowed) {
            return Err(RestError::method_not_allowed(method, allowed));
        }
        Ok(Some(call))
    }

    /// The methods that go with the call, as the `allow` header lists them.
    pub const fn methods(&self) -> &'static str {
        match self {
            Self::ServerMetadata
            | Self::ServerLive
            | Self::ServerReady
            | Self::ModelMetadata(_)
            | Self::ModelReady(_)
            | Self::ModelConfig(_)
            | Self::ModelStatistics(_) => "GET",
            Self::Infer(_)
            | Self::RepositoryIndex
            | Self::RepositoryLoad(_)
            | Self::RepositoryUnload(_) => "POST",
            Self::Memory(call) => call.method(),
            Self::TraceSetting(_) | Self::LogSettings => "GET, POST",
        }
    }

    /// Path of the gRPC method that answers the same.
    pub const fn grpc_path(&self) -> &'static str {
        match self {
            Self::ServerMetadata => "/inference.GRPCInferenceService/ServerMetadata",
            Self::ServerLive => "/inference.GRPCInferenceService/ServerLive",
            Self::ServerReady => "/inference.GRPCInferenceService/ServerReady",
            Self::ModelMetadata(_) => "/inference.GRPCInferenceService/ModelMetadata",
            Self::ModelReady(_) => "/inference.GRPCInferenceService/ModelReady",
            Self::ModelConfig(_) => "/inference.GRPCInferenceService/ModelConfig",
            Self::ModelStatistics(_) => "/inference.GRPCInferenceService/ModelStatistics",
            Self::Infer(_) => "/inference.GRPCInferenceService/ModelInfer",
            Self::RepositoryIndex => "/inference.GRPCInferenceService/RepositoryIndex",
            Self::RepositoryLoad(_) => "/inference.GRPCInferenceService/RepositoryModelLoad",
            Self::RepositoryUnload(_) => "/inference.GRPCInferenceService/RepositoryModelUnload",
            Self::Memory(call) => call.grpc_path(),
            Self::TraceSetting(_) => "/inference.GRPCInferenceService/TraceSetting",
            Self::LogSettings => "/inference.GRPCInferenceService/LogSettings",
        }
    }

    /// The model that the call is about, if it is about one.
    pub fn model_name(&self) -> Option<&str> {
        match self {
            Self::ModelMetadata(model)
            | Self::ModelReady(model)
            | Self::ModelConfig(model)
            | Self::ModelStatistics(Some(model))
            | Self::Infer(model) => Some(&model.name),
            Self::RepositoryLoad(name)
            | Self::RepositoryUnload(name)
            | Self::TraceSetting(Some(name)) => Some(name),
            Self::ServerMetadata
            | Self::ServerLive
            | Self::ServerReady
            | Self::ModelStatistics(None)
            | Self::RepositoryIndex
            | Self::Memory(_)
            | Self::TraceSetting(None)
            | Self::LogSettings => None,
        }
    }

    fn of_path(path: &'a str) -> Result<Option<Self>, RestError> {
        let Some(rest) = path.strip_prefix("/v2") else {
            return Ok(None);
        };
        if rest.is_empty() || rest == "/" {
            return Ok(Some(Self::ServerMetadata));
        }
        let Some(rest) = rest.strip_prefix('/') else {
            return Ok(None);
        };
        let mut segments = [""; 6];
        let mut count = 0;
        for segment in rest.split('/') {
            let Some(slot) = segments.get_mut(count) else {
                return Ok(None);
            };
            *slot = segment;
            count += 1;
        }
        Ok(Some(match segments[..count] {
            ["health", "live"] => Self::ServerLive,
            ["health", "ready"] => Self::ServerReady,
            ["models", "stats"] => Self::ModelStatistics(None),
            ["models", name] => Self::ModelMetadata(model(name, None)?),
            ["models", name, action] => match action {
                "ready" => Self::ModelReady(model(name, None)?),
                "config" => Self::ModelConfig(model(name, None)?),
                "stats" => Self::ModelStatistics(Some(model(name, None)?)),
                "infer" => Self::Infer(model(name, None)?),
                _ => return Ok(None),
            },
            ["models", name, "versions", version] => {
                Self::ModelMetadata(model(name, Some(version))?)
            }
            ["models", name, "versions", version, action] => match action {
                "ready" => Self::ModelReady(model(name, Some(version))?),
                "config" => Self::ModelConfig(model(name, Some(version))?),
                "stats" => Self::ModelStatistics(Some(model(name, Some(version))?)),
                "infer" => Self::Infer(model(name, Some(version))?),
                _ => return Ok(None),
            },
            ["trace", "setting"] => Self::TraceSetting(None),
            ["models", name, "trace", "setting"]
            | ["models", name, "versions", _, "trace", "setting"] => {
                Self::TraceSetting(Some(decode(name, "model name")?))
            }
            ["logging"] => Self::LogSettings,
            ["systemsharedmemory", ref rest @ ..] => {
                match MemoryCall::of_path(Memory::System, rest)? {
                    Some(call) => Self::Memory(call),
                    None => return Ok(None),
                }
            }
            ["cudasharedmemory", ref rest @ ..] => match MemoryCall::of_path(Memory::Cuda, rest)? {
                Some(call) => Self::Memory(call),
                None => return Ok(None),
            },
            ["repository", "index"] => Self::RepositoryIndex,
            ["repository", "models", name, "load"] => {
                Self::RepositoryLoad(decode(name, "model name")?)
            }
            ["repository", "models", name, "unload"] => {
                Self::RepositoryUnload(decode(name, "model name")?)
            }
            _ => return Ok(None),
        }))
    }
}

fn model<'a>(name: &'a str, version: Option<&'a str>) -> Result<Model<'a>, RestError> {
    Ok(Model {
        name: decode(name, "model name")?,
        version: version
            .map(|version| decode(version, "model version"))
            .transpose()?,
    })
}

/// A path segment with its escapes resolved; `what` it is goes into errors.
pub(super) fn decode<'a>(segment: &'a str, what: &str) -> Result<Cow<'a, str>, RestError> {
    if segment.is_empty() {
        return Err(RestError::invalid(format!("{what} in the path is empty")));
    }
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let escaped = after
            .split_first_chunk::<2>()
            .and_then(|(&[high, low], after)| Some((hex_byte(high, low)?, after)));
        let Some((byte, after)) = escaped else {
            return Err(RestError::invalid(format!(
                "{what} '{segment}' in the path has a '%' that two hexadecimal digits do not follow"
            )));
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|_| RestError::invalid(format!("{what} '{segment}' in the path is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named<'a>(name: &'a str, version: Option<&'a str>) -> Model<'a> {
        Model {
            name: name.into(),
            version: version.map(Cow::from),
        }
    }

    #[test]
    fn every_path_is_read() {
        for (method, path, call) in [
            (Method::GET, "/v2", Call::ServerMetadata),
            (Method::GET, "/v2/", Call::ServerMetadata),
            (Method::GET, "/v2/health/live", Call::ServerLive),
            (Method::GET, "/v2/health/ready", Call::ServerReady),
            (
                Method::GET,
                "/v2/models/m",
                Call::ModelMetadata(named("m", None)),
            ),
            (
                Method::GET,
                "/v2/models/m/versions/2",
                Call::ModelMetadata(named("m", Some("2"))),
            ),
            (
                Method::GET,
                "/v2/models/m/ready",
                Call::ModelReady(named("m", None)),
            ),
            (
                Method::GET,
                "/v2/models/m/versions/2/ready",
                Call::ModelReady(named("m", Some("2"))),
            ),
            (
                Method::GET,
                "/v2/models/m/config",
                Call::ModelConfig(named("m", None)),
            ),
            (
                Method::GET,
                "/v2/models/m/stats",
                Call::ModelStatistics(Some(named("m", None))),
            ),
            (Method::GET, "/v2/models/stats", Call::ModelStatistics(None)),
            (
                Method::POST,
                "/v2/models/m/infer",
                Call::Infer(named("m", None)),
            ),
            (
                Method::POST,
                "/v2/models/m/versions/10/infer",
                Call::Infer(named("m", Some("10"))),
            ),
            (Method::POST, "/v2/repository/index", Call::RepositoryIndex),
            (
                Method::POST,
                "/v2/repository/models/m/load",
                Call::RepositoryLoad("m".into()),
            ),
            (
                Method::POST,
                "/v2/repository/models/m/unload",
                Call::RepositoryUnload("m".into()),
            ),
            (
                Method::GET,
                "/v2/systemsharedmemory/region/a%20b/status",
                Call::Memory(MemoryCall::Status(Memory::System, Some("a b".into()))),
            ),
            (
                Method::POST,
                "/v2/cudasharedmemory/unregister",
                Call::Memory(MemoryCall::Unregister(Memory::Cuda, None)),
            ),
        ] {
            assert_eq!(method.as_str(), call.methods());
            assert_eq!(Call::parse(&method, path), Ok(Some(call)), "{path}");
        }
    }

    #[test]
    fn other_paths_are_not_the_protocols() {
        for path in [
            "",
            "/",
            "/v1",
            "/v2x",
            "/v2/models",
            "/v2/health",
            "/v2/models/m/generate",
            "/v2/models/m/generate_stream",
            "/v2/models/m/versions",
            "/v2/models/m/versions/1/infer/more",
            "/v2/models/m/infer/",
            "/v2/repository/models/m",
            "/V2/health/live",
        ] {
            assert_eq!(Call::parse(&Method::GET, path), Ok(None), "{path}");
        }
    }

    #[test]
    fn a_wrong_method_names_the_right_one() {
        for (method, path, allow) in [
            (Method::GET, "/v2/models/m/infer", "POST"),
            (Method::POST, "/v2/models/m", "GET"),
            (Method::DELETE, "/v2/repository/index", "POST"),
        ] {
            let error = Call::parse(&method, path).unwrap_err();
            assert_eq!((error.status.as_u16(), error.allow), (405, Some(allow)));
        }
    }

    #[test]
    fn settings_are_read_and_changed_on_the_same_path() {
        for (path, call) in [
            ("/v2/logging", Call::LogSettings),
            ("/v2/trace/setting", Call::TraceSetting(None)),
            (
                "/v2/models/m/trace/setting",
                Call::TraceSetting(Some("m".into())),
            ),
            (
                "/v2/models/m/versions/1/trace/setting",
                Call::TraceSetting(Some("m".into())),
            ),
        ] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(Call::parse(&method, path), Ok(Some(call.clone())), "{path}");
            }
            let error = Call::parse(&Method::PUT, path).unwrap_err();
            assert_eq!(error.allow, Some("GET, POST"));
        }
    }

    #[test]
    fn names_are_percent_decoded() {
        let call = Call::parse(&Method::GET, "/v2/models/a%2fb%C3%A9/versions/%31")
            .unwrap()
            .unwrap();
        assert_eq!(call, Call::ModelMetadata(named("a/bé", Some("1"))));
        assert_eq!(call.model_name(), Some("a/bé"));
    }

    #[test]
    fn bad_names_are_refused() {
        for path in [
            "/v2/models/",
            "/v2/models//ready",
            "/v2/models/m/versions//ready",
            "/v2/models/%/ready",
            "/v2/models/%4/ready",
            "/v2/models/%zz/ready",
            "/v2/models/%ff/ready",
        ] {
            let error = Call::parse(&Method::GET, path).unwrap_err();
            assert_eq!(error.status, 400, "{path}");
        }
    }

    #[test]
    fn grpc_paths_name_methods_of_the_service() {
        let generated = include_str!("../generated/inference.rs");
        for path in [
            "/v2",
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models/m",
            "/v2/models/m/ready",
            "/v2/models/m/config",
            "/v2/models/m/stats",
            "/v2/models/m/infer",
            "/v2/repository/index",
            "/v2/repository/models/m/load",
            "/v2/repository/models/m/unload",
            "/v2/systemsharedmemory/status",
            "/v2/systemsharedmemory/region/r/register",
            "/v2/systemsharedmemory/unregister",
            "/v2/cudasharedmemory/region/r/status",
            "/v2/cudasharedmemory/region/r/register",
            "/v2/cudasharedmemory/region/r/unregister",
            "/v2/trace/setting",
            "/v2/logging",
        ] {
            let call = Call::of_path(path).unwrap().unwrap();
            let quoted = format!("\"{}\"", call.grpc_path());
            assert!(generated.contains(&quoted), "{quoted}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_read_without_panic(path in "(/v2)?(/(models|repository|versions|infer|logging|trace|setting|systemsharedmemory|region|register|%?[a-f0-9é%]{0,4})){0,6}") {
            if let Ok(Some(call)) = Call::parse(&Method::POST, &path) {
                prop_assert!(call.methods().ends_with("POST"));
            }
        }
    }
}
