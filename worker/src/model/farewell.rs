//! The end of a version that is served no longer, told by whoever lets go of it last.
//!
//! That may be the task of a request, which must not wait for the threads of the instances. So they are handed on with
//! the word, to somebody who has the time.

use std::thread::JoinHandle;

use parking_lot::Mutex;

/// Given the threads that are about to end. Must be quick.
pub type Word = Box<dyn FnOnce(Vec<JoinHandle<()>>) + Send>;

#[derive(Default)]
pub struct Farewell(Mutex<Option<Word>>);

impl Farewell {
    pub fn set(&self, word: Word) {
        *self.0.lock() = Some(word);
    }

    /// The threads come back if nobody asked to be told.
    pub fn say(&mut self, threads: Vec<JoinHandle<()>>) -> Vec<JoinHandle<()>> {
        match self.0.get_mut().take() {
            Some(word) => {
                word(threads);
                Vec::new()
            }
            None => threads,
        }
    }
}

/// Waits for the threads of the instances of `model`.
pub fn join(model: &str, threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!(model, "an instance ended in a panic");
        }
    }
}
