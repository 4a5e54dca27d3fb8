//! Memory, threads and open files of the worker over time.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;
use forebay_tests::process::Process;

/// Shorter runs are all warm-up: memory is only looked at in longer ones.
const WORTH_JUDGING: Duration = Duration::from_secs(120);
/// Allocators and sockets breathe.
const MEMORY_SLACK: u64 = 12 << 20;
const THREADS_SLACK: u64 = 4;
const FILES_SLACK: u64 = 16;

pub struct Watch {
    start: Instant,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy)]
pub struct Sample {
    at: Duration,
    memory: u64,
    threads: u64,
    files: u64,
}

impl Watch {
    pub fn begin() -> Watch {
        Watch {
            start: Instant::now(),
            samples: Vec::new(),
        }
    }

    pub fn sample(&mut self, process: &Process) -> anyhow::Result<()> {
        let folder = format!("/proc/{}", process.id());
        let count = |name: &str| -> anyhow::Result<u64> {
            let entries = std::fs::read_dir(format!("{folder}/{name}"));
            Ok(entries.context("the worker runs")?.count() as u64)
        };
        self.samples.push(Sample {
            at: self.start.elapsed(),
            memory: process.memory()?,
            threads: count("task")?,
            files: count("fd")?,
        });
        Ok(())
    }

    pub fn last(&self) -> String {
        self.samples
            .last()
            .map_or_else(String::new, Sample::to_string)
    }

    /// The second quarter of the run, when it is warm, and the last.
    fn quarters(&self) -> (&[Sample], &[Sample]) {
        let quarter = self.samples.len() / 4;
        let last = self.samples.len() - quarter;
        (&self.samples[quarter..2 * quarter], &self.samples[last..])
    }

    /// What grew that should not have.
    pub fn growth(&self, time: Duration) -> Vec<String> {
        let (early, late) = self.quarters();
        let mut problems = Vec::new();
        let mut compare = |what: &str, figure: fn(&Sample) -> u64, slack: u64| {
            let (before, after) = (median(early, figure), median(late, figure));
            if after > before + slack {
                problems.push(format!(
                    "{what}: {before} in the second quarter, {after} in the last"
                ));
            }
        };
        compare("threads", |sample| sample.threads, THREADS_SLACK);
        compare("open files", |sample| sample.files, FILES_SLACK);
        if time >= WORTH_JUDGING {
            compare("resident bytes", |sample| sample.memory, MEMORY_SLACK);
        }
        problems
    }

    pub fn summary(&self) -> String {
        let (early, late) = self.quarters();
        let megabytes = |samples| median(samples, |sample| sample.memory) as f64 / 1e6;
        format!(
            "memory {:.1} MB in the second quarter, {:.1} MB in the last, {:+.2} MB a minute; now {}",
            megabytes(early),
            megabytes(late),
            self.slope() * 60.0 / 1e6,
            self.last()
        )
    }

    /// Bytes a second after the first quarter, by least squares.
    fn slope(&self) -> f64 {
        let warm = &self.samples[self.samples.len() / 4..];
        let count = warm.len() as f64;
        let seconds = |sample: &Sample| sample.at.as_secs_f64();
        let bytes = |sample: &Sample| sample.memory as f64;
        let mean_seconds = warm.iter().map(seconds).sum::<f64>() / count;
        let mean_bytes = warm.iter().map(bytes).sum::<f64>() / count;
        let (mut product, mut square) = (0.0, 0.0);
        for sample in warm {
            let from_mean = seconds(sample) - mean_seconds;
            product += from_mean * (bytes(sample) - mean_bytes);
            square += from_mean * from_mean;
        }
        product / square
    }
}

fn median(samples: &[Sample], figure: fn(&Sample) -> u64) -> u64 {
    let mut figures: Vec<u64> = samples.iter().map(figure).collect();
    figures.sort_unstable();
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sample {
            memory,
            threads,
            files,
            ..
        } = self;
        let megabytes = *memory as f64 / 1e6;
        write!(
            formatter,
            "{megabytes:.1} MB, {threads} threads, {files} files"
        )
    }
}
