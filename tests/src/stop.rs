//! A flag that tells a helper thread to end, also when the test that set it up panics.

use std::sync::atomic::{AtomicBool, Ordering};

/// Raised when dropped.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Whether it is time to end.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Raises the flag when the guard goes.
    pub fn guard(&self) -> impl Drop + '_ {
        Guard(&self.0)
    }
}

struct Guard<'a>(&'a AtomicBool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
