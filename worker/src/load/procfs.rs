//! What Linux says in its text files about processor time and memory, as numbers.
//!
//! Formats: proc(5) for `/proc/self/stat` and `/proc/meminfo`, the kernel's "Control Group v2" for `cpu.max`,
//! `memory.max` and `memory.stat`. What cannot be read is `None`, never a guess.

use std::time::Duration;

/// Ticks a second in `/proc/self/stat`: USER_HZ, 100 on every Linux.
const TICKS: u32 = 100;

/// User and system time of the process, from `/proc/self/stat`.
pub fn processor_time(stat: &str) -> Option<Duration> {
    // The name of the program, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs(1) * user.checked_add(system)? / TICKS)
}

/// Share of the machine's memory in use, from `/proc/meminfo`.
pub fn machine_memory(meminfo: &str) -> Option<f64> {
    let kilobytes = |name: &str| -> Option<f64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    share(
        kilobytes("MemTotal:")? - kilobytes("MemAvailable:")?,
        kilobytes("MemTotal:")?,
    )
}

/// Processors that the group may use, from `cpu.max`; `None`: no limit.
pub fn processor_limit(cpu_max: &str) -> Option<f64> {
    let (quota, period) = cpu_max.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    let limit = quota / period;
    (limit.is_finite() && limit > 0.0).then_some(limit)
}

/// Share of the group's memory in use, pages that are only cached left out; from `memory.max`, `memory.current`
/// and `memory.stat`. `None`: no limit.
pub fn group_memory(max: &str, current: &str, stat: &str) -> Option<f64> {
    let cached = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "));
    let cached: f64 = cached.and_then(|bytes| bytes.trim().parse().ok())?;
    let current: f64 = current.trim().parse().ok()?;
    share(current - cached, max.trim().parse().ok()?)
}

/// The folder of the process's own group below the mount, from `/proc/self/cgroup`.
pub fn group(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(path.trim_start_matches('/'))
}

fn share(part: f64, whole: f64) -> Option<f64> {
    let share = part / whole;
    share.is_finite().then(|| share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 12345";
        for name in ["worker", "a b", "a) (b) S 1"] {
            let stat = format!("42 ({name}) {fields}");
            assert_eq!(
                processor_time(&stat),
                Some(Duration::from_secs(3)),
                "{name}"
            );
        }
        assert_eq!(processor_time("42 (worker) S 1"), None);
        assert_eq!(processor_time(""), None);
    }

    #[test]
    fn memory_is_a_share_of_the_machine_or_of_the_group() {
        let meminfo = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    250 kB\n";
        assert_eq!(machine_memory(meminfo), Some(0.75));
        assert_eq!(machine_memory("MemTotal: 0 kB\nMemAvailable: 0 kB"), None);
        let stat = "anon 5\ninactive_file 100\n";
        assert_eq!(group_memory("1000\n", "600\n", stat), Some(0.5));
        assert_eq!(group_memory("max\n", "600\n", stat), None);
        assert_eq!(group_memory("10\n", "600\n", stat), Some(1.0));
    }

    #[test]
    fn a_quota_may_be_part_of_a_processor() {
        assert_eq!(processor_limit("50000 100000\n"), Some(0.5));
        assert_eq!(processor_limit("max 100000\n"), None);
        assert_eq!(processor_limit("0 0"), None);
        assert_eq!(processor_limit(""), None);
    }

    #[test]
    fn the_own_group_is_the_line_of_version_two() {
        assert_eq!(group("1:cpu:/x\n0::/pod/worker\n"), Some("pod/worker"));
        assert_eq!(group("0::/\n"), Some(""));
        assert_eq!(group("1:cpu:/x\n"), None);
    }
}
