//! What kind of call a gRPC path names.
//!
//! Known are the Open Inference Protocol with Triton's extensions (service `inference.GRPCInferenceService`) and
//! the standard health service (`grpc.health.v1.Health`). Everything else is `Other`, and so is a method that a
//! later protocol version adds: whether it is unary is not known, and streaming is right for both.

use super::peek::ModelFields;

const INFERENCE: &str = "/inference.GRPCInferenceService/";
const HEALTH: &str = "/grpc.health.v1.Health/";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// ModelInfer: unary, the bulk of the traffic.
    Infer,
    /// ModelStreamInfer: a stream of inference requests, in both directions.
    StreamInfer,
    /// Another unary call about one model, named in these fields of its request.
    ModelScoped(ModelFields),
    /// A known unary call that names no model.
    Unscoped,
    /// Health of a service, once.
    HealthCheck,
    /// Health of a service, as a stream of changes.
    HealthWatch,
    Other,
}

impl Method {
    /// `path`: the request's `:path`, without a query.
    pub fn of(path: &str) -> Self {
        if let Some(method) = path.strip_prefix(INFERENCE) {
            return match method {
                "ModelInfer" => Self::Infer,
                "ModelStreamInfer" => Self::StreamInfer,
                "ModelReady" | "ModelMetadata" | "ModelConfig" | "ModelStatistics" => {
                    Self::ModelScoped(ModelFields::NAME_AND_VERSION)
                }
                "RepositoryModelLoad" | "RepositoryModelUnload" | "TraceSetting" => {
                    Self::ModelScoped(ModelFields::NAME_SECOND)
                }
                "ServerLive"
                | "ServerReady"
                | "ServerMetadata"
                | "RepositoryIndex"
                | "SystemSharedMemoryStatus"
                | "SystemSharedMemoryRegister"
                | "SystemSharedMemoryUnregister"
                | "CudaSharedMemoryStatus"
                | "CudaSharedMemoryRegister"
                | "CudaSharedMemoryUnregister"
                | "LogSettings" => Self::Unscoped,
                _ => Self::Other,
            };
        }
        match path.strip_prefix(HEALTH) {
            Some("Check") => Self::HealthCheck,
            Some("List") => Self::Unscoped,
            Some("Watch") => Self::HealthWatch,
            _ => Self::Other,
        }
    }

    /// Whether it is known to carry one message each way.
    pub fn is_unary(self) -> bool {
        match self {
            Self::Infer | Self::ModelScoped(_) | Self::Unscoped | Self::HealthCheck => true,
            Self::StreamInfer | Self::HealthWatch | Self::Other => false,
        }
    }

    /// Where the (first) request message names its model; None: nowhere.
    pub fn model_fields(self) -> Option<ModelFields> {
        match self {
            Self::Infer | Self::StreamInfer => Some(ModelFields::NAME_AND_VERSION),
            Self::ModelScoped(fields) => Some(fields),
            Self::Unscoped | Self::HealthCheck | Self::HealthWatch | Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        for (path, method) in [
            ("/inference.GRPCInferenceService/ModelInfer", Method::Infer),
            (
                "/inference.GRPCInferenceService/ModelStreamInfer",
                Method::StreamInfer,
            ),
            (
                "/inference.GRPCInferenceService/ModelReady",
                Method::ModelScoped(ModelFields::NAME_AND_VERSION),
            ),
            (
                "/inference.GRPCInferenceService/RepositoryModelLoad",
                Method::ModelScoped(ModelFields::NAME_SECOND),
            ),
            (
                "/inference.GRPCInferenceService/ServerLive",
                Method::Unscoped,
            ),
            ("/grpc.health.v1.Health/Check", Method::HealthCheck),
            ("/grpc.health.v1.Health/List", Method::Unscoped),
            ("/grpc.health.v1.Health/Watch", Method::HealthWatch),
            ("/inference.GRPCInferenceService/ModelInfer2", Method::Other),
            ("/inference.GRPCInferenceService/", Method::Other),
            ("/inference.GRPCInferenceServiceX/ModelInfer", Method::Other),
            ("/grpc.health.v1.Health", Method::Other),
            ("/v2/models/m/infer", Method::Other),
            ("", Method::Other),
        ] {
            assert_eq!(Method::of(path), method, "{path}");
        }
    }

    #[test]
    fn only_known_unary_calls_are_unary() {
        for method in [
            Method::Infer,
            Method::ModelScoped(ModelFields::NAME_SECOND),
            Method::Unscoped,
            Method::HealthCheck,
        ] {
            assert!(method.is_unary(), "{method:?}");
        }
        for method in [Method::StreamInfer, Method::HealthWatch, Method::Other] {
            assert!(!method.is_unary(), "{method:?}");
        }
    }

    #[test]
    fn models_are_named_where_the_protocol_says() {
        assert_eq!(
            Method::Infer.model_fields(),
            Some(ModelFields {
                name: 1,
                version: Some(2)
            })
        );
        assert_eq!(
            Method::StreamInfer.model_fields(),
            Method::Infer.model_fields()
        );
        let load = Method::of("/inference.GRPCInferenceService/RepositoryModelLoad");
        assert_eq!(
            load.model_fields(),
            Some(ModelFields {
                name: 2,
                version: None
            })
        );
        assert_eq!(Method::Unscoped.model_fields(), None);
        assert_eq!(Method::HealthCheck.model_fields(), None);
    }
}
