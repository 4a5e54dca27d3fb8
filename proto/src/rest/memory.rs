//! The calls about shared memory: their paths, their bodies to messages, and the states of regions as JSON.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::RestError;
use super::call::decode;
use crate::inference::{
    CudaSharedMemoryStatusResponse, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryStatusResponse,
};

/// Whose memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    System,
    Cuda,
}

/// A call about one region, or about all where the name is None.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryCall<'a> {
    Status(Memory, Option<Cow<'a, str>>),
    Register(Memory, Cow<'a, str>),
    Unregister(Memory, Option<Cow<'a, str>>),
}

impl<'a> MemoryCall<'a> {
    /// Reads what follows `/v2/systemsharedmemory` or `/v2/cudasharedmemory`. None when the protocol has no such
    /// path.
    pub(super) fn of_path(memory: Memory, rest: &[&'a str]) -> Result<Option<Self>, RestError> {
        let region = |name| decode(name, "region name");
        Ok(Some(match *rest {
            ["status"] => Self::Status(memory, None),
            ["unregister"] => Self::Unregister(memory, None),
            ["region", name, "status"] => Self::Status(memory, Some(region(name)?)),
            ["region", name, "register"] => Self::Register(memory, region(name)?),
            ["region", name, "unregister"] => Self::Unregister(memory, Some(region(name)?)),
            _ => return Ok(None),
        }))
    }

    /// The method that goes with the call.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Status(..) => "GET",
            Self::Register(..) | Self::Unregister(..) => "POST",
        }
    }

    /// Path of the gRPC method that answers the same.
    pub const fn grpc_path(&self) -> &'static str {
        use Memory::{Cuda, System};
        match self {
            Self::Status(System, _) => "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
            Self::Register(System, _) => {
                "/inference.GRPCInferenceService/SystemSharedMemoryRegister"
            }
            Self::Unregister(System, _) => {
                "/inference.GRPCInferenceService/SystemSharedMemoryUnregister"
            }
            Self::Status(Cuda, _) => "/inference.GRPCInferenceService/CudaSharedMemoryStatus",
            Self::Register(Cuda, _) => "/inference.GRPCInferenceService/CudaSharedMemoryRegister",
            Self::Unregister(Cuda, _) => {
                "/inference.GRPCInferenceService/CudaSharedMemoryUnregister"
            }
        }
    }
}

#[derive(Deserialize)]
struct RegisterBody {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

/// Reads the body of a request to register a region of system memory.
///
/// # Errors
/// A body that is not such a request.
pub fn register_request(
    region: &str,
    body: &[u8],
) -> Result<SystemSharedMemoryRegisterRequest, RestError> {
    let body: RegisterBody = serde_json::from_slice(body).map_err(|error| {
        RestError::invalid(format!(
            "body is not a request to register a region: {error}"
        ))
    })?;
    Ok(SystemSharedMemoryRegisterRequest {
        name: region.to_owned(),
        key: body.key,
        offset: body.offset,
        byte_size: body.byte_size,
    })
}

/// An array with one object per region.
pub fn system_memory(status: &SystemSharedMemoryStatusResponse) -> Bytes {
    let regions = status.regions.values().map(|region| {
        json!({
            "name": region.name,
            "key": region.key,
            "offset": region.offset,
            "byte_size": region.byte_size,
        })
    });
    regions.collect::<Value>().to_string().into()
}

/// An array with one object per region.
pub fn cuda_memory(status: &CudaSharedMemoryStatusResponse) -> Bytes {
    let regions = status.regions.values().map(|region| {
        json!({
            "name": region.name,
            "device_id": region.device_id,
            "byte_size": region.byte_size,
        })
    });
    regions.collect::<Value>().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::system_shared_memory_status_response::RegionStatus;

    #[test]
    fn a_region_is_registered_with_key_offset_and_size() {
        let request = register_request("r", br#"{"key":"/k","offset":8,"byte_size":64}"#).unwrap();
        assert_eq!(
            (
                &request.name[..],
                &request.key[..],
                request.offset,
                request.byte_size
            ),
            ("r", "/k", 8, 64)
        );
        let without_offset = register_request("r", br#"{"key":"/k","byte_size":64}"#).unwrap();
        assert_eq!(without_offset.offset, 0);
        for body in [
            "",
            "{}",
            r#"{"key":"/k"}"#,
            r#"{"key":"/k","byte_size":-1}"#,
        ] {
            assert_eq!(
                register_request("r", body.as_bytes()).unwrap_err().status,
                400,
                "{body}"
            );
        }
    }

    #[test]
    fn regions_are_an_array() {
        let region = RegionStatus {
            name: "r".into(),
            key: "/k".into(),
            offset: 8,
            byte_size: 64,
        };
        let status = SystemSharedMemoryStatusResponse {
            regions: [("r".to_owned(), region)].into(),
        };
        let found: Value = serde_json::from_slice(&system_memory(&status)).unwrap();
        assert_eq!(
            found,
            json!([{"name": "r", "key": "/k", "offset": 8, "byte_size": 64}])
        );
        assert_eq!(
            cuda_memory(&CudaSharedMemoryStatusResponse::default()),
            "[]"
        );
    }
}
