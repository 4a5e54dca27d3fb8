//! What happens to the models meanwhile: new versions, the same version again, broken ones, some that come and go.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use forebay_proto::inference::{RepositoryModelLoadRequest, RepositoryModelUnloadRequest};
use forebay_tests::client::{Inference, floats};
use forebay_tests::onnx;

use crate::traffic::{FIRST_VERSION, Shared};

/// Between two upheavals; less in a short run, so that each kind comes.
const PAUSE: Duration = Duration::from_secs(5);
const SHORT_PAUSE: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Upheavals {
    versions: u64,
    reloads: u64,
    broken: u64,
    comings: u64,
}

struct Cause {
    client: Inference,
    models: PathBuf,
    shared: Arc<Shared>,
    /// Of `add`, which adds as much.
    version: u64,
    done: Upheavals,
}

/// Goes on until `end`.
pub async fn cause(
    client: Inference,
    models: PathBuf,
    shared: Arc<Shared>,
    end: Instant,
) -> anyhow::Result<Upheavals> {
    let left = end.saturating_duration_since(Instant::now());
    let pause = if left > SHORT { PAUSE } else { SHORT_PAUSE };
    let mut cause = Cause {
        client,
        models,
        shared,
        version: FIRST_VERSION,
        done: Upheavals::default(),
    };
    for turn in 0_u64.. {
        tokio::time::sleep(pause).await;
        if Instant::now() + pause > end {
            break;
        }
        match turn % 4 {
            0 => cause.new_version().await?,
            1 => cause.broken_version().await?,
            2 => cause.reload().await?,
            _ => cause.come_and_go().await?,
        }
    }
    Ok(cause.done)
}

impl Cause {
    async fn load(&mut self, model: &str) -> Result<(), tonic::Status> {
        let request = RepositoryModelLoadRequest {
            model_name: model.to_owned(),
            ..Default::default()
        };
        self.client.repository_model_load(request).await?;
        Ok(())
    }

    async fn new_version(&mut self) -> anyhow::Result<()> {
        let old = self.version;
        self.version += 1;
        let amount = self.version as f32;
        onnx::write_version(&self.models, "add", self.version, &onnx::add(amount))?;
        self.shared.asked.store(self.version, Ordering::SeqCst);
        self.load("add").await.context("a new version")?;
        self.shared.served.store(self.version, Ordering::SeqCst);
        self.remove("add", old)?;
        self.done.versions += 1;
        Ok(())
    }

    /// A higher version that cannot be loaded, and a model that is broken altogether.
    async fn broken_version(&mut self) -> anyhow::Result<()> {
        for (model, version) in [("add", self.version + 1), ("broken", 1)] {
            onnx::write_version(&self.models, model, version, b"no model at all")?;
            if self.load(model).await.is_ok() {
                self.shared.problem(format!("{model}: garbage was loaded"));
            }
            self.remove(model, version)?;
            self.done.broken += 1;
        }
        Ok(())
    }

    /// The same version, written anew.
    async fn reload(&mut self) -> anyhow::Result<()> {
        let amount = self.version as f32;
        onnx::write_version(&self.models, "add", self.version, &onnx::add(amount))?;
        self.load("add").await.context("the same version again")?;
        self.done.reloads += 1;
        Ok(())
    }

    /// A model that was not there before and is not there afterwards.
    async fn come_and_go(&mut self) -> anyhow::Result<()> {
        onnx::write_version(&self.models, "guest", 1, &onnx::double())?;
        self.load("guest").await.context("a guest")?;
        let request = || floats("guest", &[1.0; 4]);
        self.client
            .model_infer(request())
            .await
            .context("a guest's answer")?;
        let unload = RepositoryModelUnloadRequest {
            model_name: "guest".to_owned(),
            ..Default::default()
        };
        self.client.repository_model_unload(unload).await?;
        if self.client.model_infer(request()).await.is_ok() {
            self.shared
                .problem("guest: answered after it was unloaded".to_owned());
        }
        self.remove("guest", 1)?;
        self.done.comings += 1;
        Ok(())
    }

    fn remove(&self, model: &str, version: u64) -> anyhow::Result<()> {
        let folder = Path::new(&self.models)
            .join(model)
            .join(version.to_string());
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())
    }
}

impl fmt::Display for Upheavals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Upheavals {
            versions,
            reloads,
            broken,
            comings,
        } = self;
        write!(
            formatter,
            "{versions} new versions, {reloads} reloads, {broken} broken models, {comings} models that came and went"
        )
    }
}
