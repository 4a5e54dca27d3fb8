//! The datatypes of the protocol, their names, and the size of an element.

use std::fmt;
use std::str::FromStr;

use super::TensorError;
use crate::inference;

/// The datatype of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    /// Byte strings of any length, each framed by its length.
    Bytes,
}

impl DataType {
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// The name on the wire, such as `FP32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The datatype with this name on the wire; names are upper case.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "BOOL" => Self::Bool,
            "UINT8" => Self::Uint8,
            "UINT16" => Self::Uint16,
            "UINT32" => Self::Uint32,
            "UINT64" => Self::Uint64,
            "INT8" => Self::Int8,
            "INT16" => Self::Int16,
            "INT32" => Self::Int32,
            "INT64" => Self::Int64,
            "FP16" => Self::Fp16,
            "BF16" => Self::Bf16,
            "FP32" => Self::Fp32,
            "FP64" => Self::Fp64,
            "BYTES" => Self::Bytes,
            _ => return None,
        })
    }

    /// Bytes that one element takes; none for `BYTES`, whose elements differ.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// None: `TYPE_INVALID`.
    pub fn from_config_type(config_type: inference::DataType) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|datatype| datatype.config_type() == config_type)
    }

    /// The same datatype as a model configuration writes it.
    pub const fn config_type(self) -> inference::DataType {
        match self {
            Self::Bool => inference::DataType::TypeBool,
            Self::Uint8 => inference::DataType::TypeUint8,
            Self::Uint16 => inference::DataType::TypeUint16,
            Self::Uint32 => inference::DataType::TypeUint32,
            Self::Uint64 => inference::DataType::TypeUint64,
            Self::Int8 => inference::DataType::TypeInt8,
            Self::Int16 => inference::DataType::TypeInt16,
            Self::Int32 => inference::DataType::TypeInt32,
            Self::Int64 => inference::DataType::TypeInt64,
            Self::Fp16 => inference::DataType::TypeFp16,
            Self::Bf16 => inference::DataType::TypeBf16,
            Self::Fp32 => inference::DataType::TypeFp32,
            Self::Fp64 => inference::DataType::TypeFp64,
            Self::Bytes => inference::DataType::TypeString,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for DataType {
    type Err = TensorError;

    fn from_str(name: &str) -> Result<Self, TensorError> {
        Self::parse(name).ok_or_else(|| TensorError::unknown_datatype(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for datatype in DataType::ALL {
            assert_eq!(DataType::parse(datatype.name()), Some(datatype));
            assert_eq!(datatype.name().parse::<DataType>(), Ok(datatype));
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "fp32", "FP8", "STRING", " FP32", "TYPE_FP32"] {
            assert_eq!(DataType::parse(name), None, "{name}");
        }
        let error = "FP99".parse::<DataType>().unwrap_err().to_string();
        assert!(error.contains("'FP99'"), "{error}");
    }

    #[test]
    fn a_configuration_names_the_same_datatype() {
        for datatype in DataType::ALL {
            let name = datatype.config_type().as_str_name();
            assert_eq!(
                DataType::from_config_type(datatype.config_type()),
                Some(datatype)
            );
            let want = match datatype {
                DataType::Bytes => "TYPE_STRING".to_owned(),
                other => format!("TYPE_{other}"),
            };
            assert_eq!(name, want);
        }
    }
}
