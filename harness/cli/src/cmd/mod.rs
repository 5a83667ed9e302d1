//! The subcommands. Each is a module with `Args` (clap's) and `async fn run(args: Args, ctx: &Ctx) -> Result<Exit>`,
//! and a line in the table below.

use anyhow::Result;
use clap::Subcommand;

use crate::ctx::{Ctx, OnInterrupt};
use crate::exit::Exit;

macro_rules! commands {
    ($($(#[$meta:meta])* $variant:ident => $module:ident, $interrupt:ident;)+) => {
        /// What can be asked for.
        #[derive(Debug, Subcommand)]
        pub enum Command { $($(#[$meta])* $variant($module::Args),)+ }

        impl Command {
            /// What Ctrl-C does to it.
            pub fn interrupt(&self) -> OnInterrupt {
                match self { $(Command::$variant(_) => OnInterrupt::$interrupt,)+ }
            }

            /// Runs it.
            ///
            /// # Errors
            /// Its own; [`crate::exit`] turns them into codes.
            pub async fn run(self, ctx: &Ctx) -> Result<Exit> {
                match self { $(Command::$variant(args) => $module::run(args, ctx).await,)+ }
            }
        }
    };
}

pub mod bundle;
pub mod catalogue;
pub mod converge;
pub mod doctor;
pub mod down;
pub mod exec;
pub mod explain;
pub mod kubeconfig;
pub mod logs;
pub mod recover;
pub mod rejudge;
pub mod residue;
pub mod run;
pub mod status;
pub mod up;

// Two lines a command: `pub mod x;` above, and here `/// about` with `X => x, Abandon;` (see [`OnInterrupt`]).
commands! {
    /// Build, check, list or remove what a cluster is made of.
    Bundle => bundle, Abandon;
    /// Tell what this machine can carry, and what each missing thing costs.
    Doctor => doctor, Abandon;
    /// Bring a cluster up, or what is missing of it.
    Up => up, Abandon;
    /// Install the documented platform, to stay.
    Converge => converge, Abandon;
    /// Tell a cluster's state, per node and per component.
    Status => status, Abandon;
    /// Print what the nodes' programs and containers wrote.
    Logs => logs, Abandon;
    /// Put back whatever an earlier command left changed.
    Recover => recover, Undo;
    /// Run a command on a node; its exit code is passed through.
    Exec => exec, Leave;
    /// Print the administrator's access to the API.
    Kubeconfig => kubeconfig, Abandon;
    /// List what is left on this machine of clusters that are no more.
    Residue => residue, Abandon;
    /// Remove a cluster.
    Down => down, Abandon;
    /// List what is documented, which checks assert it, and what became of it.
    Catalogue => catalogue, Abandon;
    /// Run checks with their controls, and hand over a report.
    Run => run, Undo;
    /// Judge a run's stored evidence again, without a cluster.
    Rejudge => rejudge, Abandon;
    /// Say what a check asserts, how it is proved, and what to do where it fails.
    Explain => explain, Abandon;
}
