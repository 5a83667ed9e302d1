//! What the platform documents ([`catalogue`]), and the checks of it.

pub mod catalogue;
