//! One wish to stop, shared by everything that can take a while.

use std::sync::Arc;

use tokio::sync::watch;

/// A wish to stop. Clones share it; it is never taken back.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<watch::Sender<bool>>);

impl Default for Cancel {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Cancel {
    /// Not wished for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wishes it. Safe to repeat.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// Whether it has been wished for.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it has been wished for.
    pub async fn cancelled(&self) {
        let mut seen = self.0.subscribe();
        // The sender lives as long as `self`, so this cannot end for any other reason.
        let _ = seen.wait_for(|wished| *wished).await;
    }
}
