//! The parts of a virtual machine: an emulator, a kernel with its modules, and a root file system with systemd, all from
//! packages. Tests of another kind of host are made of them.
//!
//! The packages' programs are run where they lie, through their own dynamic loader: nothing is installed, and no root
//! has to be changed for it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bundle::Bundle;
use crate::error::{BundleError, io, malformed};
use crate::excerpt::link_tree;
use crate::store::children;

/// Where libraries lie in a tree of packages.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Where kernels keep their modules.
const MODULES: &str = "usr/lib/modules";

/// The parts, found in a bundle with [`Group::Vm`](crate::Group::Vm).
#[derive(Debug, Clone)]
pub struct VmParts {
    tools: PathBuf,
    kernel: PathBuf,
    root: PathBuf,
    release: String,
}

impl VmParts {
    /// Finds them.
    ///
    /// # Errors
    /// When the bundle has no kernel: it was opened without the group.
    pub fn of(bundle: &Bundle) -> Result<Self, BundleError> {
        let kernel = bundle.tree("vm-kernel");
        let found = children(&kernel.join(MODULES))?;
        let release = found.first().and_then(|dir| dir.file_name()).map(|name| name.to_string_lossy().into_owned());
        Ok(Self {
            tools: bundle.tree("vm-tools"),
            root: bundle.tree("vm-root"),
            release: release.ok_or_else(|| BundleError::Incomplete { components: vec!["vm-kernel".into()] })?,
            kernel,
        })
    }

    /// The kernel's image, as a boot loader wants it.
    pub fn kernel(&self) -> PathBuf {
        self.kernel.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The kernel's release, as in `6.1.0-56-cloud-amd64`.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The emulator, told where its firmware and its own modules are.
    pub fn qemu(&self) -> Command {
        let mut command = program(&self.tools, "usr/bin/qemu-system-x86_64", &[]);
        command.env("QEMU_MODULE_DIR", self.tools.join(LIBRARIES).join("qemu"));
        for dir in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.tools.join(dir));
        }
        command
    }

    /// The maker of ext4 file systems; with its `-d` it fills one from a directory, without root and without a mount.
    pub fn mke2fs(&self) -> Command {
        let mut command = program(&self.tools, "usr/sbin/mke2fs", &[]);
        command.env("MKE2FS_CONFIG", self.tools.join("etc/mke2fs.conf"));
        command
    }

    /// Lays out the guest's root at `to`: the Debian tree, the kernel's modules and their index. Hard links, so that
    /// nothing of it may be written to; new files may be added, and links replaced by other files.
    ///
    /// # Errors
    /// File operations, or an index that cannot be made.
    pub fn lay_out_root(&self, to: &Path) -> Result<(), BundleError> {
        link_tree(&self.root, to)?;
        link_tree(&self.kernel.join(MODULES), &to.join(MODULES))?;
        // The package's script would have made it; without it no module is ever loaded on demand.
        let mut depmod = program(&self.root, "usr/bin/kmod", &["--argv0".as_ref(), "depmod".as_ref()]);
        let output = depmod.arg("-b").arg(to).arg(&self.release).output();
        let output = output.map_err(io("run", "depmod"))?;
        let index = to.join(MODULES).join(&self.release).join("modules.dep");
        match fs::metadata(&index) {
            Ok(meta) if output.status.success() && meta.len() > 0 => Ok(()),
            _ => Err(malformed(
                format!("the modules of {}", self.release),
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            )),
        }
    }
}

/// A program of a tree of packages, run by the tree's own loader with the tree's own libraries. `loader`: more arguments
/// for the loader (ld.so(8)).
fn program(tree: &Path, path: &str, loader: &[&OsStr]) -> Command {
    let libraries = tree.join(LIBRARIES);
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&libraries).args(loader).arg(tree.join(path));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> VmParts {
        VmParts { tools: "/t".into(), kernel: "/k".into(), root: "/r".into(), release: "6.1.0-1-cloud-amd64".into() }
    }

    fn shown(command: &Command) -> String {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn programs_run_where_they_lie() {
        insta::assert_snapshot!(
            format!("{}\n{}", shown(&parts().qemu()), shown(&parts().mke2fs())),
            @"
        /t/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /t/usr/lib/x86_64-linux-gnu /t/usr/bin/qemu-system-x86_64 -L /t/usr/share/qemu -L /t/usr/share/seabios
        /t/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /t/usr/lib/x86_64-linux-gnu /t/usr/sbin/mke2fs
        "
        );
        assert_eq!(parts().kernel(), Path::new("/k/boot/vmlinuz-6.1.0-1-cloud-amd64"));
    }
}
