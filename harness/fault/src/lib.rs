//! faults: inject, prove, heal, with a journal.
