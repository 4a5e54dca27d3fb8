//! Trace and log settings: bodies to messages and back. An empty body changes nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::RestError;
use crate::inference::log_settings_request::{SettingValue as LogValue, setting_value};
use crate::inference::log_settings_response::setting_value::ParameterChoice as LogAnswer;
use crate::inference::trace_setting_request::SettingValue as TraceValue;
use crate::inference::{
    LogSettingsRequest, LogSettingsResponse, TraceSettingRequest, TraceSettingResponse,
};

/// The one trace setting that is a list.
const TRACE_LEVEL: &str = "trace_level";

/// Null stands for what the setting falls back to.
#[derive(Deserialize)]
#[serde(untagged)]
enum TraceSetting {
    None(()),
    One(String),
    Number(i64),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LogSetting {
    Switch(bool),
    Level(u32),
    Text(String),
}

/// Reads the body of a request for trace settings; `model` is None for the global ones.
///
/// # Errors
/// A body that is neither empty nor an object of strings, arrays of strings, numbers and nulls.
pub fn trace_request(model: Option<&str>, body: &[u8]) -> Result<TraceSettingRequest, RestError> {
    let settings: BTreeMap<String, TraceSetting> = read(body, "trace settings")?;
    let settings = settings.into_iter().map(|(name, setting)| {
        let value = match setting {
            TraceSetting::None(()) => Vec::new(),
            TraceSetting::One(value) => vec![value],
            TraceSetting::Number(value) => vec![value.to_string()],
            TraceSetting::Several(values) => values,
        };
        (name, TraceValue { value })
    });
    Ok(TraceSettingRequest {
        settings: settings.collect(),
        model_name: model.unwrap_or_default().to_owned(),
    })
}

pub fn trace_settings(response: &TraceSettingResponse) -> Bytes {
    let settings = response.settings.iter().map(|(name, setting)| {
        let value = match &setting.value[..] {
            [value] if name != TRACE_LEVEL => json!(value),
            values => json!(values),
        };
        (name.clone(), value)
    });
    Value::Object(settings.collect()).to_string().into()
}

/// Reads the body of a request for log settings.
///
/// # Errors
/// A body that is neither empty nor an object of booleans, strings and numbers.
pub fn log_request(body: &[u8]) -> Result<LogSettingsRequest, RestError> {
    use setting_value::ParameterChoice;
    let settings: BTreeMap<String, LogSetting> = read(body, "log settings")?;
    let settings = settings.into_iter().map(|(name, setting)| {
        let choice = match setting {
            LogSetting::Switch(value) => ParameterChoice::BoolParam(value),
            LogSetting::Level(value) => ParameterChoice::Uint32Param(value),
            LogSetting::Text(value) => ParameterChoice::StringParam(value),
        };
        let value = LogValue {
            parameter_choice: Some(choice),
        };
        (name, value)
    });
    Ok(LogSettingsRequest {
        settings: settings.collect(),
    })
}

pub fn log_settings(response: &LogSettingsResponse) -> Bytes {
    let settings = response.settings.iter().filter_map(|(name, setting)| {
        let value = match setting.parameter_choice.as_ref()? {
            LogAnswer::BoolParam(value) => json!(value),
            LogAnswer::Uint32Param(value) => json!(value),
            LogAnswer::StringParam(value) => json!(value),
        };
        Some((name.clone(), value))
    });
    Value::Object(settings.collect::<Map<_, _>>())
        .to_string()
        .into()
}

fn read<'a, T: Default + Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, RestError> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body)
        .map_err(|error| RestError::invalid(format!("body has no {what}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::trace_setting_response::SettingValue;

    #[test]
    fn trace_settings_are_lists_of_strings() {
        let body = br#"{"trace_level":["TIMESTAMPS"],"trace_rate":"1000","trace_count":5,"log_frequency":null}"#;
        let request = trace_request(Some("m"), body).unwrap();
        assert_eq!(request.model_name, "m");
        assert_eq!(request.settings["trace_level"].value, ["TIMESTAMPS"]);
        assert_eq!(request.settings["trace_rate"].value, ["1000"]);
        assert_eq!(request.settings["trace_count"].value, ["5"]);
        assert!(request.settings["log_frequency"].value.is_empty());
        assert!(trace_request(None, b" ").unwrap().settings.is_empty());
        for body in ["[]", r#"{"trace_rate":{}}"#, "{"] {
            assert_eq!(
                trace_request(None, body.as_bytes()).unwrap_err().status,
                400,
                "{body}"
            );
        }
    }

    #[test]
    fn only_the_trace_level_is_answered_as_a_list() {
        let value = |value: &str| SettingValue {
            value: vec![value.to_owned()],
        };
        let response = TraceSettingResponse {
            settings: [
                ("trace_level".to_owned(), value("OFF")),
                ("trace_rate".to_owned(), value("1")),
            ]
            .into(),
        };
        let found: Value = serde_json::from_slice(&trace_settings(&response)).unwrap();
        assert_eq!(found, json!({"trace_level": ["OFF"], "trace_rate": "1"}));
    }

    #[test]
    fn log_settings_keep_their_types() {
        use setting_value::ParameterChoice;
        let body = br#"{"log_info":true,"log_verbose_level":2,"log_format":"default"}"#;
        let request = log_request(body).unwrap();
        let choice = |name: &str| request.settings[name].parameter_choice.clone().unwrap();
        assert_eq!(choice("log_info"), ParameterChoice::BoolParam(true));
        assert_eq!(choice("log_verbose_level"), ParameterChoice::Uint32Param(2));
        assert_eq!(
            choice("log_format"),
            ParameterChoice::StringParam("default".into())
        );
        assert_eq!(log_request(br#"{"log_info":[]}"#).unwrap_err().status, 400);

        use crate::inference::log_settings_response::SettingValue;
        let value = SettingValue {
            parameter_choice: Some(LogAnswer::Uint32Param(2)),
        };
        let response = LogSettingsResponse {
            settings: [("log_verbose_level".to_owned(), value)].into(),
        };
        assert_eq!(log_settings(&response), r#"{"log_verbose_level":2}"#);
    }
}
