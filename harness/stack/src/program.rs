//! Running the bundle's programs on the host, with a budget and the end of what they said.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::error::{Result, StackError};

/// Runs a program to its end and hands back its standard output. Its environment holds nothing but `PATH`, a home of
/// its own and what is given.
///
/// # Errors
/// [`StackError::Program`] with the end of its error output, also beyond the budget.
pub async fn run(
    program: &Path,
    args: &[&str],
    env: &[(&str, &Path)],
    budget: Duration,
    hint: &str,
) -> Result<Vec<u8>> {
    let name = program.file_name().map_or_else(|| program.display().to_string(), |n| n.to_string_lossy().into_owned());
    let failed = |why: String| StackError::Program { program: name.clone(), why, hint: hint.to_owned() };
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for (key, value) in env {
        command.env(key, value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let running = async { command.spawn()?.wait_with_output().await };
    let output = match tokio::time::timeout(budget, running).await {
        Ok(done) => done.map_err(|e| failed(format!("cannot run {}: {e}", program.display())))?,
        Err(_) => return Err(failed(format!("still running after {} s and was ended", budget.as_secs()))),
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.trim().lines().collect();
    Err(failed(lines[lines.len().saturating_sub(5)..].join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn the_end_of_what_it_said_is_kept() {
        let script = ["-c", "for i in 1 2 3 4 5 6 7; do echo line $i >&2; done; exit 3"];
        let error = block(run(Path::new("/bin/sh"), &script, &[], Duration::from_secs(10), "h")).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: line 3\nline 4\nline 5\nline 6\nline 7\nhint: h");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let error = block(run(Path::new("/bin/sleep"), &["60"], &[], Duration::from_millis(50), "h")).unwrap_err();
        assert!(error.to_string().contains("still running"), "{error}");
    }

    #[test]
    fn output_is_handed_back_and_the_environment_is_empty() {
        let out = block(run(Path::new("/usr/bin/env"), &[], &[("A", Path::new("b"))], Duration::from_secs(10), "h"));
        let text = String::from_utf8(out.unwrap()).unwrap();
        assert!(text.contains("A=b") && !text.contains("HOME="), "{text}");
    }
}
