//! What travels on the wire: messages and services of the Open Inference Protocol, of gRPC health checking,
//! of ORCA load reports and of etcd, and the pure rules about them (tensors, framing, statuses, the REST mapping).
//!
//! The code under `generated/` is checked in and made from `proto/*.proto`; `tests/generated.rs` holds the two
//! together and says how to refresh them.

pub mod framing;
pub mod rest;
pub mod status;
pub mod tensor;
pub mod timeout;
pub mod trace_context;

/// Messages and the service of the Open Inference Protocol, version 2.
#[allow(
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code is not written to our lints"
)]
pub mod inference {
    include!("generated/inference.rs");
}

/// The descriptors (`FileDescriptorSet`) of `inference.ModelConfig`, for whoever reads it as text.
pub const MODEL_CONFIG_DESCRIPTORS: &[u8] = include_bytes!("generated/model_config.binpb");

/// gRPC health checking, version 1.
#[allow(
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code is not written to our lints"
)]
pub mod health {
    include!("generated/grpc.health.v1.rs");
}

/// What the gateway asks of etcd, version 3 of its API.
#[allow(
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code is not written to our lints"
)]
pub mod etcd {
    include!("generated/etcdserverpb.rs");
}

/// ORCA load reports, and the service that streams them.
pub mod orca {
    use std::time::Duration;

    pub use crate::xds::data::orca::v3::OrcaLoadReport;
    pub use crate::xds::service::orca::v3::{
        OrcaLoadReportRequest, open_rca_service_client, open_rca_service_server,
    };

    impl OrcaLoadReportRequest {
        /// Asks for a report at once and one every `interval`.
        pub fn every(interval: Duration) -> Self {
            Self {
                report_interval: prost_types::Duration::try_from(interval).ok(),
                ..Self::default()
            }
        }
    }
}

/// The module tree of ORCA's two packages, in the shape that the generated paths between them need.
#[allow(
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code is not written to our lints"
)]
mod xds {
    pub mod data {
        pub mod orca {
            pub mod v3 {
                include!("generated/xds.data.orca.v3.rs");
            }
        }
    }

    pub mod service {
        pub mod orca {
            pub mod v3 {
                include!("generated/xds.service.orca.v3.rs");
            }
        }
    }
}
