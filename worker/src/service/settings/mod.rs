//! Trace and log settings: read and changed by clients while the server runs, under Triton's names.
//!
//! A request is applied as a whole or not at all; what this server cannot do is refused by name.

mod log;
mod trace;

use forebay_proto::inference::{
    LogSettingsRequest, LogSettingsResponse, TraceSettingRequest, TraceSettingResponse,
};

use self::log::Levels;
use super::{Fault, Front};

impl Front {
    /// Whether spans can go anywhere.
    pub fn can_trace(&self) -> bool {
        self.observer.tracing.sampling().is_some()
    }

    /// The settings after those of the request are applied. A model has none of its own and shows the global
    /// ones.
    pub fn trace_settings(
        &self,
        request: &TraceSettingRequest,
    ) -> Result<TraceSettingResponse, Fault> {
        if !request.model_name.is_empty() {
            self.model(&request.model_name, "")?;
            if !request.settings.is_empty() {
                return Err(Fault::Unimplemented(format!(
                    "model '{}' has no trace settings of its own, change those of the server",
                    request.model_name
                )));
            }
        }
        let sampling = self.observer.tracing.sampling();
        trace::change(&request.settings, sampling)?;
        Ok(trace::settings(sampling))
    }

    /// The settings after those of the request are applied.
    pub fn log_settings(&self, request: &LogSettingsRequest) -> Result<LogSettingsResponse, Fault> {
        let mut levels = Levels::of(self.logs.level());
        if !request.settings.is_empty() {
            let level = levels.change(&request.settings)?;
            self.logs.set_level(level).map_err(|error| {
                Fault::Unavailable(format!("the log level cannot be changed: {error}"))
            })?;
            tracing::info!("a client set the log level to {level}");
            levels = Levels::of(level);
        }
        Ok(levels.settings())
    }
}
