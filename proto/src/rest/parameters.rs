//! `parameters` objects: named values that are booleans, integers, strings or floating-point numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{SerializeMap, Serializer};

use super::RestError;
use crate::inference::InferParameter;
use crate::inference::infer_parameter::ParameterChoice;

pub(super) type Parameters = BTreeMap<String, InferParameter>;

/// A parameter as JSON has it.
pub(super) struct Parameter(pub ParameterChoice);

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParameterVisitor).map(Self)
    }
}

struct ParameterVisitor;

impl Visitor<'_> for ParameterVisitor {
    type Value = ParameterChoice;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a boolean, a number or a string")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<ParameterChoice, E> {
        Ok(ParameterChoice::BoolParam(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<ParameterChoice, E> {
        Ok(ParameterChoice::Int64Param(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<ParameterChoice, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => ParameterChoice::Int64Param(value),
            Err(_) => ParameterChoice::Uint64Param(value),
        })
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<ParameterChoice, E> {
        Ok(ParameterChoice::DoubleParam(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<ParameterChoice, E> {
        Ok(ParameterChoice::StringParam(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<ParameterChoice, E> {
        Ok(ParameterChoice::StringParam(value))
    }
}

/// Parameters as messages have them. For `#[serde(deserialize_with)]`; `null` is no parameters.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Parameters, D::Error> {
    let parameters = Option::<BTreeMap<String, Parameter>>::deserialize(deserializer)?;
    Ok(parameters
        .unwrap_or_default()
        .into_iter()
        .map(|(name, Parameter(choice))| {
            let parameter = InferParameter {
                parameter_choice: Some(choice),
            };
            (name, parameter)
        })
        .collect())
}

/// Takes a parameter that must be a boolean.
pub(super) fn take_bool(
    parameters: &mut Parameters,
    name: &str,
) -> Result<Option<bool>, RestError> {
    match take(parameters, name) {
        None => Ok(None),
        Some(ParameterChoice::BoolParam(value)) => Ok(Some(value)),
        Some(_) => Err(RestError::invalid(format!(
            "parameter '{name}' is not a boolean, want true or false"
        ))),
    }
}

/// Takes a parameter that must be a length.
pub(super) fn take_length(
    parameters: &mut Parameters,
    name: &str,
) -> Result<Option<usize>, RestError> {
    let length = match take(parameters, name) {
        None => return Ok(None),
        Some(ParameterChoice::Int64Param(value)) => usize::try_from(value).ok(),
        Some(_) => None,
    };
    length.map(Some).ok_or_else(|| {
        RestError::invalid(format!(
            "parameter '{name}' is not a length, want a number of bytes from 0 on"
        ))
    })
}

fn take(parameters: &mut Parameters, name: &str) -> Option<ParameterChoice> {
    parameters.remove(name)?.parameter_choice
}

/// Writes a JSON object of the parameters, with a length of its own among them if given.
pub(super) fn serialize<S: Serializer>(
    parameters: &Parameters,
    length: Option<(&str, usize)>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (name, parameter) in parameters {
        match &parameter.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => map.serialize_entry(name, value)?,
            Some(ParameterChoice::Int64Param(value)) => map.serialize_entry(name, value)?,
            Some(ParameterChoice::StringParam(value)) => map.serialize_entry(name, value)?,
            Some(ParameterChoice::DoubleParam(value)) => map.serialize_entry(name, value)?,
            Some(ParameterChoice::Uint64Param(value)) => map.serialize_entry(name, value)?,
            None => {}
        }
    }
    if let Some((name, length)) = length {
        map.serialize_entry(name, &length)?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Parameters, serde_json::Error> {
        deserialize(&mut serde_json::Deserializer::from_str(json))
    }

    fn written(parameters: &Parameters, length: Option<(&str, usize)>) -> String {
        let mut out = Vec::new();
        serialize(
            parameters,
            length,
            &mut serde_json::Serializer::new(&mut out),
        )
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parameters_are_read_and_written() {
        let json = r#"{"a":true,"b":-5,"c":"\u00e9","d":0.5,"e":18446744073709551615}"#;
        let parameters = read(json).unwrap();
        assert_eq!(
            parameters["e"].parameter_choice,
            Some(ParameterChoice::Uint64Param(u64::MAX))
        );
        assert_eq!(
            parameters["b"].parameter_choice,
            Some(ParameterChoice::Int64Param(-5))
        );
        assert_eq!(written(&parameters, None), json.replace("\\u00e9", "é"));
        assert_eq!(
            written(&read("null").unwrap(), Some(("n", 3))),
            r#"{"n":3}"#
        );
    }

    #[test]
    fn other_values_are_refused() {
        for json in [
            r#"{"a":null}"#,
            r#"{"a":[1]}"#,
            r#"{"a":{}}"#,
            "[]",
            "5",
            r#"{"a":"\ud800"}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn the_protocols_own_parameters_have_types() {
        let mut parameters = read(r#"{"a":1,"b":true,"c":-1,"d":"x"}"#).unwrap();
        assert_eq!(take_length(&mut parameters, "a"), Ok(Some(1)));
        assert_eq!(take_length(&mut parameters, "a"), Ok(None));
        assert_eq!(take_bool(&mut parameters, "b"), Ok(Some(true)));
        assert!(take_length(&mut parameters, "c").is_err());
        assert!(take_bool(&mut parameters, "d").is_err());
        assert!(parameters.is_empty());
    }
}
