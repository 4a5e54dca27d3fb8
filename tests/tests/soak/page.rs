//! The metrics page, read back.

use anyhow::Context;
use forebay_tests::client::Rest;

pub struct Page(String);

impl Page {
    pub async fn read(rest: &Rest) -> anyhow::Result<Page> {
        let answer = rest.get("/metrics").await?;
        let text = std::str::from_utf8(&answer.body).context("metrics are UTF-8")?;
        Ok(Page(text.to_owned()))
    }

    /// The sum of a metric over all samples whose labels contain `label`.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        self.0
            .lines()
            .filter_map(|line| sample(line, name, label))
            .sum()
    }
}

fn sample(line: &str, name: &str, label: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?.strip_prefix('{')?;
    let (labels, value) = rest.rsplit_once("} ")?;
    labels.contains(label).then(|| value.parse().ok())?
}
