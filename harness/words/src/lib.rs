//! the vocabulary of checks.
