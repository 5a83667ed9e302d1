//! Who may run now: locks, shared states, baselines before controls. A pure state machine; the runner performs what it
//! says and tells it what ended.
//!
//! Invariants: no two jobs whose touches conflict run side by side; no control starts before every baseline has ended;
//! a fixture is up whenever one of its users runs, and is set up and taken down at most once.

use shakedown_core::Touches;

/// One thing to do. Numbers are positions among the units and the fixtures that the schedule was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Job {
    SetUp(usize),
    Baseline(usize),
    Control(usize),
    TakeDown(usize),
}

/// A check, as far as the schedule is concerned.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unit {
    /// What its baseline touches, fixtures included.
    pub baseline: Touches,
    /// What its baseline and its control touch together.
    pub control: Touches,
    /// Fixtures that must be up.
    pub fixtures: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not known to be wanted: a control whose baseline has not passed.
    Idle,
    Waiting,
    Running,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shared {
    Down,
    Changing,
    Up,
    /// Could not be set up; its users are told.
    Failed,
    Gone,
}

/// The schedule of one run.
#[derive(Debug)]
pub(crate) struct Schedule {
    units: Vec<Unit>,
    fixtures: Vec<Touches>,
    /// Positions in the order in which they would like to start.
    baselines: Vec<usize>,
    controls: Vec<usize>,
    baseline: Vec<Stage>,
    control: Vec<Stage>,
    shared: Vec<Shared>,
    running: Vec<Job>,
    width: usize,
    stopped: bool,
}

impl Schedule {
    /// `controls` may hold units whose control never becomes due.
    pub fn new(
        units: Vec<Unit>,
        fixtures: Vec<Touches>,
        baselines: Vec<usize>,
        controls: Vec<usize>,
        width: usize,
    ) -> Self {
        let mut baseline = vec![Stage::Over; units.len()];
        for at in &baselines {
            set(&mut baseline, *at, Stage::Waiting);
        }
        Self {
            control: vec![Stage::Idle; units.len()],
            shared: vec![Shared::Down; fixtures.len()],
            running: Vec::new(),
            width: width.max(1),
            stopped: false,
            baseline,
            units,
            fixtures,
            baselines,
            controls,
        }
    }

    /// The next job that may start now; it counts as running from here on.
    pub fn next(&mut self) -> Option<Job> {
        if self.running.len() >= self.width {
            return None;
        }
        let job = self.pick(true).or_else(|| if self.running.is_empty() { self.pick(false) } else { None })?;
        match job {
            Job::Baseline(at) => set(&mut self.baseline, at, Stage::Running),
            Job::Control(at) => set(&mut self.control, at, Stage::Running),
            Job::SetUp(at) | Job::TakeDown(at) => set(&mut self.shared, at, Shared::Changing),
        }
        self.running.push(job);
        Some(job)
    }

    /// A baseline has ended; whether its control is due.
    pub fn baseline_over(&mut self, at: usize, control_due: bool) {
        self.ended(Job::Baseline(at));
        set(&mut self.baseline, at, Stage::Over);
        if control_due && self.controls.contains(&at) {
            set(&mut self.control, at, Stage::Waiting);
        }
    }

    /// A control has ended.
    pub fn control_over(&mut self, at: usize) {
        self.ended(Job::Control(at));
        set(&mut self.control, at, Stage::Over);
    }

    /// A fixture has been set up, or could not be.
    pub fn set_up(&mut self, at: usize, usable: bool) {
        self.ended(Job::SetUp(at));
        set(&mut self.shared, at, if usable { Shared::Up } else { Shared::Failed });
    }

    /// A fixture has been taken down.
    pub fn taken_down(&mut self, at: usize) {
        self.ended(Job::TakeDown(at));
        set(&mut self.shared, at, Shared::Gone);
    }

    /// Nothing starts any more but the taking down of what is up.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether a fixture could not be set up.
    pub fn has_failed(&self, fixture: usize) -> bool {
        self.shared.get(fixture) == Some(&Shared::Failed)
    }

    /// `polite`: also keeps shared states away from checks that want to see the platform as found.
    fn pick(&self, polite: bool) -> Option<Job> {
        if let Some(at) = (0..self.shared.len()).rev().find(|at| self.may_take_down(*at)) {
            return Some(Job::TakeDown(at));
        }
        if self.stopped {
            return None;
        }
        let baselines_over = self.baseline.iter().all(|stage| *stage == Stage::Over);
        let (order, stages) =
            if baselines_over { (&self.controls, &self.control) } else { (&self.baselines, &self.baseline) };
        for at in order.iter().copied().filter(|at| stages.get(*at) == Some(&Stage::Waiting)) {
            let Some(unit) = self.units.get(at) else { continue };
            let missing = unit
                .fixtures
                .iter()
                .copied()
                .find(|f| !matches!(self.shared.get(*f), Some(Shared::Up | Shared::Failed)));
            match missing {
                Some(fixture) => {
                    if self.shared.get(fixture) == Some(&Shared::Down) && self.may_set_up(fixture, polite) {
                        return Some(Job::SetUp(fixture));
                    }
                }
                None if baselines_over => {
                    if self.is_free(&unit.control) && (!polite || !self.is_disturbed(unit)) {
                        return Some(Job::Control(at));
                    }
                }
                None => {
                    if self.is_free(&unit.baseline) && (!polite || !self.is_disturbed(unit)) {
                        return Some(Job::Baseline(at));
                    }
                }
            }
        }
        None
    }

    fn may_set_up(&self, fixture: usize, polite: bool) -> bool {
        let Some(touches) = self.fixtures.get(fixture) else { return false };
        let awaited = || {
            self.units.iter().enumerate().any(|(at, unit)| {
                !unit.fixtures.contains(&fixture)
                    && matches!(self.baseline.get(at), Some(Stage::Waiting | Stage::Running))
                    && unit.baseline.conflicts(touches)
            })
        };
        self.is_free(touches) && (!polite || !awaited())
    }

    fn may_take_down(&self, fixture: usize) -> bool {
        let wanted = |stage: Option<&Stage>| match stage {
            Some(Stage::Running) => true,
            Some(Stage::Waiting) => !self.stopped,
            Some(Stage::Idle | Stage::Over) | None => false,
        };
        self.shared.get(fixture) == Some(&Shared::Up)
            && self.units.iter().enumerate().all(|(at, unit)| {
                !unit.fixtures.contains(&fixture) || !(wanted(self.baseline.get(at)) || wanted(self.control.get(at)))
            })
            && self.fixtures.get(fixture).is_some_and(|touches| self.is_free(touches))
    }

    /// Whether a shared state that the unit does not use has changed what it looks at.
    fn is_disturbed(&self, unit: &Unit) -> bool {
        self.fixtures.iter().enumerate().any(|(at, touches)| {
            self.shared.get(at) == Some(&Shared::Up) && !unit.fixtures.contains(&at) && touches.conflicts(&unit.control)
        })
    }

    fn is_free(&self, touches: &Touches) -> bool {
        !self.running.iter().filter_map(|job| self.touches(*job)).any(|held| held.conflicts(touches))
    }

    /// What a job holds while it runs.
    pub fn touches(&self, job: Job) -> Option<&Touches> {
        match job {
            Job::SetUp(at) | Job::TakeDown(at) => self.fixtures.get(at),
            Job::Baseline(at) => self.units.get(at).map(|unit| &unit.baseline),
            Job::Control(at) => self.units.get(at).map(|unit| &unit.control),
        }
    }

    fn ended(&mut self, job: Job) {
        self.running.retain(|running| *running != job);
    }
}

fn set<T>(list: &mut [T], at: usize, value: T) {
    if let Some(slot) = list.get_mut(at) {
        *slot = value;
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
