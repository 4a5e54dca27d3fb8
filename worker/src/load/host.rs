//! Reads the files that `procfs` understands. Where there are none, as outside Linux, nothing is known.

use std::fs::read_to_string;
use std::path::PathBuf;
use std::time::Duration;

use super::procfs;

const GROUPS: &str = "/sys/fs/cgroup";

/// The machine, or the part of it that this process may use.
#[derive(Debug)]
pub struct Host {
    /// The process's own control group, if it is of version 2.
    group: Option<PathBuf>,
}

impl Host {
    pub fn find() -> Host {
        let cgroup = read_to_string("/proc/self/cgroup").unwrap_or_default();
        Host {
            group: procfs::group(&cgroup).map(|path| PathBuf::from(GROUPS).join(path)),
        }
    }

    /// Processor time that the process has used.
    pub fn processor_time(&self) -> Option<Duration> {
        procfs::processor_time(&read_to_string("/proc/self/stat").ok()?)
    }

    /// Processors that it may use.
    pub fn processors(&self) -> f64 {
        let all = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let limit = self.of_group("cpu.max");
        let limit = limit.and_then(|text| procfs::processor_limit(&text));
        limit.map_or(all, |limit| limit.min(all))
    }

    /// Share of the memory in use: of the group's limit if it has one, else of the machine's.
    pub fn memory(&self) -> Option<f64> {
        self.group_memory()
            .or_else(|| procfs::machine_memory(&read_to_string("/proc/meminfo").ok()?))
    }

    fn group_memory(&self) -> Option<f64> {
        procfs::group_memory(
            &self.of_group("memory.max")?,
            &self.of_group("memory.current")?,
            &self.of_group("memory.stat")?,
        )
    }

    fn of_group(&self, file: &str) -> Option<String> {
        read_to_string(self.group.as_ref()?.join(file)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_can_be_read() {
        let host = Host::find();
        assert!(host.processors() > 0.0);
        let memory = host.memory().unwrap();
        assert!(memory > 0.0 && memory <= 1.0, "{memory}");
        let before = host.processor_time().unwrap();
        let mut sum = 0_u64;
        while host.processor_time().unwrap() == before {
            sum = sum.wrapping_add(1);
        }
        assert!(host.processor_time().unwrap() > before, "{sum}");
    }
}
