//! Expectations judge: pure functions of an observation, with no IO and no clock.

use std::marker::PhantomData;

use shakedown_core::Judgement;

/// Judges what was seen.
pub trait Expect<S>: Send + Sync + 'static {
    /// Every way of failing carries a finding code.
    fn judge(&self, seen: &S) -> Judgement;
}

/// Any plain function is an expectation.
pub struct ExpectFn<S, F> {
    judge: F,
    seen: PhantomData<fn(&S)>,
}

/// Turns a function into an expectation.
pub fn expect_fn<S: 'static, F: Fn(&S) -> Judgement + Send + Sync + 'static>(judge: F) -> ExpectFn<S, F> {
    ExpectFn { judge, seen: PhantomData }
}

impl<S: 'static, F: Fn(&S) -> Judgement + Send + Sync + 'static> Expect<S> for ExpectFn<S, F> {
    fn judge(&self, seen: &S) -> Judgement {
        (self.judge)(seen)
    }
}

/// All of them must hold; every finding is kept.
pub struct AllOf<S>(Vec<Box<dyn Expect<S>>>);

/// All of these must hold. An empty list is inconclusive: nothing was expected.
pub fn all_of<S: 'static>(list: Vec<Box<dyn Expect<S>>>) -> AllOf<S> {
    AllOf(list)
}

impl<S: 'static> Expect<S> for AllOf<S> {
    fn judge(&self, seen: &S) -> Judgement {
        self.0
            .iter()
            .map(|expect| expect.judge(seen))
            .reduce(Judgement::and)
            .unwrap_or_else(|| Judgement::Inconclusive("nothing was expected".to_owned()))
    }
}
