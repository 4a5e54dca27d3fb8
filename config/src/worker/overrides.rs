//! What one place says about a model, over what the place below it says.
//!
//! The places, lowest first: the defaults of this crate, `[defaults]`, the `config.pbtxt` in the model's
//! folder, `[models.NAME]`. Tables of provider options and of labels are merged key by key; anything else that a place
//! says stands for itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::model::{Model, Padding, VersionPolicy};
use super::provider::{Cuda, Device, Provider, ProviderOptions};

/// The fields of `Model`; None: as below. Where `Model` itself has an option, `Some(None)` turns it off.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overrides {
    pub max_batch_size: Option<u32>,
    pub dynamic_batching: Option<bool>,
    pub preferred_batch_sizes: Option<Vec<u32>>,
    pub max_queue_delay: Option<Duration>,
    pub latency_target: Option<Option<Duration>>,
    pub max_queue_size: Option<u32>,
    pub priority_levels: Option<u32>,
    pub default_priority: Option<u32>,
    pub threads: Option<usize>,
    pub instances: Option<u32>,
    pub provider: Option<Provider>,
    pub cuda: CudaOverrides,
    pub tensorrt: BTreeMap<String, String>,
    pub openvino: BTreeMap<String, String>,
    pub devices: Option<Vec<Device>>,
    pub default_timeout: Option<Option<Duration>>,
    pub learn_batch_size: Option<bool>,
    pub versions: Option<VersionPolicy>,
    pub warm_up: Option<bool>,
    pub padding: Option<Padding>,
    pub response_cache_bytes: Option<u64>,
    /// Merged output by output.
    pub labels: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CudaOverrides {
    pub memory_limit_bytes: Option<Option<u64>>,
    pub graphs: Option<bool>,
    pub tf32: Option<bool>,
}

impl Overrides {
    /// Two things give way: preferred batch sizes from below that are above the maximum, and a default
    /// priority from below where the number of levels is said anew; that is then the last level.
    pub fn over(&self, below: Model) -> Model {
        let max_batch_size = self.max_batch_size.unwrap_or(below.max_batch_size);
        let preferred = self.preferred_batch_sizes.clone();
        let mut preferred_batch_sizes = preferred.unwrap_or(below.preferred_batch_sizes);
        preferred_batch_sizes.retain(|size| *size <= max_batch_size);
        let default_priority = match (self.default_priority, self.priority_levels) {
            (Some(said), _) => said,
            (None, Some(levels)) => levels,
            (None, None) => below.default_priority,
        };
        Model {
            max_batch_size,
            dynamic_batching: self.dynamic_batching.unwrap_or(below.dynamic_batching),
            preferred_batch_sizes,
            max_queue_delay: self.max_queue_delay.unwrap_or(below.max_queue_delay),
            latency_target: self.latency_target.unwrap_or(below.latency_target),
            max_queue_size: self.max_queue_size.unwrap_or(below.max_queue_size),
            priority_levels: self.priority_levels.unwrap_or(below.priority_levels),
            default_priority,
            threads: self.threads.or(below.threads),
            instances: self.instances.unwrap_or(below.instances),
            provider: self.provider.unwrap_or(below.provider),
            provider_options: ProviderOptions {
                cuda: self.cuda.over(&below.provider_options.cuda),
                tensorrt: over(&self.tensorrt, below.provider_options.tensorrt),
                openvino: over(&self.openvino, below.provider_options.openvino),
            },
            devices: self.devices.clone().unwrap_or(below.devices),
            default_timeout: self.default_timeout.unwrap_or(below.default_timeout),
            learn_batch_size: self.learn_batch_size.unwrap_or(below.learn_batch_size),
            versions: self.versions.clone().unwrap_or(below.versions),
            warm_up: self.warm_up.unwrap_or(below.warm_up),
            padding: self.padding.clone().or(below.padding),
            response_cache_bytes: self
                .response_cache_bytes
                .unwrap_or(below.response_cache_bytes),
            labels: over(&self.labels, below.labels),
        }
    }
}

impl CudaOverrides {
    fn over(&self, below: &Cuda) -> Cuda {
        Cuda {
            memory_limit_bytes: self.memory_limit_bytes.unwrap_or(below.memory_limit_bytes),
            graphs: self.graphs.unwrap_or(below.graphs),
            tf32: self.tf32.unwrap_or(below.tf32),
        }
    }
}

fn over<T: Clone>(
    said: &BTreeMap<String, T>,
    mut below: BTreeMap<String, T>,
) -> BTreeMap<String, T> {
    below.extend(said.iter().map(|(key, value)| (key.clone(), value.clone())));
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_changes_nothing() {
        let below = Model {
            max_batch_size: 7,
            preferred_batch_sizes: vec![2, 7],
            priority_levels: 3,
            default_priority: 2,
            latency_target: Some(Duration::from_millis(50)),
            ..Model::default()
        };
        assert_eq!(Overrides::default().over(below.clone()), below);
    }

    #[test]
    fn what_no_longer_fits_gives_way() {
        let below = Model {
            preferred_batch_sizes: vec![4, 16],
            priority_levels: 9,
            default_priority: 9,
            ..Model::default()
        };
        let said = Overrides {
            max_batch_size: Some(8),
            priority_levels: Some(2),
            ..Overrides::default()
        };
        let model = said.over(below);
        assert_eq!(model.preferred_batch_sizes, [4]);
        assert_eq!((model.priority_levels, model.default_priority), (2, 2));
    }

    #[test]
    fn options_of_a_provider_are_merged_by_key() {
        let table = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            pairs.iter().map(own).collect()
        };
        let mut below = Model::default();
        below.provider_options.tensorrt = table(&[("a", "1"), ("b", "1")]);
        below.provider_options.cuda.graphs = true;
        let said = Overrides {
            tensorrt: table(&[("b", "2")]),
            cuda: CudaOverrides {
                tf32: Some(false),
                ..CudaOverrides::default()
            },
            ..Overrides::default()
        };
        let options = said.over(below).provider_options;
        assert_eq!(options.tensorrt, table(&[("a", "1"), ("b", "2")]));
        assert!(options.cuda.graphs && !options.cuda.tf32);
    }
}
