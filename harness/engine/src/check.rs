//! A check is one value: what it asserts and needs, how it looks, what it expects, and which defect proves it.
//!
//! ```ignore
//! check("psa.privileged-pod-is-refused")
//!     .asserts(["PSA-023", "PSA-024"])
//!     .observe(admission::create(manifest!("privileged-pod.yaml")).in_namespace(psa::RESTRICTED))
//!     .expect(denied().with_violations(PRIVILEGED))
//!     .sabotage(psa::enforce_lowered_to("baseline"), finds("violation-missing"))
//!     .remedy("label the namespace with pod-security.kubernetes.io/enforce=restricted")
//! ```

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use shakedown_core::{Capability, ControlKind, Judgement, Observation, Touches, UndoStep};

use crate::expect::Expect;
use crate::probe::{Cx, ObserveError, Probe};
use crate::sabotage::{Fixture, PlantError, Prepared, Sabotage};

/// How the runner treats a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tag {
    /// Takes over a minute: started first.
    Slow,
    /// Changes the cluster widely: runs alone, and must leave the fingerprint as it was.
    Exclusive,
}

/// A probe without its type.
pub trait AnyProbe<W>: Send + Sync {
    /// [`Observation::SCHEMA`] of what it sees.
    fn schema(&self) -> &'static str;
    /// [`Probe::touches`].
    fn touches(&self) -> Touches;
    /// [`Probe::observe`], serialised.
    fn observe<'a>(&'a self, world: &'a W, cx: &'a Cx) -> BoxFuture<'a, Result<Value, ObserveError>>;
}

impl<W: Send + Sync + 'static, P: Probe<W>> AnyProbe<W> for P {
    fn schema(&self) -> &'static str {
        P::Seen::SCHEMA
    }

    fn touches(&self) -> Touches {
        Probe::touches(self)
    }

    fn observe<'a>(&'a self, world: &'a W, cx: &'a Cx) -> BoxFuture<'a, Result<Value, ObserveError>> {
        Box::pin(async move {
            let seen = Probe::observe(self, world, cx).await?;
            serde_json::to_value(seen).map_err(|e| ObserveError::harness(format!("observation cannot be written: {e}")))
        })
    }
}

/// What a sabotage chose, without its type.
pub type Choice = Box<dyn Any + Send + Sync>;

/// A sabotage without its type.
pub trait AnySabotage<W>: Send + Sync {
    /// [`Sabotage::describe`].
    fn describe(&self) -> String;
    /// [`Sabotage::touches`].
    fn touches(&self) -> Touches;
    /// [`Sabotage::prepare`].
    fn prepare<'a>(&'a self, world: &'a W) -> BoxFuture<'a, Result<Prepared<Choice>, PlantError>>;
    /// [`Sabotage::plant`].
    fn plant<'a>(&'a self, world: &'a W, choice: &'a Choice) -> BoxFuture<'a, Result<(), PlantError>>;
    /// [`Sabotage::settled`].
    fn settled<'a>(&'a self, world: &'a W) -> BoxFuture<'a, Result<(), PlantError>>;
}

impl<W: Send + Sync + 'static, S: Sabotage<W>> AnySabotage<W> for S {
    fn describe(&self) -> String {
        Sabotage::describe(self)
    }

    fn touches(&self) -> Touches {
        Sabotage::touches(self)
    }

    fn prepare<'a>(&'a self, world: &'a W) -> BoxFuture<'a, Result<Prepared<Choice>, PlantError>> {
        Box::pin(async move {
            let Prepared { choice, undo } = Sabotage::prepare(self, world).await?;
            Ok(Prepared { choice: Box::new(choice) as Choice, undo })
        })
    }

    fn plant<'a>(&'a self, world: &'a W, choice: &'a Choice) -> BoxFuture<'a, Result<(), PlantError>> {
        Box::pin(async move {
            let choice = choice.as_ref().downcast_ref::<S::Choice>();
            Sabotage::plant(self, world, choice.ok_or_else(|| PlantError::new("chosen by another sabotage"))?).await
        })
    }

    fn settled<'a>(&'a self, world: &'a W) -> BoxFuture<'a, Result<(), PlantError>> {
        Box::pin(Sabotage::settled(self, world))
    }
}

/// A fixture without its type.
pub trait AnyFixture<W>: Send + Sync {
    /// [`Fixture::name`].
    fn name(&self) -> &'static str;
    /// [`Fixture::touches`].
    fn touches(&self) -> Touches;
    /// [`Fixture::undo_plan`].
    fn undo_plan<'a>(&'a self, world: &'a W) -> BoxFuture<'a, Result<Vec<UndoStep>, PlantError>>;
    /// [`Fixture::set_up`].
    fn set_up<'a>(&'a self, world: &'a W) -> BoxFuture<'a, Result<(), PlantError>>;
}

impl<W: Send + Sync + 'static, F: Fixture<W>> AnyFixture<W> for F {
    fn name(&self) -> &'static str {
        Fixture::name(self)
    }

    fn touches(&self) -> Touches {
        Fixture::touches(self)
    }

    fn undo_plan<'a>(&'a self, world: &'a W) -> BoxFuture<'a, Result<Vec<UndoStep>, PlantError>> {
        Box::pin(Fixture::undo_plan(self, world))
    }

    fn set_up<'a>(&'a self, world: &'a W) -> BoxFuture<'a, Result<(), PlantError>> {
        Box::pin(Fixture::set_up(self, world))
    }
}

/// Shares a fixture among checks.
pub fn fixture<W: Send + Sync + 'static>(of: impl Fixture<W>) -> Arc<dyn AnyFixture<W>> {
    Arc::new(of)
}

/// The defect that proves a check, and the finding code it must be reported with.
pub struct Control<W> {
    /// How the defect is shown.
    pub defect: Defect<W>,
    /// The code that the judge must give.
    pub finds: &'static str,
}

/// How a defect is shown to the judge.
pub enum Defect<W> {
    /// Planted in the cluster.
    Plant(Box<dyn AnySabotage<W>>),
    /// Another input to the same kind of probe; what the input is, and the probe.
    Input(String, Box<dyn AnyProbe<W>>),
    /// The same kind of probe with a step left out; which, and the probe.
    OmitStep(String, Box<dyn AnyProbe<W>>),
    /// A recorded, broken observation: where it comes from, and its JSON text.
    Recorded(&'static str, &'static str),
}

impl<W: Send + Sync + 'static> Defect<W> {
    /// Its kind in reports.
    pub fn kind(&self) -> ControlKind {
        match self {
            Defect::Plant(_) => ControlKind::Plant,
            Defect::Input(..) => ControlKind::Input,
            Defect::OmitStep(..) => ControlKind::OmitStep,
            Defect::Recorded(..) => ControlKind::Recorded,
        }
    }

    /// One line for reports.
    pub fn describe(&self) -> String {
        match self {
            Defect::Plant(sabotage) => sabotage.describe(),
            Defect::Input(what, _) | Defect::OmitStep(what, _) => what.clone(),
            Defect::Recorded(what, _) => (*what).to_owned(),
        }
    }

    /// What showing it touches beside the check's own.
    pub fn touches(&self) -> Touches {
        match self {
            Defect::Plant(sabotage) => sabotage.touches(),
            Defect::Input(_, probe) | Defect::OmitStep(_, probe) => probe.touches(),
            Defect::Recorded(..) => Touches::nothing(),
        }
    }
}

/// The judge: an expectation behind a round trip through the serialised form.
pub type Judge = Box<dyn Fn(&Value) -> Result<Judgement, String> + Send + Sync>;

/// A check, complete.
pub struct Check<W> {
    /// `area.what-holds`.
    pub id: &'static str,
    /// Statements it answers.
    pub statements: Vec<&'static str>,
    /// Those of them that the real system contradicts: the check asserts what is true instead.
    pub contradicts: Vec<&'static str>,
    /// Without these it is `skip`.
    pub needs: Vec<Capability>,
    /// How the runner treats it.
    pub tags: Vec<Tag>,
    /// What it shares with others.
    pub fixtures: Vec<Arc<dyn AnyFixture<W>>>,
    /// How it looks.
    pub probe: Box<dyn AnyProbe<W>>,
    /// What it expects.
    pub judge: Judge,
    /// The defect that proves it.
    pub control: Control<W>,
    /// What to do where it fails.
    pub remedy: &'static str,
    /// How long one observation may take.
    pub budget: Duration,
    /// Recorded observations that the unit tests feed to the judge: name, JSON text, and the code expected (None: pass).
    pub recorded: Vec<(&'static str, &'static str, Option<&'static str>)>,
}

impl<W> Check<W> {
    /// The area: the id up to its first dot.
    pub fn area(&self) -> &'static str {
        self.id.split('.').next().unwrap_or(self.id)
    }

    /// Whether it carries the tag.
    pub fn is(&self, tag: Tag) -> bool {
        self.tags.contains(&tag)
    }
}

/// Begins a check.
pub fn check(id: &'static str) -> Head {
    Head { id, statements: vec![], contradicts: vec![], needs: vec![], tags: vec![], budget: Duration::from_secs(60) }
}

/// The part of a check that has no types of its own yet.
pub struct Head {
    id: &'static str,
    statements: Vec<&'static str>,
    contradicts: Vec<&'static str>,
    needs: Vec<Capability>,
    tags: Vec<Tag>,
    budget: Duration,
}

impl Head {
    /// The statements that it answers.
    #[must_use]
    pub fn asserts(mut self, ids: impl IntoIterator<Item = &'static str>) -> Self {
        self.statements.extend(ids);
        self
    }

    /// Statements that it answers with "no": the real system does otherwise, the check asserts what is true, and when
    /// it passes they are reported as refuted.
    #[must_use]
    pub fn contradicts(mut self, ids: impl IntoIterator<Item = &'static str>) -> Self {
        for id in ids {
            self.contradicts.push(id);
            if !self.statements.contains(&id) {
                self.statements.push(id);
            }
        }
        self
    }

    /// What the cluster must offer.
    #[must_use]
    pub fn needs(mut self, what: impl IntoIterator<Item = Capability>) -> Self {
        self.needs.extend(what);
        self
    }

    /// How the runner treats it.
    #[must_use]
    pub fn tag(mut self, tag: Tag) -> Self {
        self.tags.push(tag);
        self
    }

    /// How long one observation may take; 60 s unless told.
    #[must_use]
    pub fn within(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// How it looks.
    pub fn observe<W: Send + Sync + 'static, P: Probe<W>>(self, probe: P) -> Observed<W, P> {
        Observed { head: self, probe, fixtures: vec![], world: PhantomData }
    }
}

/// A check that knows how to look.
pub struct Observed<W, P> {
    head: Head,
    probe: P,
    fixtures: Vec<Arc<dyn AnyFixture<W>>>,
    world: PhantomData<fn(&W)>,
}

impl<W: Send + Sync + 'static, P: Probe<W>> Observed<W, P> {
    /// Shares a state with other checks.
    #[must_use]
    pub fn with(mut self, shared: Arc<dyn AnyFixture<W>>) -> Self {
        self.fixtures.push(shared);
        self
    }

    /// What it expects.
    pub fn expect(self, expect: impl Expect<P::Seen>) -> Expected<W, P> {
        let judge: Judge = Box::new(move |value| {
            let seen = serde_json::from_value::<P::Seen>(value.clone())
                .map_err(|e| format!("evidence is not a {}: {e}", P::Seen::SCHEMA))?;
            Ok(expect.judge(&seen))
        });
        Expected { observed: self, judge }
    }
}

/// The finding code that a control must bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finds(pub &'static str);

/// The finding code that a control must bring about.
pub const fn finds(code: &'static str) -> Finds {
    Finds(code)
}

/// A check that lacks only its control.
pub struct Expected<W, P> {
    observed: Observed<W, P>,
    judge: Judge,
}

impl<W: Send + Sync + 'static, P: Probe<W>> Expected<W, P> {
    /// Proved by a defect in the cluster.
    pub fn sabotage(self, defect: impl Sabotage<W>, code: Finds) -> Unremedied<W> {
        self.proved_by(Defect::Plant(Box::new(defect)), code)
    }

    /// Proved by the same kind of probe on another input.
    pub fn sabotage_input(self, what: impl Into<String>, probe: P, code: Finds) -> Unremedied<W> {
        self.proved_by(Defect::Input(what.into(), Box::new(probe)), code)
    }

    /// Proved by the same kind of probe with a step left out.
    pub fn sabotage_omitting(self, what: impl Into<String>, probe: P, code: Finds) -> Unremedied<W> {
        self.proved_by(Defect::OmitStep(what.into(), Box::new(probe)), code)
    }

    /// Proved by a recorded, broken observation; only where nothing can be planted.
    pub fn sabotage_recorded(self, origin: &'static str, json: &'static str, code: Finds) -> Unremedied<W> {
        self.proved_by(Defect::Recorded(origin, json), code)
    }

    fn proved_by(self, defect: Defect<W>, code: Finds) -> Unremedied<W> {
        let Observed { head, probe, fixtures, .. } = self.observed;
        Unremedied(Check {
            id: head.id,
            statements: head.statements,
            contradicts: head.contradicts,
            needs: head.needs,
            tags: head.tags,
            fixtures,
            probe: Box::new(probe),
            judge: self.judge,
            control: Control { defect, finds: code.0 },
            remedy: "",
            budget: head.budget,
            recorded: vec![],
        })
    }
}

/// A check that lacks only the advice.
pub struct Unremedied<W>(Check<W>);

impl<W> Unremedied<W> {
    /// A recorded observation that the unit tests feed to the judge, and the code expected (None: it must pass).
    #[must_use]
    pub fn recorded(mut self, name: &'static str, json: &'static str, code: Option<&'static str>) -> Self {
        self.0.recorded.push((name, json, code));
        self
    }

    /// What to do where it fails. Completes the check.
    pub fn remedy(mut self, advice: &'static str) -> Check<W> {
        self.0.remedy = advice;
        self.0
    }
}
