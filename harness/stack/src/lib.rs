//! installers of the platform's components.
