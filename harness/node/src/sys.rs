//! The system calls that have no safe wrapper: loop devices' ioctls. The only `unsafe` of the project.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use crate::error::{NodeError, Result};

mod raw {
    // Numbers of linux/loop.h; none of them takes a pointer.
    nix::ioctl_none_bad!(loop_clear, 0x4C01);
    nix::ioctl_write_int_bad!(loop_set, 0x4C00);
    nix::ioctl_none_bad!(loop_free, 0x4C82);
}

/// Detaches a loop device from its file.
pub(crate) fn loop_clear(device: RawFd) -> nix::Result<()> {
    // SAFETY: LOOP_CLR_FD reads and writes no memory of ours; a wrong descriptor is an error of the kernel's.
    unsafe { raw::loop_clear(device) }.map(drop)
}

/// Attaches an open file to a loop device.
fn loop_set(device: RawFd, file: RawFd) -> nix::Result<()> {
    // SAFETY: LOOP_SET_FD takes a descriptor as its integer argument and no pointer.
    unsafe { raw::loop_set(device, file) }.map(drop)
}

/// Number of a free loop device.
fn loop_free(control: RawFd) -> nix::Result<i32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    unsafe { raw::loop_free(control) }
}

/// A loop device and the file behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loop {
    /// `/dev/loopN`.
    pub device: PathBuf,
    /// The file, as the kernel names it.
    pub file: PathBuf,
}

/// Every attached loop device of the host.
#[must_use]
pub fn loops() -> Vec<Loop> {
    let mut found: Vec<Loop> = std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            Some(Loop { device: Path::new("/dev").join(name), file: PathBuf::from(file.trim_end()) })
        })
        .collect();
    found.sort_by(|a, b| a.device.cmp(&b.device));
    found
}

/// Attaches a file to a free loop device.
///
/// # Errors
/// When there is no loop driver or the file cannot be opened.
pub fn attach(file: &Path) -> Result<Loop> {
    let open = |path: &Path| {
        OpenOptions::new().read(true).write(true).open(path).map_err(|e| NodeError::file("open", path, e))
    };
    let (control, backing) = (open(Path::new("/dev/loop-control"))?, open(file)?);
    loop {
        let number = loop_free(control.as_raw_fd()).map_err(|e| NodeError::system("find a free loop device", e))?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        match loop_set(open(&device)?.as_raw_fd(), backing.as_raw_fd()) {
            Ok(()) => return Ok(Loop { device, file: file.to_owned() }),
            // Somebody else was quicker; the next free one will do.
            Err(nix::errno::Errno::EBUSY) => {}
            Err(error) => return Err(NodeError::file("attach a loop device to", file, error)),
        }
    }
}

/// Detaches a loop device. One that is not attached is fine.
///
/// # Errors
/// When it cannot be opened.
pub fn detach(device: &Path) -> Result<()> {
    let opened = File::open(device).map_err(|e| NodeError::file("open", device, e))?;
    match loop_clear(opened.as_raw_fd()) {
        Ok(()) => Ok(()),
        Err(error) if io::Error::from(error).raw_os_error() == Some(nix::libc::ENXIO) => Ok(()),
        Err(error) => Err(NodeError::file("detach", device, error)),
    }
}
