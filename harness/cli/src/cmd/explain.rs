//! `shakedown explain CHECK`: what a check asserts, how it is proved, and what to do where it fails.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::exit::{Exit, usage};

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the check, as `shakedown run --plan` prints it.
    pub check: String,
}

/// Explains one check.
///
/// # Errors
/// When there is no such check.
pub async fn run(args: Args, _ctx: &Ctx) -> Result<Exit> {
    Err(usage(format!("no check `{}`\nhint: `shakedown run --plan` lists them", args.check)))
}
