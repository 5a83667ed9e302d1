//! Waiting with three answers: ready, not yet, never.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

/// What one look at a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// It holds.
    Ready(T),
    /// It may still come; the last thing seen.
    NotYet(String),
    /// It cannot come any more; why.
    Never(String),
}

/// The condition did not come.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WaitError {
    /// The budget is used up.
    #[error("{what} did not come within {budget:?}; last seen: {last_seen}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        budget: Duration,
        /// The last thing seen.
        last_seen: String,
    },
    /// Waiting longer would not help.
    #[error("{what} cannot come any more: {why}")]
    Never {
        /// What was waited for.
        what: String,
        /// Why.
        why: String,
    },
}

/// Pause between the first two looks; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Looks until the condition holds, cannot hold any more, or the budget is used up.
///
/// One look that is still running when the budget ends is cut off. For things that cannot be watched; where there is
/// a watch, await it inside `look`.
///
/// # Errors
/// [`WaitError`] with the last thing seen.
pub async fn wait_for<T, F, Fut>(what: &str, budget: Duration, mut look: F) -> Result<T, WaitError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Answer<T>>,
{
    let end = Instant::now() + budget;
    let mut pause = FIRST_PAUSE;
    let mut last_seen = "nothing yet".to_owned();
    loop {
        match tokio::time::timeout_at(end, look()).await {
            Ok(Answer::Ready(value)) => return Ok(value),
            Ok(Answer::Never(why)) => return Err(WaitError::Never { what: what.to_owned(), why }),
            Ok(Answer::NotYet(seen)) => last_seen = seen,
            Err(_) => return Err(WaitError::TimedOut { what: what.to_owned(), budget, last_seen }),
        }
        if Instant::now() + pause >= end {
            // One last look at the very end, so that a slow pause does not lose a condition that came in time.
            tokio::time::sleep_until(end).await;
            return match tokio::time::timeout(LONGEST_PAUSE, look()).await {
                Ok(Answer::Ready(value)) => Ok(value),
                Ok(Answer::Never(why)) => Err(WaitError::Never { what: what.to_owned(), why }),
                Ok(Answer::NotYet(seen)) => Err(WaitError::TimedOut { what: what.to_owned(), budget, last_seen: seen }),
                Err(_) => Err(WaitError::TimedOut { what: what.to_owned(), budget, last_seen }),
            };
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
