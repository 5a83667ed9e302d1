//! The versioned report schema ([`schema`]), how events become a report ([`fold`]), where reports are kept ([`store`])
//! and how they are shown ([`junit`], [`table`], [`html`]).
//!
//! Invariant: nothing here touches a cluster; a report is a function of the events of a run and of what is documented.

pub mod fold;
pub mod html;
pub mod junit;
pub mod schema;
pub mod store;
pub mod table;

#[cfg(test)]
mod samples;

pub use fold::{Fold, Scope};
pub use schema::{Report, SCHEMA, StatementStatus, Summary};
pub use store::{Store, StoreError};
