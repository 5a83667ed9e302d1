//! runs checks and their controls and judges them.
