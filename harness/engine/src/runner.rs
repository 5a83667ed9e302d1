//! The runner: performs what the schedule allows, and keeps a record of each check.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use shakedown_core::{Cancel, CheckRecord, Event, EventSink, Resource, RunInfo, Seed, Touches, Verdict};

use crate::baseline::{Baseline, gate};
use crate::check::{AnyFixture, Check, Tag};
use crate::control::Controlled;
use crate::evidence::EvidenceStore;
use crate::look::Bench;
use crate::plan::Plan;
use crate::record::{ControlPart, compose};
use crate::schedule::{Job, Schedule, Unit};
use crate::undo::UndoLog;
use crate::world::{Journal, World};

/// Jobs that run side by side unless told otherwise.
pub const DEFAULT_WIDTH: usize = 4;

/// What a run is given beside its checks.
pub struct Settings {
    /// Sortable name of the run.
    pub id: String,
    /// Fixes every random choice.
    pub seed: Seed,
    /// Jobs that run side by side.
    pub width: usize,
    /// The run's folder.
    pub dir: PathBuf,
    /// Name of the cluster.
    pub cluster: String,
    /// `local`, `kind`, `ssh`, `existing`.
    pub provisioner: String,
    /// The command that repeats the run.
    pub command: String,
    /// Ends the run early: everything is put back first.
    pub cancel: Cancel,
    /// The clock that the run's head is stamped with.
    pub clock: fn() -> Timestamp,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Its head.
    pub info: RunInfo,
    /// A record for each check of the plan, ordered by id.
    pub records: Vec<CheckRecord>,
    /// Why it ended before everything had run.
    pub stopped: Option<Stopped>,
}

/// Why a run ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// Ctrl-C. Everything has been put back.
    Interrupted,
    /// Something could not be put back; it is open in the journal.
    NotUndone(String),
}

/// Runs the plan's checks with their controls.
///
/// The world is looked at as found first: every baseline ends before the first defect is planted.
pub async fn run<W: World>(
    world: &W,
    table: &[Check<W>],
    plan: &Plan,
    journal: Arc<dyn Journal>,
    events: Arc<dyn EventSink>,
    settings: Settings,
) -> Outcome {
    let mut info = RunInfo {
        id: settings.id.clone(),
        seed: settings.seed,
        cluster: settings.cluster.clone(),
        started: (settings.clock)(),
        finished: None,
        provisioner: settings.provisioner.clone(),
        versions: world.versions().await,
        command: settings.command.clone(),
    };
    let offered = world.capabilities().await;
    events.emit(Event::RunStarted {
        run: info.clone(),
        checks: plan.baselines.iter().filter_map(|at| table.get(*at)).map(|check| check.id.to_owned()).collect(),
    });
    let bench = Bench {
        world,
        store: EvidenceStore::new(&settings.dir),
        journal,
        events: events.clone(),
        halt: Cancel::new(),
        run: settings.id.clone(),
        seed: settings.seed,
    };
    let mut shift = Shift::new(&bench, table, plan, settings.width);
    for at in &plan.baselines {
        if let Some(baseline) = table.get(*at).and_then(|check| gate(check, &offered)) {
            shift.close(*at, baseline, ControlPart::NothingToShake);
        }
    }
    shift.work(&settings.cancel).await;
    let (records, stopped) = shift.end(&settings.cancel);
    info.finished = Some((settings.clock)());
    events.emit(Event::RunFinished { run: info.clone() });
    Outcome { info, records, stopped }
}

/// A fixture and the undo of this run's set-up.
struct Shared<W> {
    fixture: Arc<dyn AnyFixture<W>>,
    undo: Arc<UndoLog>,
    failed: Option<String>,
}

/// How a job ended.
enum Ended {
    Baseline(Baseline),
    Control(Box<Controlled>),
    SetUp(Result<(), String>, Result<(), String>),
    TakenDown(Result<(), String>),
}

/// A run at work.
struct Shift<'a, W> {
    bench: &'a Bench<'a, W>,
    table: &'a [Check<W>],
    plan: &'a Plan,
    width: usize,
    shared: Vec<Shared<W>>,
    passed: BTreeMap<usize, Baseline>,
    records: BTreeMap<usize, CheckRecord>,
    /// Who left something changed, and what.
    not_undone: Option<(&'static str, String)>,
}

impl<'a, W: World> Shift<'a, W> {
    fn new(bench: &'a Bench<'a, W>, table: &'a [Check<W>], plan: &'a Plan, width: usize) -> Self {
        let mut shared: Vec<Shared<W>> = Vec::new();
        for fixture in plan.baselines.iter().filter_map(|at| table.get(*at)).flat_map(|check| &check.fixtures) {
            if !shared.iter().any(|known| known.fixture.name() == fixture.name()) {
                let owner = format!("fixture/{}", fixture.name());
                let undo = Arc::new(UndoLog::new(bench.journal.clone(), &bench.run, owner, None));
                shared.push(Shared { fixture: fixture.clone(), undo, failed: None });
            }
        }
        Self { bench, table, plan, width, shared, passed: BTreeMap::new(), records: BTreeMap::new(), not_undone: None }
    }

    /// The schedule of what is not closed yet.
    fn schedule(&self) -> Schedule {
        let units = self.table.iter().map(|check| self.unit(check)).collect();
        let fixtures = self.shared.iter().map(|shared| shared.fixture.touches()).collect();
        let open = |list: &[usize]| list.iter().copied().filter(|at| !self.records.contains_key(at)).collect();
        Schedule::new(units, fixtures, open(&self.plan.baselines), open(&self.plan.controls), self.width)
    }

    fn unit(&self, check: &Check<W>) -> Unit {
        let mut touches = check.probe.touches();
        if check.is(Tag::Exclusive) {
            touches = touches.writes(Resource::Cluster);
        }
        let mut fixtures = Vec::new();
        for name in check.fixtures.iter().map(|fixture| fixture.name()) {
            let Some(at) = self.shared.iter().position(|shared| shared.fixture.name() == name) else { continue };
            fixtures.push(at);
            let held = self.shared.get(at).map(|shared| shared.fixture.touches()).unwrap_or_default();
            touches = touches.union(&held.iter().fold(Touches::nothing(), |all, (what, _)| all.reads(what.clone())));
        }
        Unit { control: touches.clone().union(&check.control.defect.touches()), baseline: touches, fixtures }
    }

    async fn work(&mut self, cancel: &Cancel) {
        let mut schedule = self.schedule();
        let mut running: FuturesUnordered<BoxFuture<'a, (Job, Ended)>> = FuturesUnordered::new();
        loop {
            if cancel.is_cancelled() {
                self.bench.halt.cancel();
            }
            if self.bench.halt.is_cancelled() {
                schedule.stop();
            }
            while let Some(job) = schedule.next() {
                if let Some(work) = self.perform(job, &schedule) {
                    running.push(work);
                }
            }
            tokio::select! {
                ended = running.next() => match ended {
                    Some((job, ended)) => self.take(job, ended, &mut schedule),
                    None => return,
                },
                () = cancel.cancelled(), if !self.bench.halt.is_cancelled() => {}
            }
        }
    }

    /// The work of one job, started by the caller.
    fn perform(&self, job: Job, schedule: &Schedule) -> Option<BoxFuture<'a, (Job, Ended)>> {
        let (bench, table) = (self.bench, self.table);
        match job {
            Job::Baseline(at) => {
                let check = table.get(at)?;
                let failed = check.fixtures.iter().find_map(|fixture| {
                    let place = self.shared.iter().position(|shared| shared.fixture.name() == fixture.name())?;
                    let why = self.shared.get(place)?.failed.clone()?;
                    schedule.has_failed(place).then(|| format!("{} could not be set up: {why}", fixture.name()))
                });
                Some(Box::pin(async move {
                    let baseline = match failed {
                        Some(why) => Baseline::without_look(Verdict::Inconclusive, why),
                        None => bench.baseline(check).await,
                    };
                    (job, Ended::Baseline(baseline))
                }))
            }
            Job::Control(at) => {
                let check = table.get(at)?;
                let baseline_ms = self.passed.get(&at)?.duration_ms;
                Some(Box::pin(async move { (job, Ended::Control(Box::new(bench.control(check, baseline_ms).await))) }))
            }
            Job::SetUp(at) => {
                let (fixture, undo) = self.shared.get(at).map(|s| (s.fixture.clone(), s.undo.clone()))?;
                Some(Box::pin(async move {
                    let up = bench.set_up(fixture.as_ref(), &undo).await;
                    let undone = match &up {
                        Ok(()) => Ok(()),
                        Err(_) => undo.undo_all(bench.world, bench.events.as_ref()).await,
                    };
                    (job, Ended::SetUp(up, undone))
                }))
            }
            Job::TakeDown(at) => {
                let (name, undo) = self.shared.get(at).map(|s| (s.fixture.name(), s.undo.clone()))?;
                Some(Box::pin(async move {
                    bench.events.emit(Event::Fixture { name: name.to_owned(), up: false });
                    (job, Ended::TakenDown(undo.undo_all(bench.world, bench.events.as_ref()).await))
                }))
            }
        }
    }

    fn take(&mut self, job: Job, ended: Ended, schedule: &mut Schedule) {
        match (job, ended) {
            (Job::Baseline(at), Ended::Baseline(baseline)) => {
                self.halt_on(self.id(at), baseline.stop.clone());
                let asked = self.plan.controls.contains(&at);
                let passed = baseline.verdict == Verdict::Pass;
                schedule.baseline_over(at, passed && asked);
                match (passed, asked) {
                    (true, true) => {
                        self.passed.insert(at, baseline);
                    }
                    (true, false) => self.close(at, baseline, ControlPart::NotAsked),
                    (false, _) => self.close(at, baseline, ControlPart::NothingToShake),
                }
            }
            (Job::Control(at), Ended::Control(controlled)) => {
                schedule.control_over(at);
                self.halt_on(self.id(at), controlled.stop.clone());
                if let Some(baseline) = self.passed.remove(&at) {
                    self.close(at, baseline, ControlPart::Ran(*controlled));
                }
            }
            (Job::SetUp(at), Ended::SetUp(up, undone)) => {
                schedule.set_up(at, up.is_ok());
                self.halt_on(self.fixture(at), undone.err());
                if let (Some(shared), Err(why)) = (self.shared.get_mut(at), up) {
                    shared.failed = Some(why);
                }
            }
            (Job::TakeDown(at), Ended::TakenDown(undone)) => {
                schedule.taken_down(at);
                self.halt_on(self.fixture(at), undone.err());
            }
            // A job ends as what it is: `perform` pairs them.
            (Job::Baseline(_) | Job::Control(_) | Job::SetUp(_) | Job::TakeDown(_), _) => {}
        }
    }

    fn id(&self, at: usize) -> &'static str {
        self.table.get(at).map_or("", |check| check.id)
    }

    fn fixture(&self, at: usize) -> &'static str {
        self.shared.get(at).map_or("", |shared| shared.fixture.name())
    }

    fn halt_on(&mut self, who: &'static str, why: Option<String>) {
        if let Some(why) = why {
            self.not_undone.get_or_insert((who, why));
            self.bench.halt.cancel();
        }
    }

    fn close(&mut self, at: usize, baseline: Baseline, control: ControlPart) {
        let Some(check) = self.table.get(at) else { return };
        let record = compose(check, baseline, control);
        self.bench.events.emit(Event::CheckFinished { record: Box::new(record.clone()) });
        self.records.insert(at, record);
    }

    /// Closes what never ran, and hands everything over.
    fn end(mut self, cancel: &Cancel) -> (Vec<CheckRecord>, Option<Stopped>) {
        let (stopped, why) = match &self.not_undone {
            Some((who, why)) => (
                Some(Stopped::NotUndone(format!("{who}: {why}"))),
                // Its own record tells the rest.
                format!("the run was stopped because {who} left something changed"),
            ),
            None if cancel.is_cancelled() => (Some(Stopped::Interrupted), "the run was interrupted".to_owned()),
            None => (None, "the run ended before it".to_owned()),
        };
        for at in self.plan.baselines.clone() {
            if self.records.contains_key(&at) {
                continue;
            }
            match self.passed.remove(&at) {
                Some(baseline) => self.close(at, baseline, ControlPart::CutOff(why.clone())),
                None => {
                    let baseline = Baseline::without_look(Verdict::Inconclusive, format!("did not run: {why}"));
                    self.close(at, baseline, ControlPart::NothingToShake);
                }
            }
        }
        let mut records: Vec<CheckRecord> = self.records.into_values().collect();
        records.sort_by(|a, b| a.id.cmp(&b.id));
        (records, stopped)
    }
}
