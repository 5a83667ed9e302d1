//! A world of a few lines, and the pieces to make checks of: cells that hold a word each.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "tests; not every file uses every piece")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shakedown_core::{
    Availability, Cancel, Capability, CheckRecord, Event, JournalEntry, Judgement, Observation, Resource, Seed,
    Touches, UndoStep,
};
use shakedown_engine::{
    Check, Controls, Cx, Expect, Fingerprint, Fixture, Journal, JournalError, ObserveError, Outcome, Plan, PlantError,
    Prepared, Probe, Sabotage, Settings, World, WorldError, expect_fn,
};

/// Cells that hold a word each. `crash_at` makes the n-th operation never return, as a kill would.
#[derive(Default)]
pub struct Cells {
    pub cells: Mutex<BTreeMap<String, String>>,
    pub capabilities: BTreeMap<Capability, Availability>,
    pub dead: Mutex<bool>,
    /// Cells that refuse to be put back.
    pub stuck: BTreeSet<String>,
    pub operations: AtomicUsize,
    pub crash_at: Option<usize>,
    pub crashed: Mutex<bool>,
}

impl Cells {
    pub fn with(cells: &[(&str, &str)]) -> Self {
        Self {
            cells: Mutex::new(cells.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
            ..Self::default()
        }
    }

    pub fn all(&self) -> BTreeMap<String, String> {
        self.cells.lock().unwrap().clone()
    }

    pub fn get(&self, cell: &str) -> Option<String> {
        self.cells.lock().unwrap().get(cell).cloned()
    }

    /// One operation on the world. Where it is the one to crash at, nothing happens any more, ever.
    pub async fn put(&self, cell: &str, word: Option<&str>) {
        self.tick().await;
        let mut cells = self.cells.lock().unwrap();
        match word {
            Some(word) => cells.insert(cell.to_owned(), word.to_owned()),
            None => cells.remove(cell),
        };
    }

    pub async fn tick(&self) {
        let now = self.operations.fetch_add(1, Ordering::SeqCst);
        if self.crash_at.is_some_and(|at| now >= at) {
            *self.crashed.lock().unwrap() = true;
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// The step that puts a cell back as it is now.
    pub fn as_found(&self, cell: &str) -> UndoStep {
        UndoStep::Custom { word: cell.to_owned(), data: serde_json::to_value(self.get(cell)).unwrap() }
    }
}

impl World for Cells {
    async fn capabilities(&self) -> BTreeMap<Capability, Availability> {
        self.capabilities.clone()
    }

    async fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("cells".to_owned(), "1".to_owned())])
    }

    async fn alive(&self) -> Result<(), WorldError> {
        if *self.dead.lock().unwrap() { Err(WorldError("connection refused".into())) } else { Ok(()) }
    }

    async fn undo(&self, step: &UndoStep) -> Result<(), WorldError> {
        let UndoStep::Custom { word, data } = step else { panic!("only cells here") };
        if self.stuck.contains(word) {
            return Err(WorldError(format!("{word} is stuck")));
        }
        self.put(word, data.as_str()).await;
        Ok(())
    }

    async fn fingerprint(&self) -> Result<Fingerprint, WorldError> {
        Ok(self.all())
    }
}

/// What is in a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    pub cell: String,
    pub word: Option<String>,
}

impl Observation for Word {
    const SCHEMA: &'static str = "word/1";
}

pub fn reads(cell: &str) -> Touches {
    Touches::nothing().reads(Resource::Namespace(cell.to_owned()))
}

pub fn writes(cell: &str) -> Touches {
    Touches::nothing().writes(Resource::Namespace(cell.to_owned()))
}

/// How a probe misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quirk {
    None,
    NoGround,
    Harness,
    Panics,
    Hangs,
    /// Makes a cell of its own while it looks, and leaves it to the engine.
    Makes,
    /// Makes a cell and tells nobody.
    Litters,
    Slow,
    LeaksToken,
}

/// Reads a cell.
#[derive(Debug, Clone)]
pub struct Reads {
    pub cell: String,
    pub quirk: Quirk,
}

pub fn word_in(cell: &str) -> Reads {
    Reads { cell: cell.to_owned(), quirk: Quirk::None }
}

impl Reads {
    pub fn but(mut self, quirk: Quirk) -> Self {
        self.quirk = quirk;
        self
    }
}

impl Probe<Cells> for Reads {
    type Seen = Word;

    fn touches(&self) -> Touches {
        reads(&self.cell)
    }

    async fn observe(&self, world: &Cells, cx: &Cx) -> Result<Word, ObserveError> {
        world.tick().await;
        match self.quirk {
            Quirk::None => {}
            Quirk::NoGround => return Err(ObserveError::no_ground("nobody answers")),
            Quirk::Harness => return Err(ObserveError::harness("no such tool")),
            Quirk::Panics => panic!("index out of bounds"),
            Quirk::Hangs => {
                cx.waiting("Godot", "a tree");
                std::future::pending().await
            }
            Quirk::Makes => {
                let own = cx.name("made");
                cx.undo_afterwards(vec![world.as_found(&own)])?;
                world.put(&own, Some("x")).await;
            }
            Quirk::Litters => world.put("litter", Some("x")).await,
            Quirk::Slow => tokio::time::sleep(Duration::from_secs(20)).await,
            Quirk::LeaksToken => {
                let token = ["eyJhbGciOiJSUzI1NiJ9", "eyJzdWIiOiJ0ZXN0In0x", "c2lnbmF0dXJlLW9mLXRlc3Q"].join(".");
                return Ok(Word { cell: self.cell.clone(), word: Some(token) });
            }
        }
        Ok(Word { cell: self.cell.clone(), word: world.get(&self.cell) })
    }
}

/// The word must be this one.
pub fn is(expected: &'static str) -> impl Expect<Word> {
    expect_fn(move |seen: &Word| match seen.word.as_deref() {
        None => Judgement::Inconclusive(format!("{} is empty", seen.cell)),
        Some(word) if word == expected => Judgement::Pass,
        Some(word) => Judgement::fail("wrong-word", &seen.cell, format!("expected {expected}, saw {word}")),
    })
}

/// How a sabotage misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trick {
    None,
    NoPlan,
    CannotPlan,
    CannotPlant,
    /// Plants, and then fails to show that it has landed.
    PlantsAndFails,
    /// Writes another cell as well and has no undo for it.
    Spills,
    KillsTheApi,
    Panics,
}

/// Writes a word into a cell.
#[derive(Debug, Clone)]
pub struct Writes {
    pub cell: String,
    pub word: &'static str,
    pub trick: Trick,
}

pub fn wrong_word_in(cell: &str) -> Writes {
    Writes { cell: cell.to_owned(), word: "wrong", trick: Trick::None }
}

impl Writes {
    pub fn but(mut self, trick: Trick) -> Self {
        self.trick = trick;
        self
    }
}

impl Sabotage<Cells> for Writes {
    type Choice = ();

    fn describe(&self) -> String {
        format!("{} in {}", self.word, self.cell)
    }

    fn touches(&self) -> Touches {
        writes(&self.cell)
    }

    async fn prepare(&self, world: &Cells) -> Result<Prepared<()>, PlantError> {
        world.tick().await;
        match self.trick {
            Trick::NoPlan => Ok(Prepared::new((), vec![])),
            Trick::CannotPlan => Err(PlantError::new("cannot read the cell")),
            _ => Ok(Prepared::new((), vec![world.as_found(&self.cell)])),
        }
    }

    async fn plant(&self, world: &Cells, (): &()) -> Result<(), PlantError> {
        match self.trick {
            Trick::CannotPlant => return Err(PlantError::new("the cell is locked")),
            Trick::Spills => world.put("spill", Some("x")).await,
            Trick::KillsTheApi => *world.dead.lock().unwrap() = true,
            Trick::Panics => panic!("no such cell"),
            _ => {}
        }
        world.put(&self.cell, Some(self.word)).await;
        if self.trick == Trick::PlantsAndFails {
            return Err(PlantError::new("cannot be shown to have landed"));
        }
        world.tick().await;
        Ok(())
    }

    async fn settled(&self, world: &Cells) -> Result<(), PlantError> {
        *world.dead.lock().unwrap() = false;
        world.tick().await;
        Ok(())
    }
}

/// A cell that several checks share.
pub struct Holds {
    pub name: &'static str,
    pub fails: bool,
}

impl Fixture<Cells> for Holds {
    fn name(&self) -> &'static str {
        self.name
    }

    fn touches(&self) -> Touches {
        writes(self.name)
    }

    async fn undo_plan(&self, world: &Cells) -> Result<Vec<UndoStep>, PlantError> {
        Ok(vec![world.as_found(self.name)])
    }

    async fn set_up(&self, world: &Cells) -> Result<(), PlantError> {
        world.put(self.name, Some("half")).await;
        if self.fails {
            return Err(PlantError::new("it does not come up"));
        }
        world.put(self.name, Some("right")).await;
        Ok(())
    }
}

/// A journal in memory.
#[derive(Default)]
pub struct Memory {
    pub entries: Mutex<Vec<JournalEntry>>,
    pub full: bool,
}

impl Memory {
    pub fn open(&self) -> Vec<JournalEntry> {
        let entries = self.entries.lock().unwrap();
        let closed: BTreeSet<&str> = entries
            .iter()
            .filter_map(|e| if let JournalEntry::Closed { id } = e { Some(id.as_str()) } else { None })
            .collect();
        let is_open = |e: &&JournalEntry| matches!(e, JournalEntry::Intent { id, .. } if !closed.contains(id.as_str()));
        entries.iter().filter(is_open).cloned().collect()
    }
}

impl Journal for Memory {
    fn append(&self, entry: &JournalEntry) -> Result<(), JournalError> {
        if self.full {
            return Err(JournalError { path: "j".into(), why: "no space left".into(), hint: "make room".into() });
        }
        self.entries.lock().unwrap().push(entry.clone());
        Ok(())
    }
}

/// A run's surroundings.
pub struct Bed {
    pub dir: tempfile::TempDir,
    pub journal: Arc<Memory>,
    pub events: Arc<Mutex<Vec<Event>>>,
    pub cancel: Cancel,
    pub seed: Seed,
    pub width: usize,
    pub controls: Controls,
}

impl Default for Bed {
    fn default() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            journal: Arc::default(),
            events: Arc::default(),
            cancel: Cancel::new(),
            seed: Seed(1),
            width: 4,
            controls: Controls::All,
        }
    }
}

impl Bed {
    pub fn settings(&self) -> Settings {
        Settings {
            id: "r1".into(),
            seed: self.seed,
            cluster: "test".into(),
            width: self.width,
            dir: self.dir.path().to_path_buf(),
            provisioner: "cells".into(),
            command: "again".into(),
            cancel: self.cancel.clone(),
            clock: || Timestamp::UNIX_EPOCH,
        }
    }

    pub async fn run(&self, world: &Cells, table: &[Check<Cells>]) -> Outcome {
        let all: Vec<usize> = (0..table.len()).collect();
        let plan = Plan::new(table, &all, self.controls, self.seed);
        let events = self.events.clone();
        let sink = Arc::new(move |event: Event| events.lock().unwrap().push(event));
        shakedown_engine::run(world, table, &plan, self.journal.clone(), sink, self.settings()).await
    }

    /// Runs one check alone.
    pub async fn one(&self, world: &Cells, check: Check<Cells>) -> CheckRecord {
        self.run(world, &[check]).await.records.remove(0)
    }

    pub fn evidence_files(&self) -> Vec<String> {
        fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, root, found);
                } else {
                    found.push(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), self.dir.path(), &mut found);
        found.sort();
        found
    }
}
