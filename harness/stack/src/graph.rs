//! A typed dependency graph of named steps, run in parallel.
//!
//! `needs` is a hard edge: a step whose need failed is not started. `after` is an order only: it keeps two CPU-bound
//! steps from running side by side and does not care how the earlier one ended.
//!
//! Invariant: a [`Graph`] has unique names, no edge into nothing and no cycle, and its order is the same for the same
//! steps in the same sequence.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use futures::stream::{FuturesUnordered, StreamExt};
use thiserror::Error;

/// A step and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Unique name.
    pub name: String,
    /// Steps that must have succeeded.
    pub needs: Vec<String>,
    /// Steps that must have ended, where they run at all.
    pub after: Vec<String>,
}

impl Step {
    /// A step from names.
    pub fn new(name: &str, needs: &[&str], after: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Self { name: name.to_owned(), needs: owned(needs), after: owned(after) }
    }

    fn edges(&self) -> impl Iterator<Item = &String> {
        self.needs.iter().chain(&self.after)
    }
}

/// The steps do not make a graph that can be run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GraphError {
    /// Two steps have one name.
    #[error("two steps are called `{0}`")]
    Duplicate(String),
    /// An edge leads to no step.
    #[error("step `{step}` waits for `{missing}`, which does not exist")]
    Unknown {
        /// The step.
        step: String,
        /// What it names.
        missing: String,
    },
    /// Steps wait for each other.
    #[error("steps wait for each other: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// No step has this name.
    #[error("no component is called `{name}`\nhint: one of {}", known.join(", "))]
    NoSuchStep {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T, E> {
    /// With its result.
    Done(T),
    /// With its error.
    Failed(E),
    /// Never started: this need of it did not succeed.
    Blocked(String),
}

/// Steps that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// In topological order.
    steps: Vec<Step>,
}

impl Graph {
    /// Checks the steps and puts them in order: needs first, otherwise as given.
    ///
    /// # Errors
    /// [`GraphError`]: a name twice, an edge into nothing, a cycle.
    pub fn new(steps: Vec<Step>) -> Result<Self, GraphError> {
        let mut names = BTreeSet::new();
        for step in &steps {
            if !names.insert(step.name.as_str()) {
                return Err(GraphError::Duplicate(step.name.clone()));
            }
        }
        for step in &steps {
            if let Some(missing) = step.edges().find(|e| !names.contains(e.as_str())) {
                return Err(GraphError::Unknown { step: step.name.clone(), missing: missing.clone() });
            }
        }
        let mut rest = steps.clone();
        let mut ordered: Vec<Step> = Vec::new();
        let mut placed: BTreeSet<String> = BTreeSet::new();
        while !rest.is_empty() {
            let Some(at) = rest.iter().position(|s| s.edges().all(|e| placed.contains(e))) else {
                return Err(GraphError::Cycle(cycle_in(&rest)));
            };
            let step = rest.remove(at);
            placed.insert(step.name.clone());
            ordered.push(step);
        }
        Ok(Self { steps: ordered })
    }

    /// The steps, each after all that it waits for.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// A step and everything it needs, directly or not.
    ///
    /// # Errors
    /// [`GraphError::NoSuchStep`].
    pub fn closure(&self, name: &str) -> Result<BTreeSet<String>, GraphError> {
        let mut wanted = BTreeSet::new();
        let mut open = vec![name.to_owned()];
        while let Some(next) = open.pop() {
            let step = self.steps.iter().find(|s| s.name == next).ok_or_else(|| GraphError::NoSuchStep {
                name: next.clone(),
                known: self.steps.iter().map(|s| s.name.clone()).collect(),
            })?;
            if wanted.insert(next) {
                open.extend(step.needs.iter().cloned());
            }
        }
        Ok(wanted)
    }

    /// Groups of steps that can run side by side, in order.
    pub fn waves(&self) -> Vec<Vec<&str>> {
        let mut depth: BTreeMap<&str, usize> = BTreeMap::new();
        let mut waves: Vec<Vec<&str>> = Vec::new();
        for step in &self.steps {
            let at = step.edges().filter_map(|e| depth.get(e.as_str())).max().map_or(0, |d| d + 1);
            depth.insert(&step.name, at);
            if waves.len() <= at {
                waves.resize(at + 1, Vec::new());
            }
            waves[at].push(&step.name);
        }
        waves
    }

    /// Runs the chosen steps, each as soon as all it waits for has ended. Edges to steps that were not chosen count as
    /// met. A failure blocks what needs it; everything else goes on.
    pub async fn run<T, E, F, Fut>(&self, chosen: &BTreeSet<String>, mut act: F) -> BTreeMap<String, Outcome<T, E>>
    where
        F: FnMut(&str) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut open: Vec<&Step> = self.steps.iter().filter(|s| chosen.contains(&s.name)).collect();
        let mut ended: BTreeMap<String, Outcome<T, E>> = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        loop {
            // Repeated until nothing changes: a step that is blocked may block or release others at once.
            let mut changed = true;
            while changed {
                changed = false;
                let mut still = Vec::new();
                for step in std::mem::take(&mut open) {
                    let pending = step.edges().any(|e| chosen.contains(e) && !ended.contains_key(e));
                    let broken = step
                        .needs
                        .iter()
                        .find(|n| ended.get(n.as_str()).is_some_and(|o| !matches!(o, Outcome::Done(_))));
                    if let Some(by) = broken {
                        ended.insert(step.name.clone(), Outcome::Blocked(by.clone()));
                        changed = true;
                    } else if pending {
                        still.push(step);
                    } else {
                        let (name, work) = (step.name.clone(), act(&step.name));
                        running.push(async move { (name, work.await) });
                    }
                }
                open = still;
            }
            match running.next().await {
                Some((name, Ok(value))) => ended.insert(name, Outcome::Done(value)),
                Some((name, Err(error))) => ended.insert(name, Outcome::Failed(error)),
                None => return ended,
            };
        }
    }
}

/// One cycle among steps none of which can be placed: following any open edge long enough must come back.
fn cycle_in(rest: &[Step]) -> Vec<String> {
    let by_name: BTreeMap<&str, &Step> = rest.iter().map(|s| (s.name.as_str(), s)).collect();
    let mut path: Vec<String> = Vec::new();
    let mut at = rest.first();
    while let Some(step) = at {
        if let Some(start) = path.iter().position(|p| *p == step.name) {
            let mut cycle = path.split_off(start);
            cycle.push(step.name.clone());
            return cycle;
        }
        path.push(step.name.clone());
        at = step.edges().find_map(|e| by_name.get(e.as_str()).copied());
    }
    path
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    /// Steps whose edges lead to earlier ones only, then shuffled by rotating: always a graph.
    fn acyclic() -> impl Strategy<Value = Vec<Step>> {
        (1usize..12).prop_flat_map(|n| {
            let edges = proptest::collection::vec(proptest::collection::vec(any::<(usize, bool)>(), 0..4), n);
            (edges, 0..n).prop_map(move |(edges, turn)| {
                let mut steps: Vec<Step> = edges
                    .into_iter()
                    .enumerate()
                    .map(|(i, edges)| {
                        let mut step = Step::new(&format!("s{i}"), &[], &[]);
                        for (to, hard) in edges.into_iter().filter(|_| i > 0) {
                            let list = if hard { &mut step.needs } else { &mut step.after };
                            list.push(format!("s{}", to % i));
                        }
                        step
                    })
                    .collect();
                steps.rotate_left(turn);
                steps
            })
        })
    }

    fn block<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn nothing_stands_before_what_it_waits_for(steps in acyclic()) {
            let count = steps.len();
            let graph = Graph::new(steps).unwrap();
            prop_assert_eq!(graph.steps().len(), count);
            for (at, step) in graph.steps().iter().enumerate() {
                for edge in step.edges() {
                    let other = graph.steps().iter().position(|s| s.name == *edge).unwrap();
                    prop_assert!(other < at);
                }
            }
        }

        #[test]
        fn every_step_ends_once_and_failures_block_exactly_what_needs_them(
            steps in acyclic(), failing in proptest::collection::btree_set(0usize..12, 0..3)
        ) {
            let graph = Graph::new(steps).unwrap();
            let all: BTreeSet<String> = graph.steps().iter().map(|s| s.name.clone()).collect();
            let fails: BTreeSet<String> = failing.iter().map(|i| format!("s{i}")).collect();
            let started = RefCell::new(Vec::new());
            let ended = block(graph.run(&all, |name| {
                started.borrow_mut().push(name.to_owned());
                let result = if fails.contains(name) { Err(()) } else { Ok(()) };
                async move { result }
            }));
            prop_assert_eq!(ended.len(), all.len());
            for step in graph.steps() {
                let doomed = graph.closure(&step.name).unwrap().iter().any(|n| *n != step.name && fails.contains(n));
                let times = started.borrow().iter().filter(|n| **n == step.name).count();
                prop_assert_eq!(times, usize::from(!doomed));
                match &ended[&step.name] {
                    Outcome::Done(()) => prop_assert!(!doomed && !fails.contains(&step.name)),
                    Outcome::Failed(()) => prop_assert!(!doomed && fails.contains(&step.name)),
                    Outcome::Blocked(by) => prop_assert!(doomed && step.needs.contains(by)),
                }
            }
            // In the order of starting, too, nothing stands before what it waits for.
            let started = started.into_inner();
            for (at, name) in started.iter().enumerate() {
                let step = graph.steps().iter().find(|s| s.name == *name).unwrap();
                for edge in step.edges() {
                    prop_assert!(started.iter().position(|s| s == edge).is_none_or(|other| other < at));
                }
            }
        }
    }

    #[test]
    fn a_cycle_is_named() {
        let steps = vec![Step::new("a", &["b"], &[]), Step::new("b", &[], &["c"]), Step::new("c", &["a"], &[])];
        let GraphError::Cycle(path) = Graph::new(steps).unwrap_err() else { panic!("no cycle found") };
        assert_eq!(path.first(), path.last());
        assert_eq!(path.len(), 4);
    }

    #[test]
    fn doubles_and_edges_into_nothing_are_refused() {
        let twice = vec![Step::new("a", &[], &[]), Step::new("a", &[], &[])];
        assert_eq!(Graph::new(twice), Err(GraphError::Duplicate("a".into())));
        let lost = vec![Step::new("a", &["x"], &[])];
        assert_eq!(Graph::new(lost), Err(GraphError::Unknown { step: "a".into(), missing: "x".into() }));
    }

    #[test]
    fn a_step_alone_brings_its_needs_and_not_its_order() {
        let steps = vec![Step::new("a", &[], &[]), Step::new("b", &[], &[]), Step::new("c", &["a"], &["b"])];
        let graph = Graph::new(steps).unwrap();
        assert_eq!(graph.closure("c").unwrap(), BTreeSet::from(["a".to_owned(), "c".to_owned()]));
        assert!(matches!(graph.closure("d"), Err(GraphError::NoSuchStep { .. })));
        assert_eq!(graph.waves(), vec![vec!["a", "b"], vec!["c"]]);
    }

    #[test]
    fn independent_steps_run_side_by_side() {
        let graph = Graph::new(vec![Step::new("a", &[], &[]), Step::new("b", &[], &[])]).unwrap();
        let all = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let both = tokio::sync::Barrier::new(2);
        // Each waits for the other: run one after the other this would never end.
        let ended = block(graph.run(&all, |_| async {
            both.wait().await;
            Ok::<(), ()>(())
        }));
        assert!(ended.values().all(|o| *o == Outcome::Done(())));
    }
}
