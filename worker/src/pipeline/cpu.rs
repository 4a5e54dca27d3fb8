//! Threads for built-in steps: as many at work at once as there are cores, whoever asks.
//!
//! What is quick is done where it is asked for. Whoever goes away while waiting for a thread leaves the
//! line; work that has begun is ended, since nothing can stop it half way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::Semaphore;

#[derive(Debug, Clone)]
pub struct Cpu {
    cores: usize,
    free: Arc<Semaphore>,
}

impl Cpu {
    pub fn new(cores: usize) -> Self {
        let cores = cores.max(1);
        Self {
            cores,
            free: Arc::new(Semaphore::new(cores)),
        }
    }

    pub fn cores(&self) -> usize {
        self.cores
    }

    /// On a thread that may take its time. `None`: the work panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = Arc::clone(&self.free).acquire_owned().await.ok()?;
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// Here and now. `None`: the work panicked.
    pub fn run_here<T>(work: impl FnOnce() -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(work)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_frees_its_thread() {
        let cpu = Cpu::new(1);
        for _ in 0..3 {
            assert_eq!(
                cpu.run(|| -> u8 { std::panic::panic_any("broken") }).await,
                None
            );
        }
        assert_eq!(cpu.run(|| 7).await, Some(7));
        assert_eq!(
            Cpu::run_here(|| -> u8 { std::panic::panic_any("broken") }),
            None
        );
    }

    #[tokio::test]
    async fn who_waits_and_goes_away_leaves_the_line() {
        let cpu = Cpu::new(1);
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let busy = tokio::spawn({
            let cpu = cpu.clone();
            async move { cpu.run(move || gate.recv().is_ok()).await }
        });
        while cpu.free.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut waiting = Box::pin(cpu.run(|| 1));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(waiting);
        open.send(()).unwrap();
        assert_eq!(busy.await.unwrap(), Some(true));
        assert_eq!(cpu.run(|| 2).await, Some(2));
    }
}
