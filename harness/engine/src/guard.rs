//! Runs foreign code with its panics caught: a panic in a probe is an `error` of one check, not the end of a run.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

/// How a guarded piece of code ended.
#[derive(Debug)]
pub(crate) enum Caught<T> {
    /// With a value.
    Done(T),
    /// With a panic; its words.
    Panicked(String),
}

/// Runs a future with its panics caught.
///
/// What the future shared is only looked at through its own locks afterwards, so unwinding cannot expose it half
/// changed.
pub(crate) async fn caught<T>(what: impl Future<Output = T>) -> Caught<T> {
    match AssertUnwindSafe(what).catch_unwind().await {
        Ok(value) => Caught::Done(value),
        Err(panic) => Caught::Panicked(words(&*panic)),
    }
}

/// Runs a function with its panics caught.
pub(crate) fn caught_fn<T>(what: impl FnOnce() -> T) -> Caught<T> {
    match std::panic::catch_unwind(AssertUnwindSafe(what)) {
        Ok(value) => Caught::Done(value),
        Err(panic) => Caught::Panicked(words(&*panic)),
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no words".to_owned())
}
