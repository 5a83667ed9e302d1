//! The virtual machine: how it is started, listened to, and ended whatever happens.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use shakedown_bundle::VmParts;

use crate::console::{LAST, Line, Observed, parse};

/// For everything, from power on to power off. Measured where the processor is emulated, in seconds of one processor:
/// 17 until `doctor` has ended, 125 until the control plane is up, 400 until Cilium's agent looks at its kernel. What
/// follows is estimated at as much again.
const BUDGET: Duration = Duration::from_secs(55 * 60);
/// A kernel writes its first line within one second where the processor runs it; a hypervisor that was opened and then
/// shows nothing is one that does not work.
const FIRST_LINE: Duration = Duration::from_secs(6);
/// How often somebody who waits is told what for.
const TELL: Duration = Duration::from_secs(30);

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor, by the kernel's hypervisor.
    Kvm,
    /// Software.
    Tcg,
}

/// Those worth trying, best first.
pub fn accelerators() -> Vec<Accelerator> {
    let usable = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if usable { vec![Accelerator::Kvm, Accelerator::Tcg] } else { vec![Accelerator::Tcg] }
}

/// The machine's files.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its only disk.
    pub disk: PathBuf,
    /// Takes what its kernel and its systemd write.
    pub console: PathBuf,
}

impl Machine {
    /// What the emulator is told, without the kernel's place.
    pub fn arguments(&self, accelerator: Accelerator) -> Vec<String> {
        let accelerator: &[&str] = match accelerator {
            Accelerator::Kvm => &["-accel", "kvm", "-smp", "2"],
            // The guest's clock counts its instructions, a nanosecond each: what has to be done within seconds there is
            // done within seconds, however little of a busy machine the emulator gets. (A second processor does not
            // start under such a clock. Without it, on two and in real time, the apiserver took 140 s to start, and was
            // away again a minute after Cilium's Pods came.) The programs of a control plane fill 1 GiB of translated
            // code, the emulator's default, while they start; when it is full, all of it is forgotten.
            Accelerator::Tcg => {
                let translator = "tcg,thread=single,tb-size=2047";
                &["-accel", translator, "-smp", "1", "-icount", "shift=0,sleep=on", "-rtc", "clock=vm"]
            }
        };
        // An image for one run needs no flushes.
        let drive = format!("if=none,id=root,format=raw,cache=unsafe,discard=unmap,file={}", self.disk.display());
        let console = format!("file:{}", self.console.display());
        // Page tables of five levels are one more than an emulated processor needs to walk; and where copying by string
        // instructions is said to be fast, they copy page by page, each byte an iteration of the emulator.
        let words = ["-nodefaults", "-no-reboot", "-display", "none", "-nic", "none"]
            .into_iter()
            .chain(accelerator.iter().copied())
            .chain(["-cpu", "max,la57=off,erms=off,fsrm=off", "-m", "4096", "-append", KERNEL])
            .chain(["-drive", &drive, "-device", "nvme,serial=root,drive=root"])
            // The second line is the one that the guest's script writes to, and nothing else does.
            .chain(["-serial", &console, "-serial", "stdio"]);
        words.map(str::to_owned).collect()
    }

    /// The command that runs it. It ends with the thread that started it, at the latest, and lets other work go first.
    fn command(&self, parts: &VmParts, accelerator: Accelerator) -> Command {
        let qemu = parts.qemu();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nice", "-n", "5"]).arg(qemu.get_program()).args(qemu.get_args());
        command.envs(qemu.get_envs().filter_map(|(name, value)| Some((name, value?))));
        // The emulator's tables of translated code are looked up all over: a seventh of its time went into waiting for
        // them, a tenth does with large pages.
        command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        command.args(self.arguments(accelerator)).arg("-kernel").arg(parts.kernel());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The last lines of what the guest's own kernel and systemd wrote.
    pub fn last_words(&self) -> String {
        let text =
            fs::read(&self.console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// The kernel has drivers for this disk and its file system built in, so no initial file system is needed. A panic ends
/// the machine. An emulated processor's time-stamp counter is the host's: every other clock costs a trap a look.
const KERNEL: &str = "root=/dev/nvme0n1 rw rootfstype=ext4 console=ttyS0 panic=-1 \
                      systemd.unit=multi-user.target tsc=reliable clocksource=tsc mitigations=off random.trust_cpu=on";

/// Runs the machine until it is off, and gives what its steps observed. `say` takes progress.
pub fn run(machine: &Machine, parts: &VmParts, say: &dyn Fn(&str)) -> Result<Observed> {
    let mut accelerators = accelerators().into_iter().peekable();
    while let Some(accelerator) = accelerators.next() {
        let last = accelerators.peek().is_none();
        say(&format!("power on ({accelerator:?}, kernel {})", parts.release()));
        let mut session = Session::start(machine.command(parts, accelerator))?;
        if !last && !session.shows_a_line(&machine.console) {
            say(&format!("{accelerator:?} was accepted, but no instruction ran in {FIRST_LINE:?}"));
            continue;
        }
        return session.listen(machine, say);
    }
    bail!("no accelerator was left to be tried")
}

/// A running emulator; ended when it is dropped.
struct Session {
    child: Child,
    lines: Receiver<String>,
    began: Instant,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.spawn().context("cannot start the emulator\nhint: util-linux brings `setpriv`")?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                    if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, lines, began: Instant::now() })
    }

    /// Whether the guest's kernel writes anything to its console in time.
    fn shows_a_line(&self, console: &Path) -> bool {
        while self.began.elapsed() < FIRST_LINE {
            if fs::metadata(console).is_ok_and(|meta| meta.len() > 0) {
                return true;
            }
            // A file of an emulator has no watch that tells more than this.
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Takes the guest's lines until it is off or its time is over.
    fn listen(&mut self, machine: &Machine, say: &dyn Fn(&str)) -> Result<Observed> {
        let mut observed = Observed::default();
        let mut doing = "booting".to_owned();
        loop {
            let left = BUDGET.saturating_sub(self.began.elapsed());
            match self.lines.recv_timeout(left.min(TELL)) {
                Ok(line) => match parse(&line) {
                    Line::Begin { step, budget } => {
                        // The guest runs from it, so it is open; without a name it is gone with the emulator, whatever
                        // happens to this process.
                        let _ = fs::remove_file(&machine.disk);
                        say(&format!("{step} (at most {budget} s)"));
                        doing = step;
                    }
                    Line::End { step, ended } => {
                        let (seconds, work) = (ended.ms as f64 / 1000.0, cpu_seconds(self.child.id()));
                        say(&format!(
                            "{step}: exit code {} after {seconds:.1} s there, {work:.0} CPU s in all",
                            ended.code
                        ));
                        let last = step == LAST;
                        observed.0.insert(step, ended);
                        if last {
                            return self.power_off(observed);
                        }
                    }
                    Line::Text(text) => say(&format!("  {text}")),
                },
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    bail!("the guest was still at `{doing}` after {BUDGET:?}\n{}", machine.last_words())
                }
                Err(RecvTimeoutError::Timeout) => {
                    say(&format!("still at `{doing}`, {:.0} CPU s in all", cpu_seconds(self.child.id())));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.child.kill();
                    let status = self.child.wait().context("cannot wait for the emulator")?;
                    let mut said = String::new();
                    if let Some(mut stderr) = self.child.stderr.take() {
                        let _ = stderr.read_to_string(&mut said);
                    }
                    bail!("the guest went off at `{doing}` ({status}) {said}\n{}", machine.last_words())
                }
            }
        }
    }

    /// The guest has said everything; what is left is a few seconds of systemd, and no reason to wait longer.
    fn power_off(&mut self, observed: Observed) -> Result<Observed> {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if self.child.try_wait().context("cannot wait for the emulator")?.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(observed)
    }
}

/// Processor time that a process has used, in seconds: fields 14 and 15 of proc_pid_stat(5), in hundredths.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}
