//! Log settings: how much is written.
//!
//! Triton has a switch per kind of line; here the kinds build on one another, so that informing without warning
//! is refused. Verbose level 1 writes what is meant for debugging, 2 and more everything.

use std::collections::BTreeMap;

use forebay_proto::inference::LogSettingsResponse;
use forebay_proto::inference::log_settings_request::SettingValue;
use forebay_proto::inference::log_settings_request::setting_value::ParameterChoice;
use forebay_proto::inference::log_settings_response::SettingValue as Shown;
use forebay_proto::inference::log_settings_response::setting_value::ParameterChoice as ShownChoice;
use tracing::level_filters::LevelFilter;

use super::Fault;

/// Which lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    error: bool,
    warning: bool,
    info: bool,
    verbose: u32,
}

impl Levels {
    pub fn of(level: LevelFilter) -> Levels {
        Levels {
            error: level >= LevelFilter::ERROR,
            warning: level >= LevelFilter::WARN,
            info: level >= LevelFilter::INFO,
            verbose: match level {
                LevelFilter::TRACE => 2,
                LevelFilter::DEBUG => 1,
                _ => 0,
            },
        }
    }

    /// The level after `settings` are applied.
    pub fn change(
        mut self,
        settings: &BTreeMap<String, SettingValue>,
    ) -> Result<LevelFilter, Fault> {
        for (name, value) in settings {
            let choice = value.parameter_choice.as_ref();
            match (&name[..], choice) {
                ("log_error", Some(ParameterChoice::BoolParam(on))) => self.error = *on,
                ("log_warning", Some(ParameterChoice::BoolParam(on))) => self.warning = *on,
                ("log_info", Some(ParameterChoice::BoolParam(on))) => self.info = *on,
                ("log_verbose_level", Some(ParameterChoice::Uint32Param(level))) => {
                    self.verbose = *level;
                }
                ("log_format", Some(ParameterChoice::StringParam(format)))
                    if format == "default" => {}
                ("log_file", Some(ParameterChoice::StringParam(file))) if file.is_empty() => {}
                _ => return Err(refused(name, choice)),
            }
        }
        self.level()
    }

    fn level(self) -> Result<LevelFilter, Fault> {
        let rows = [
            (self.error, "log_error", LevelFilter::ERROR),
            (self.warning, "log_warning", LevelFilter::WARN),
            (self.info, "log_info", LevelFilter::INFO),
            (self.verbose > 0, "log_verbose_level", LevelFilter::DEBUG),
            (self.verbose > 1, "log_verbose_level", LevelFilter::TRACE),
        ];
        for ((below, missing, _), (above, name, _)) in rows.iter().zip(&rows[1..]) {
            if *above && !*below && name != missing {
                return Err(Fault::Invalid(format!(
                    "{name} is on and {missing} is off, but what {name} writes includes it: turn both on or both off"
                )));
            }
        }
        let written = rows.iter().rev().find(|(on, _, _)| *on);
        Ok(written.map_or(LevelFilter::OFF, |(_, _, level)| *level))
    }

    pub fn settings(self) -> LogSettingsResponse {
        let shown = [
            ("log_error", ShownChoice::BoolParam(self.error)),
            ("log_warning", ShownChoice::BoolParam(self.warning)),
            ("log_info", ShownChoice::BoolParam(self.info)),
            ("log_verbose_level", ShownChoice::Uint32Param(self.verbose)),
            ("log_format", ShownChoice::StringParam("default".to_owned())),
            ("log_file", ShownChoice::StringParam(String::new())),
        ];
        let settings = shown.map(|(name, choice)| {
            let value = Shown {
                parameter_choice: Some(choice),
            };
            (name.to_owned(), value)
        });
        LogSettingsResponse {
            settings: settings.into(),
        }
    }
}

fn refused(name: &str, choice: Option<&ParameterChoice>) -> Fault {
    let wanted = match name {
        "log_error" | "log_warning" | "log_info" => "a boolean",
        "log_verbose_level" => "a number from 0 to 4294967295",
        "log_format" => "'default', which is all that this server can do",
        "log_file" => "'': the log goes to standard error",
        name => {
            return Fault::Invalid(format!(
                "unknown log setting '{name}', want one of log_error, log_warning, log_info, log_verbose_level, \
                 log_format, log_file"
            ));
        }
    };
    let found = match choice {
        Some(ParameterChoice::BoolParam(value)) => value.to_string(),
        Some(ParameterChoice::Uint32Param(value)) => value.to_string(),
        Some(ParameterChoice::StringParam(value)) => format!("'{value}'"),
        None => "nothing".to_owned(),
    };
    Fault::Invalid(format!("log setting '{name}' is {found}, want {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(settings: &[(&str, ParameterChoice)]) -> BTreeMap<String, SettingValue> {
        let setting = |(name, choice): &(&str, ParameterChoice)| {
            let value = SettingValue {
                parameter_choice: Some(choice.clone()),
            };
            ((*name).to_owned(), value)
        };
        settings.iter().map(setting).collect()
    }

    #[test]
    fn every_level_survives_the_way_there_and_back() {
        for level in [
            LevelFilter::OFF,
            LevelFilter::ERROR,
            LevelFilter::WARN,
            LevelFilter::INFO,
            LevelFilter::DEBUG,
            LevelFilter::TRACE,
        ] {
            assert_eq!(Levels::of(level).level(), Ok(level));
            assert_eq!(Levels::of(level).settings().settings.len(), 6);
        }
    }

    #[test]
    fn settings_move_the_level() {
        use ParameterChoice::{BoolParam, StringParam, Uint32Param};
        let info = Levels::of(LevelFilter::INFO);
        let same = [
            ("log_format", StringParam("default".into())),
            ("log_file", StringParam(String::new())),
        ];
        for (settings, level) in [
            (ask(&[("log_info", BoolParam(false))]), LevelFilter::WARN),
            (
                ask(&[("log_verbose_level", Uint32Param(1))]),
                LevelFilter::DEBUG,
            ),
            (
                ask(&[("log_verbose_level", Uint32Param(9))]),
                LevelFilter::TRACE,
            ),
            (
                ask(&[
                    ("log_info", BoolParam(false)),
                    ("log_warning", BoolParam(false)),
                ]),
                LevelFilter::ERROR,
            ),
            (ask(&same), LevelFilter::INFO),
        ] {
            assert_eq!(info.change(&settings), Ok(level), "{settings:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        use ParameterChoice::{BoolParam, StringParam, Uint32Param};
        let info = Levels::of(LevelFilter::INFO);
        for (settings, text) in [
            (
                ask(&[("log_warning", BoolParam(false))]),
                "log_info is on and log_warning is off",
            ),
            (
                ask(&[("log_error", BoolParam(false))]),
                "log_warning is on and log_error is off",
            ),
            (
                ask(&[("log_info", Uint32Param(1))]),
                "'log_info' is 1, want a boolean",
            ),
            (
                ask(&[("log_file", StringParam("x".into()))]),
                "'log_file' is 'x', want ''",
            ),
            (
                ask(&[("log_format", StringParam("ISO8601".into()))]),
                "want 'default'",
            ),
            (
                ask(&[("log_colour", BoolParam(true))]),
                "unknown log setting 'log_colour'",
            ),
        ] {
            let fault = info.change(&settings).unwrap_err();
            assert!(fault.to_string().contains(text), "{fault}");
        }
    }
}
