//! `shakedown run`: runs checks with their controls, and hands over a report.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use shakedown_core::{Event, EventSink, EvidenceRecord, Seed, Statement, Verdict};
use shakedown_engine::runner::DEFAULT_WIDTH;
use shakedown_engine::{Check, Controls, Plan, Selection, Settings, Stopped, UnknownName};
use shakedown_reports::{Fold, Report, Scope, Store, html, junit, store, table};
use shakedown_suites::catalogue::Catalogue;
use shakedown_words::Platform;

use crate::cmd::catalogue::scopes;
use crate::ctx::Ctx;
use crate::exit::{Exit, Interrupted, usage};
use crate::ground::{self, Ground, OnDisk};

/// Progress says at least this often what is running.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Arguments of `run`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Only these checks: ids, or patterns with `*`.
    #[arg(long = "check", value_name = "ID")]
    pub checks: Vec<String>,
    /// Only these areas.
    #[arg(long = "area", value_name = "AREA")]
    pub areas: Vec<String>,
    /// Only checks that assert these statements.
    #[arg(long = "statement", value_name = "ID")]
    pub statements: Vec<String>,
    /// Only checks that did not pass in the latest run.
    #[arg(long)]
    pub failed_last: bool,
    /// Print what would run, and in which order; touch nothing.
    #[arg(long)]
    pub plan: bool,
    /// Which checks are shaken by their controls: all, none, or a seeded sample.
    #[arg(long, default_value = "all", value_parser = str::parse::<Controls>)]
    pub controls: Controls,
    /// Fixes every random choice; printed by each run.
    #[arg(long, value_parser = str::parse::<Seed>)]
    pub seed: Option<Seed>,
    /// Converge the platform first, also where it was converged before.
    #[arg(long)]
    pub converge: bool,
    /// Run on a cluster that does not carry the marker of `converge`, too.
    #[arg(long)]
    pub i_own_this_cluster: bool,
    /// How many checks run side by side.
    #[arg(long, default_value_t = DEFAULT_WIDTH, value_name = "N")]
    pub jobs: usize,
}

/// Runs it.
///
/// # Errors
/// Unknown names, a cluster that cannot be brought up or reached, a report that cannot be written.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let table = shakedown_suites::checks();
    let store = reports()?;
    let chosen = selection(&args, &store)?.choose(&table).map_err(usage_of)?;
    let seed = match args.seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    let plan = Plan::new(&table, &chosen, args.controls, seed);
    let command = repeat(&args, &ctx.name, seed);
    if args.plan {
        return print_plan(ctx, &plan, &table, &command);
    }
    if chosen.is_empty() {
        return Err(anyhow!("nothing to run: no check is chosen\nhint: `shakedown run --plan` lists them"));
    }
    let scopes = scopes()?;
    let ground = tokio::select! {
        ground = ground::prepare(ctx, args.converge, args.i_own_this_cluster) => ground?,
        () = ctx.cancel.cancelled() => return Err(Interrupted.into()),
    };
    let id = run_id(Timestamp::now(), seed);
    let settings = Settings {
        dir: store.begin(&id)?,
        id,
        seed,
        cluster: ctx.name.clone(),
        width: args.jobs,
        provisioner: "local".to_owned(),
        command: command.clone(),
        cancel: ctx.cancel.clone(),
        clock: Timestamp::now,
    };
    ctx.progress.say(format!("repeat with: {command}"));
    let (report, stopped) = perform(ctx, &table, &plan, settings, ground, &scopes).await?;
    let folder = keep(&store, &report)?;
    show(ctx, &report, &folder, &command)?;
    match stopped {
        Some(Stopped::Interrupted) => Ok(Exit::INTERRUPTED),
        Some(Stopped::NotUndone(why)) => {
            ctx.progress.say(format!("nothing ran after this, because it could not be put back: {why}"));
            ctx.progress
                .say("hint: `shakedown recover` tries again; `shakedown status` shows what state the cluster is in");
            Ok(Exit::of_verdicts(report.checks.iter().map(|check| check.verdict)))
        }
        None => Ok(Exit::of_verdicts(report.checks.iter().map(|check| check.verdict))),
    }
}

async fn perform(
    ctx: &Ctx,
    table: &[Check<Platform>],
    plan: &Plan,
    settings: Settings,
    ground: Ground,
    scopes: &[Scope],
) -> Result<(Report, Option<Stopped>)> {
    let fold = Arc::new(Mutex::new(Fold::new()));
    let sink: Arc<dyn EventSink> = {
        let (fold, progress) = (Arc::clone(&fold), Arc::clone(&ctx.progress));
        Arc::new(move |event: Event| {
            fold.lock().unwrap_or_else(PoisonError::into_inner).take(&event);
            progress.emit(event);
        })
    };
    let journal = Arc::new(OnDisk(Arc::clone(&ground.journal)));
    let running = shakedown_engine::run(&ground.platform, table, plan, journal, sink, settings);
    tokio::pin!(running);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome,
            _ = heartbeat.tick() => ctx.progress.heartbeat(HEARTBEAT),
        }
    };
    // What was put back may hold values of Secrets: it is kept no longer than it is needed.
    ground.journal.compact()?;
    let fold = std::mem::take(&mut *fold.lock().unwrap_or_else(PoisonError::into_inner));
    let report = fold.finish(scopes).context("the run began without telling so")?;
    Ok((report, outcome.stopped))
}

/// Where reports are, seen from the directory that the command is called in.
///
/// # Errors
/// There is no current directory.
pub fn reports() -> Result<Store> {
    let root = std::env::current_dir().context("cannot find the current directory")?.join(store::FOLDER);
    Ok(Store::new(root, store::caller(|name| std::env::var(name).ok())))
}

/// A name that does not exist is wrong use.
pub fn usage_of(unknown: UnknownName) -> anyhow::Error {
    usage(unknown)
}

fn selection(args: &Args, store: &Store) -> Result<Selection> {
    let only = match args.failed_last {
        false => None,
        true => {
            let last = store
                .latest()?
                .ok_or_else(|| usage("there is no latest run to repeat\nhint: `shakedown run` makes one"))?;
            let unwell = |v: Verdict| matches!(v, Verdict::Fail | Verdict::Inconclusive | Verdict::Error);
            Some(last.checks.into_iter().filter(|c| unwell(c.verdict)).map(|c| c.id).collect::<BTreeSet<_>>())
        }
    };
    Ok(Selection { checks: args.checks.clone(), areas: args.areas.clone(), statements: args.statements.clone(), only })
}

fn print_plan(ctx: &Ctx, plan: &Plan, table: &[Check<Platform>], command: &str) -> Result<Exit> {
    if ctx.json {
        let ids = |list: &[usize]| list.iter().filter_map(|at| table.get(*at)).map(|c| c.id).collect::<Vec<_>>();
        let facts = serde_json::json!({
            "command": command, "baselines": ids(&plan.baselines), "controls": ids(&plan.controls),
        });
        ctx.print_json(&facts)?;
    } else {
        ctx.line(plan.describe(table).trim_end())?;
        ctx.line(format!("{} checks, {} controls; {command}", plan.baselines.len(), plan.controls.len()))?;
    }
    Ok(Exit::OK)
}

fn keep(store: &Store, report: &Report) -> Result<PathBuf> {
    let catalogue = Catalogue::embedded()?;
    let statements: Vec<&Statement> = catalogue.statements().map(|(_, statement)| statement).collect();
    let folder = store.run_folder(&report.run.id);
    let read = |evidence: &EvidenceRecord| std::fs::read(folder.join(&evidence.path)).ok();
    let page = html::Page { report, statements: &statements, read: &read };
    let renderings = [("junit.xml", junit::render(report)?), ("report.html", html::render(&page))];
    Ok(store.keep(report, &renderings)?)
}

fn show(ctx: &Ctx, report: &Report, folder: &std::path::Path, command: &str) -> Result<()> {
    if ctx.json {
        return ctx.print_json(report);
    }
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    ctx.line(table::render(report, coloured).trim_end())?;
    ctx.line(format!("report: {}\nrepeat: {command}", folder.join("report.json").display()))
}

/// The command that does the same again.
fn repeat(args: &Args, name: &str, seed: Seed) -> String {
    let mut words = vec!["shakedown run".to_owned()];
    if name != crate::ctx::DEFAULT_NAME {
        words.push(format!("--name {name}"));
    }
    words.push(format!("--seed {seed}"));
    let mut add =
        |option: &str, values: &[String]| words.extend(values.iter().map(|v| format!("--{option} {}", quoted(v))));
    add("check", &args.checks);
    add("area", &args.areas);
    add("statement", &args.statements);
    if args.failed_last {
        words.push("--failed-last".to_owned());
    }
    if args.i_own_this_cluster {
        words.push("--i-own-this-cluster".to_owned());
    }
    if args.controls != Controls::All {
        words.push(format!("--controls {}", args.controls));
    }
    if args.jobs != DEFAULT_WIDTH {
        words.push(format!("--jobs {}", args.jobs));
    }
    words.join(" ")
}

fn quoted(text: &str) -> String {
    if text.contains('*') { format!("'{text}'") } else { text.to_owned() }
}

/// Sortable, and unlike that of a run begun in the same second.
fn run_id(now: Timestamp, seed: Seed) -> String {
    format!("{}-{:04x}", now.strftime("%Y%m%d-%H%M%S"), seed.derive("run").0 & 0xffff)
}

/// Four bytes are enough to be unlike the last, and short enough to be typed.
fn random_seed() -> Result<Seed> {
    use std::io::Read as _;
    let mut bytes = [0_u8; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot draw a seed from /dev/urandom\nhint: name one with --seed")?;
    Ok(Seed(u64::from(u32::from_le_bytes(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args {
            checks: vec![],
            areas: vec![],
            statements: vec![],
            failed_last: false,
            plan: false,
            controls: Controls::All,
            seed: None,
            converge: false,
            i_own_this_cluster: false,
            jobs: DEFAULT_WIDTH,
        }
    }

    #[test]
    fn the_command_that_repeats_a_run_names_all_that_matters() {
        assert_eq!(repeat(&args(), "shakedown", Seed(7)), "shakedown run --seed 7");
        let narrow = Args { checks: vec!["psa.*".into()], controls: Controls::Sample, jobs: 1, ..args() };
        assert_eq!(
            repeat(&narrow, "two", Seed(7)),
            "shakedown run --name two --seed 7 --check 'psa.*' --controls sample --jobs 1"
        );
    }

    #[test]
    fn runs_sort_by_time() {
        let at = |second| run_id(Timestamp::from_second(second).unwrap(), Seed(1));
        assert_eq!(at(0), format!("19700101-000000-{:04x}", Seed(1).derive("run").0 & 0xffff));
        assert!(at(59) < at(60));
    }

    #[test]
    fn failed_last_without_a_last_is_wrong_use() {
        let directory = tempfile::tempdir().unwrap();
        let error = selection(&Args { failed_last: true, ..args() }, &Store::new(directory.path(), None)).unwrap_err();
        assert!(error.to_string().contains("no latest run"));
    }

    #[test]
    fn the_table_of_checks_is_sound() {
        let faults = shakedown_engine::table::faults(&shakedown_suites::checks());
        assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    }
}
