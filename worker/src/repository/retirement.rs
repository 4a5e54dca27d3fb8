//! Models that are served no longer: one thread waits for the threads of each, then says that it is gone.
//!
//! It hears of a model from whoever lets go of it last, which is when the last request on it was answered.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use crate::model::farewell::join;
use crate::repository::registry::Registry;
use crate::served::Served;

/// Nobody has it any more.
struct Left {
    name: String,
    version: u64,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub struct Retirement(Sender<Left>);

impl Retirement {
    /// # Errors
    /// The thread cannot be started.
    pub fn new(registry: &Arc<Registry>) -> io::Result<Self> {
        let (tell, hear) = channel::<Left>();
        let registry = Arc::clone(registry);
        let end = move || {
            for Left {
                name,
                version,
                threads,
            } in hear
            {
                join(&name, threads);
                registry.change(&name, |life| life.gone(version));
            }
        };
        Builder::new().name("retire".to_owned()).spawn(end)?;
        Ok(Self(tell))
    }

    /// Lets go of a model that no new request reaches.
    pub fn retire(&self, name: &str, model: Arc<Served>) {
        let (tell, name, version) = (self.0.clone(), name.to_owned(), model.version());
        model.at_end(Box::new(move |threads| {
            let left = Left {
                name,
                version,
                threads,
            };
            // Unheard, when the process ends, the threads end by themselves.
            _ = tell.send(left);
        }));
    }
}
