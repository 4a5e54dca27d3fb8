//! Trace settings: whether requests are traced, and how many of them.
//!
//! Triton's rate N, one request of N, is a sampling ratio of 1/N here; rate 0 traces only requests whose caller
//! traces. Spans go where the configuration says, so there is one mode and no file.

use std::collections::BTreeMap;

use forebay_proto::inference::TraceSettingResponse;
use forebay_proto::inference::trace_setting_request::SettingValue;
use forebay_proto::inference::trace_setting_response::SettingValue as Shown;

use super::Fault;
use crate::telemetry::sampling::Sampling;

const LEVEL: &str = "trace_level";
const RATE: &str = "trace_rate";
/// Settings with but one value here.
const FIXED: [(&str, &str); 4] = [
    ("trace_mode", "opentelemetry"),
    ("trace_count", "-1"),
    ("trace_file", ""),
    ("log_frequency", "0"),
];

/// What a request changes.
#[derive(Debug, Default, PartialEq)]
struct Change {
    on: Option<bool>,
    ratio: Option<f64>,
}

/// Applies `settings`. `sampling` is None when spans have nowhere to go.
pub fn change(
    settings: &BTreeMap<String, SettingValue>,
    sampling: Option<&Sampling>,
) -> Result<(), Fault> {
    let change = read(settings)?;
    match sampling {
        Some(sampling) => {
            if let Some(ratio) = change.ratio {
                sampling.set_ratio(ratio);
            }
            if let Some(on) = change.on {
                sampling.switch(on);
            }
            Ok(())
        }
        None if change.on == Some(true) || change.ratio.is_some() => Err(Fault::Unavailable(
            "nothing can be traced: the configuration has no [telemetry.otlp]".to_owned(),
        )),
        None => Ok(()),
    }
}

pub fn settings(sampling: Option<&Sampling>) -> TraceSettingResponse {
    let level = match sampling {
        Some(sampling) if sampling.is_on() => "TIMESTAMPS",
        _ => "OFF",
    };
    let rate = match sampling.map(Sampling::ratio) {
        Some(ratio) if ratio > 0.0 => (1.0 / ratio).round(),
        _ => 0.0,
    };
    let fixed = FIXED.map(|(name, value)| (name, value.to_owned()));
    let shown = [(LEVEL, level.to_owned()), (RATE, rate.to_string())];
    let settings = shown.into_iter().chain(fixed).map(|(name, value)| {
        let shown = Shown { value: vec![value] };
        (name.to_owned(), shown)
    });
    TraceSettingResponse {
        settings: settings.collect(),
    }
}

fn read(settings: &BTreeMap<String, SettingValue>) -> Result<Change, Fault> {
    let mut change = Change::default();
    for (name, SettingValue { value }) in settings {
        if name == LEVEL {
            change.on = level(value)?;
        } else if name == RATE {
            change.ratio = rate(value)?;
        } else if let Some((_, only)) = FIXED.iter().find(|(fixed, _)| fixed == name) {
            if value.iter().any(|value| value != only) {
                return Err(Fault::Invalid(format!(
                    "trace setting '{name}' is '{}', want '{only}', which is all that this server can do",
                    value.join(",")
                )));
            }
        } else {
            let known = FIXED.map(|(name, _)| name).join(", ");
            return Err(Fault::Invalid(format!(
                "unknown trace setting '{name}', want one of {LEVEL}, {RATE}, {known}"
            )));
        }
    }
    Ok(change)
}

/// No value leaves it as it is.
fn level(values: &[String]) -> Result<Option<bool>, Fault> {
    let mut on = None;
    for value in values {
        on = match &value[..] {
            "OFF" => Some(on == Some(true)),
            "TIMESTAMPS" => Some(true),
            other => {
                return Err(Fault::Invalid(format!(
                    "{LEVEL} is '{other}', want OFF or TIMESTAMPS, which is all that this server can do"
                )));
            }
        };
    }
    Ok(on)
}

/// No value leaves it as it is.
fn rate(values: &[String]) -> Result<Option<f64>, Fault> {
    let [value] = values else {
        return match values {
            [] => Ok(None),
            _ => Err(Fault::Invalid(format!(
                "{RATE} has {} values, want one",
                values.len()
            ))),
        };
    };
    match value.parse::<u32>() {
        Ok(0) => Ok(Some(0.0)),
        Ok(rate) => Ok(Some(1.0 / f64::from(rate))),
        Err(_) => Err(Fault::Invalid(format!(
            "{RATE} is '{value}', want a number: one request of so many is traced, 0 for none"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(settings: &[(&str, &[&str])]) -> BTreeMap<String, SettingValue> {
        let setting = |(name, values): &(&str, &[&str])| {
            let value = values.iter().map(|value| (*value).to_owned()).collect();
            ((*name).to_owned(), SettingValue { value })
        };
        settings.iter().map(setting).collect()
    }

    fn shown(sampling: Option<&Sampling>) -> [String; 2] {
        let settings = settings(sampling).settings;
        [LEVEL, RATE].map(|name| settings[name].value.join(","))
    }

    #[test]
    fn level_and_rate_are_changed_and_shown() {
        let sampling = Sampling::new(0.01);
        assert_eq!(shown(Some(&sampling)), ["TIMESTAMPS", "100"]);
        change(&ask(&[(RATE, &["1000"])]), Some(&sampling)).unwrap();
        assert_eq!(
            (shown(Some(&sampling)), sampling.ratio()),
            (["TIMESTAMPS", "1000"].map(str::to_owned), 0.001)
        );
        change(&ask(&[(LEVEL, &["OFF"]), (RATE, &["0"])]), Some(&sampling)).unwrap();
        assert_eq!(shown(Some(&sampling)), ["OFF", "0"]);
        let same = ask(&[
            (LEVEL, &[]),
            (RATE, &[]),
            ("trace_mode", &["opentelemetry"]),
            ("trace_file", &[]),
        ]);
        change(&same, Some(&sampling)).unwrap();
        assert_eq!(shown(Some(&sampling)), ["OFF", "0"]);
        change(&ask(&[(LEVEL, &["TIMESTAMPS"])]), Some(&sampling)).unwrap();
        assert!(sampling.is_on());
    }

    #[test]
    fn a_wrong_setting_changes_nothing() {
        let sampling = Sampling::new(1.0);
        for (name, values, text) in [
            (LEVEL, &["TENSORS"][..], "want OFF or TIMESTAMPS"),
            (RATE, &["-1"], "trace_rate is '-1'"),
            (RATE, &["1", "2"], "has 2 values"),
            ("trace_mode", &["triton"], "want 'opentelemetry'"),
            ("trace_count", &["5"], "want '-1'"),
            ("trace_file", &["/tmp/t"], "want ''"),
            ("unheard_of", &["1"], "unknown trace setting 'unheard_of'"),
        ] {
            let mut settings = ask(&[(name, values)]);
            settings
                .entry(LEVEL.to_owned())
                .or_insert_with(|| SettingValue {
                    value: vec!["OFF".to_owned()],
                });
            let fault = change(&settings, Some(&sampling)).unwrap_err();
            assert!(fault.to_string().contains(text), "{fault}");
            assert_eq!(shown(Some(&sampling)), ["TIMESTAMPS", "1"]);
        }
    }

    #[test]
    fn without_an_exporter_nothing_can_be_turned_on() {
        assert_eq!(shown(None), ["OFF", "0"]);
        assert!(change(&ask(&[(LEVEL, &["OFF"])]), None).is_ok());
        for on in [ask(&[(LEVEL, &["TIMESTAMPS"])]), ask(&[(RATE, &["5"])])] {
            assert!(matches!(change(&on, None), Err(Fault::Unavailable(_))));
        }
    }
}
