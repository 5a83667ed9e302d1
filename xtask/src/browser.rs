//! The browser that the report's tests look at pages with: Debian's `chromium`, installed where the component tier runs.

use anyhow::{Result, bail};

use crate::shell;

/// Names under which a usable browser may be found.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Finds a browser, or installs Debian's package where apt-get is at hand.
///
/// # Errors
/// When there is neither.
pub fn ensure() -> Result<()> {
    if NAMES.iter().any(|name| shell::which(name).is_some()) {
        return Ok(());
    }
    let Some(apt) = shell::which("apt-get") else {
        bail!(
            "no Chromium on PATH, and no apt-get to install it\nhint: install Chromium; the report's tests look at pages with it"
        );
    };
    shell::say("chromium is installed from Debian's packages (once), for the tests that look at the report");
    let apt_get = |args: &[&str]| -> Result<()> {
        let mut command = shell::as_root(&apt);
        shell::run(command.args(args))?.check("apt-get")?;
        Ok(())
    };
    apt_get(&["update", "--quiet=2"])?;
    // Fonts by name: without any, a page has no text and a picture of it means nothing.
    apt_get(&["install", "--yes", "--quiet=2", "--no-install-recommends", "chromium", "fonts-dejavu-core"])
}
