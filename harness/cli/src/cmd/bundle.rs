//! `shakedown bundle`: builds what a cluster is made of, checks it, lists it, removes it, and writes its lock file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use shakedown_bundle::{BuildOptions, Bundle, BundleError, CacheDir, PruneOptions, Selection, Verification};

use crate::ctx::Ctx;
use crate::exit::{Exit, usage};
use crate::progress::Progress;

/// Arguments of `bundle`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build what is missing or damaged; goes on where an earlier build stopped.
    Build {
        #[command(flatten)]
        groups: Groups,
        /// Refuse packages newer than the pinned ones.
        #[arg(long)]
        locked: bool,
    },
    /// Read every file and compare it with what was built.
    Verify {
        #[command(flatten)]
        groups: Groups,
        /// Build damaged and missing components again.
        #[arg(long)]
        repair: bool,
    },
    /// List the components there are.
    List {
        #[command(flatten)]
        groups: Groups,
    },
    /// Remove components that this version does not use.
    Prune {
        /// Groups of components to keep: core, vm, all; core is always among them.
        #[arg(long, default_value = "all")]
        keep: String,
        /// Go's caches and the downloaded packages too; a later build takes longer.
        #[arg(long)]
        caches: bool,
        /// Everything, this version's components too.
        #[arg(long)]
        all: bool,
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
    },
    /// Write `bundle.lock` for what has been built.
    Lock {
        /// Take the current versions of all Debian packages.
        #[arg(long)]
        update: bool,
        /// Where to write it; standard output without.
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
struct Groups {
    /// Groups of components: core, vm, all; core is always among them.
    #[arg(long, default_value = "core")]
    groups: String,
}

impl Groups {
    fn selection(&self) -> Result<Selection> {
        self.groups.parse().map_err(usage)
    }
}

/// Shows a build's steps among the command's other progress.
pub struct Steps(pub Arc<Progress>);

impl shakedown_bundle::Progress for Steps {
    fn step(&self, component: &str, what: &str) {
        self.0.say(format!("{component}: {what}"));
    }

    fn done(&self, component: &str, elapsed: Duration) {
        self.0.say(format!("{component}: ready after {:.1}s", elapsed.as_secs_f32()));
    }

    fn note(&self, text: &str) {
        self.0.say(text);
    }
}

/// The bundle of a selection, built first where anything of it is missing.
///
/// # Errors
/// What [`shakedown_bundle::build`] says.
pub async fn ready(ctx: &Ctx, want: Selection, options: BuildOptions) -> Result<Bundle> {
    let steps = Steps(Arc::clone(&ctx.progress));
    blocking(move || shakedown_bundle::build_with(&CacheDir::for_caller()?, &want, options, &steps)).await
}

/// Does what was asked.
///
/// # Errors
/// What failed, and a hint.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let steps = Steps(Arc::clone(&ctx.progress));
    match args.action {
        Action::Build { groups, locked } => {
            let bundle = ready(ctx, groups.selection()?, BuildOptions { locked }).await?;
            built(&bundle, ctx)
        }
        Action::Verify { groups, repair } => {
            let want = groups.selection()?;
            let found = {
                let (want, steps) = (want.clone(), Steps(Arc::clone(&ctx.progress)));
                blocking(move || shakedown_bundle::verify(&CacheDir::for_caller()?, &want, &steps)).await?
            };
            verified(&found, ctx)?;
            if found.is_sound() {
                return Ok(Exit::OK);
            }
            if !repair {
                return Ok(Exit::FAILED);
            }
            let discarded = want.clone();
            blocking(move || shakedown_bundle::discard(&CacheDir::for_caller()?, &discarded, &found, &steps)).await?;
            ready(ctx, want, BuildOptions::default()).await?;
            ctx.progress.say("repaired");
            Ok(Exit::OK)
        }
        Action::List { groups } => {
            let want = groups.selection()?;
            let listed = blocking(move || shakedown_bundle::list(&CacheDir::for_caller()?, &want)).await?;
            if ctx.json {
                ctx.print_json(&json!({ "components": listed }))?;
                return Ok(Exit::OK);
            }
            for item in &listed {
                let version = item.version.as_deref().unwrap_or("-");
                let mark = if item.wanted { "" } else { "  (not used by this selection)" };
                let (mib, short) = (item.size >> 20, item.key.get(..16).unwrap_or(&item.key));
                ctx.line(format!("{:32} {short} {mib:>6} MiB {:>6.1}s  {version}{mark}", item.name, item.seconds))?;
            }
            Ok(Exit::OK)
        }
        Action::Prune { keep, caches, all, dry_run } => {
            let (keep, options) = (Groups { groups: keep }.selection()?, PruneOptions { caches, all, dry_run });
            let gone =
                blocking(move || shakedown_bundle::prune(&CacheDir::for_caller()?, &keep, options, &steps)).await?;
            if ctx.json {
                ctx.print_json(&json!({ "dry_run": dry_run, "removed": gone }))?;
            } else {
                let verb = if dry_run { "would remove" } else { "removed" };
                for path in &gone {
                    ctx.line(format!("{verb} {}", path.display()))?;
                }
            }
            Ok(Exit::OK)
        }
        Action::Lock { update, output } => {
            let text = blocking(move || shakedown_bundle::lock_text(&CacheDir::for_caller()?, update, &steps)).await?;
            match output {
                Some(path) => shakedown_bundle::write_lock(&path, &text)?,
                None => ctx.line(text.trim_end())?,
            }
            Ok(Exit::OK)
        }
    }
}

fn built(bundle: &Bundle, ctx: &Ctx) -> Result<Exit> {
    if ctx.json {
        ctx.print_json(&json!({
            "id": bundle.id(),
            "node_root": bundle.node_root(),
            "containerd_seed": bundle.containerd_seed(),
            "programs": bundle.bins(),
            "images": bundle.images(),
        }))?;
    } else {
        ctx.line(format!(
            "bundle {} is ready: {} programs, {} images",
            bundle.id(),
            bundle.bins().len(),
            bundle.images().len()
        ))?;
    }
    Ok(Exit::OK)
}

fn verified(found: &Verification, ctx: &Ctx) -> Result<()> {
    if ctx.json {
        return ctx.print_json(found);
    }
    for problem in &found.problems {
        ctx.line(problem)?;
    }
    for name in &found.missing {
        ctx.line(format!("{name}: not built"))?;
    }
    for line in &found.differences {
        ctx.line(format!("differs from bundle.lock: {line}"))?;
    }
    for line in &found.drifted {
        ctx.line(format!("newer than pinned: {line}"))?;
    }
    let (checked, wrong) = (found.checked.len(), found.problems.len());
    ctx.line(format!("{checked} components read, {wrong} files wrong, {} components missing", found.missing.len()))
}

/// Long work of the disk, the network and other programs, off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, BundleError> + Send + 'static) -> Result<T> {
    Ok(tokio::task::spawn_blocking(work).await.context("the work on the bundle was cut off")??)
}
