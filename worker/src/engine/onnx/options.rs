//! What the sessions of one model are made with.

use forebay_config::worker::{Device, Model, Provider, ProviderOptions};

/// How the sessions of one model are made.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionOptions {
    /// Threads within one operator, of each instance; at least 1.
    pub threads: usize,
    /// How many instances there will be, at least 1. Those that share a session share its threads.
    pub instances: usize,
    /// Threads for operators that do not depend on each other; at least 1. More than 1 has them run in parallel.
    pub inter_op_threads: usize,
    pub optimization: Optimization,
    /// Keeps memory of the CPU between runs.
    pub arena: bool,
    /// Plans the memory of a run as one block per set of input shapes; costs memory when shapes vary.
    pub memory_pattern: bool,
    pub provider: Provider,
    pub provider_options: ProviderOptions,
    /// Where the sessions go, in turn; empty: device 0 of the provider.
    pub devices: Vec<Device>,
    /// Rows of a batch at most, for providers that plan for them.
    pub max_batch_size: u32,
}

impl SessionOptions {
    /// What the configuration says, with the threads that came out of it; the rest as ONNX Runtime has it.
    pub fn new(config: &Model, threads: usize) -> Self {
        Self {
            threads: threads.max(1),
            instances: config.all_instances(),
            inter_op_threads: 1,
            optimization: Optimization::All,
            arena: true,
            memory_pattern: false,
            provider: config.provider,
            provider_options: config.provider_options.clone(),
            devices: config.devices.clone(),
            max_batch_size: config.max_batch_size,
        }
    }

    /// Threads of the one session that all instances run: each brings its own to a run, the others are shared.
    pub(super) fn shared_threads(&self) -> usize {
        1 + (self.threads.max(1) - 1).saturating_mul(self.instances.max(1))
    }

    /// The device of an instance, by its number; `None`: nobody said.
    pub(super) fn device(&self, instance: usize) -> Option<Device> {
        let position = instance.checked_rem(self.devices.len())?;
        self.devices.get(position).copied()
    }
}

/// How far ONNX Runtime rewrites the graph; its own four levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Optimization {
    Disabled,
    Basic,
    Extended,
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_bring_one_thread_each_and_share_the_others() {
        let mut options = SessionOptions::new(&Model::default(), 4);
        assert_eq!(options.shared_threads(), 4);
        options.instances = 3;
        assert_eq!(options.shared_threads(), 10);
        options.threads = 1;
        assert_eq!(options.shared_threads(), 1);
    }

    #[test]
    fn instances_take_turns_on_the_devices() {
        let mut options = SessionOptions::new(&Model::default(), 0);
        assert_eq!((options.threads, options.device(3)), (1, None));
        options.devices = vec![2, 5];
        let devices: Vec<_> = (0..4)
            .filter_map(|instance| options.device(instance))
            .collect();
        assert_eq!(devices, [2, 5, 2, 5]);
    }
}
