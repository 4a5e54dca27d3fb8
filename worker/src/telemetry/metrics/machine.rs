//! Processor and memory of the machine, and the memory of this process, from Linux' `/proc`; elsewhere nothing.
//!
//! The use of the processor is that of all cores since the page before. Figures of GPUs are left to the exporters
//! that their makers have for them.

use std::time::{Duration, Instant};

use super::gauge;
use crate::telemetry::prometheus::Page;

/// Between two readings of the processor, at least: a share of less says little.
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub struct Machine {
    last: Option<(Instant, Ticks)>,
    utilization: f64,
}

/// Of all cores since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    total: u64,
    used: u64,
}

impl Machine {
    pub fn write(&mut self, page: &mut Page) {
        let read = |path| std::fs::read_to_string(path).ok();
        if let Some(ticks) = read("/proc/stat").as_deref().and_then(ticks) {
            let name = "nv_cpu_utilization";
            gauge(name, "Share of all cores that is busy, 0 to 1.").write(page);
            page.sample(name, &[], self.utilization(ticks, Instant::now()));
        }
        if let Some(memory) = read("/proc/meminfo").as_deref().and_then(memory) {
            let name = "nv_cpu_memory_total_bytes";
            gauge(name, "Memory of the machine.").write(page);
            page.sample(name, &[], memory.total);
            let name = "nv_cpu_memory_used_bytes";
            gauge(name, "Memory of the machine that is in use.").write(page);
            page.sample(name, &[], memory.used);
        }
        let resident = read("/proc/self/status");
        if let Some(resident) = resident.and_then(|text| kibibytes(&text, "VmRSS:")) {
            let name = "process_resident_memory_bytes";
            gauge(name, "Memory that this process holds.").write(page);
            page.sample(name, &[], resident);
        }
    }

    /// The share since the reading before; since the start of the machine at first.
    fn utilization(&mut self, ticks: Ticks, now: Instant) -> f64 {
        let (before, since) = match self.last {
            Some((at, _)) if now.saturating_duration_since(at) < INTERVAL => {
                return self.utilization;
            }
            Some((_, last)) => (last.busy, last.all),
            None => (0, 0),
        };
        let all = ticks.all.saturating_sub(since);
        if all > 0 {
            self.utilization = ticks.busy.saturating_sub(before) as f64 / all as f64;
        }
        self.last = Some((now, ticks));
        self.utilization
    }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and guests, who count
/// as user already (proc(5)).
fn ticks(stat: &str) -> Option<Ticks> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?;
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .take(8)
        .map_while(|number| number.parse().ok())
        .collect();
    let idle = numbers.get(3)? + numbers.get(4).unwrap_or(&0);
    let all = numbers.iter().sum();
    Some(Ticks {
        busy: all - idle,
        all,
    })
}

fn memory(meminfo: &str) -> Option<Memory> {
    let total = kibibytes(meminfo, "MemTotal:")?;
    let available = kibibytes(meminfo, "MemAvailable:")?;
    Some(Memory {
        total,
        used: total.saturating_sub(available),
    })
}

/// The value of a line such as `VmRSS:   1234 kB`, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = value.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_busy_since_the_page_before() {
        let first = ticks("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1 1 1 1\n").unwrap();
        assert_eq!(first, Ticks { busy: 20, all: 100 });
        let second = ticks("cpu  70 0 10 90 10 0 20 0 9 0\n").unwrap();
        let mut machine = Machine::default();
        let start = Instant::now();
        assert_eq!(machine.utilization(first, start), 0.2);
        assert_eq!(machine.utilization(second, start), 0.2, "too soon");
        assert_eq!(machine.utilization(second, start + INTERVAL), 0.8);
        assert_eq!(ticks("intr 1"), None);
    }

    #[test]
    fn memory_is_used_when_it_is_not_available() {
        let text = "MemTotal:  100 kB\nMemFree:  5 kB\nMemAvailable:  60 kB\n";
        let expected = Memory {
            total: 102_400,
            used: 40_960,
        };
        assert_eq!(memory(text), Some(expected));
        assert_eq!(memory("MemTotal: 1 kB\n"), None);
        assert_eq!(kibibytes("VmRSS:\t 7 kB\n", "VmRSS:"), Some(7168));
    }
}
