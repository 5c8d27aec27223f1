//! Links that outlive the agent because they are pinned under a bpffs. The next agent takes them over and replaces the
//! program, which needs no grace period. Between two agents the link holds a stub, which passes every frame.
//!
//! The files are `<bpffs>/arp-agent/v1/<cookie of the network namespace>/<agent>/<ifindex>-<hook>`. An agent has a
//! directory of its own, so that another agent can tell whose a link is, and whether that agent still runs.

use super::bpf_syscalls::{HookLink, netns_cookie};
use super::clsact::is_alive;
use crate::dataplane::HookKind;
use anyhow::Context as _;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The pinned links of one network namespace.
pub(crate) struct Pins {
    /// The directory of all agents of this network namespace.
    all: PathBuf,
    /// This agent's directory.
    own: PathBuf,
}

/// A pinned link whose agent no longer runs.
#[derive(Debug)]
pub(crate) struct LeftLink {
    /// The interface, as the file's name says.
    pub ifindex: u32,
    /// The hook.
    pub how: HookKind,
    /// The identifier of its program.
    pub program: u32,
    path: PathBuf,
    link: HookLink,
}

/// The agents' pinned links that were found.
#[derive(Debug, Default)]
pub(crate) struct FoundLinks {
    /// Links whose agents no longer run. Their interfaces may be gone by now, or in another namespace.
    pub left: Vec<LeftLink>,
    /// The interfaces with links of running agents, and the names of those agents.
    pub living: Vec<(u32, String)>,
}

impl Pins {
    /// The pinned links of this network namespace. `None` if there is no bpffs at that path.
    ///
    /// # Errors
    /// The kernel does not tell which namespace this is.
    pub(crate) fn open(bpffs: &Path, agent: &str) -> anyhow::Result<Option<Self>> {
        match statfs(bpffs) {
            Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {}
            _ => return Ok(None),
        }
        let cookie = netns_cookie().context("asking for the cookie of the network namespace (Linux 5.14) failed")?;
        let all = bpffs.join("arp-agent/v1").join(cookie.to_string());
        Ok(Some(Pins { own: all.join(agent), all }))
    }

    /// Pins a link. Gives the path of the pin.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub(crate) fn keep(&self, link: &HookLink, ifindex: u32, how: HookKind) -> io::Result<PathBuf> {
        let path = self.own_path(ifindex, how)?;
        link.pin(&path)?;
        Ok(path)
    }

    /// Replaces the program of a link that a dead agent left, and takes the link over.
    ///
    /// # Errors
    /// The interface is gone. The pin is removed then.
    pub(crate) fn adopt(&self, left: LeftLink, program: BorrowedFd<'_>) -> io::Result<(HookLink, PathBuf)> {
        let adopted = self.own_path(left.ifindex, left.how).and_then(|path| {
            left.link.update(program)?;
            fs::rename(&left.path, &path)?;
            Ok(path)
        });
        match adopted {
            Ok(path) => Ok((left.link, path)),
            Err(error) => {
                left.unpin()?;
                Err(error)
            }
        }
    }

    /// Finds the links of running agents, and those that dead agents left.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub(crate) fn find(&self) -> io::Result<FoundLinks> {
        let mut found = FoundLinks::default();
        for agent in names(&self.all)? {
            let directory = self.all.join(&agent);
            if directory == self.own {
                continue;
            }
            let lives = is_alive(&agent)?;
            for name in names(&directory)? {
                let Some((ifindex, how)) = parse(&name) else { continue };
                let path = directory.join(&name);
                if lives {
                    found.living.push((ifindex, agent.clone()));
                    continue;
                }
                match HookLink::pinned(&path).and_then(|link| Ok((link.tied()?, link))) {
                    Ok((tied, link)) => found.left.push(LeftLink { ifindex, how, program: tied.program, path, link }),
                    Err(error) => log::warn!("{}: {error}", path.display()),
                }
            }
            if !lives {
                // Empty, or not yet.
                let _ = fs::remove_dir(&directory);
            }
        }
        Ok(found)
    }

    /// Removes the agent's directory and those above it, as far as they are empty.
    pub(crate) fn tidy(&self) {
        for directory in self.own.ancestors().take(4) {
            if fs::remove_dir(directory).is_err_and(|error| error.kind() != ErrorKind::NotFound) {
                return;
            }
        }
    }

    fn own_path(&self, ifindex: u32, how: HookKind) -> io::Result<PathBuf> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.own)?;
        Ok(self.own.join(name(ifindex, how)))
    }
}

impl LeftLink {
    /// Whether the link is still on the interface that the file's name says.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) fn is_tied(&self) -> io::Result<bool> {
        Ok(self.link.tied()?.ifindex == self.ifindex)
    }

    /// Where it is pinned.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the pin. Dropping the link then detaches the program.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(crate) fn unpin(self) -> io::Result<HookLink> {
        fs::remove_file(&self.path)?;
        if let Some(directory) = self.path.parent() {
            // If it was the last one.
            let _ = fs::remove_dir(directory);
        }
        Ok(self.link)
    }
}

fn name(ifindex: u32, how: HookKind) -> String {
    let hook = match how {
        HookKind::Tcx => "tcx",
        HookKind::Clsact => "clsact",
        HookKind::XdpSkb => "xdp_skb",
        HookKind::XdpDriver => "xdp_driver",
        HookKind::XdpVeth => "xdp_veth",
    };
    format!("{ifindex}-{hook}")
}

fn parse(name: &str) -> Option<(u32, HookKind)> {
    let (ifindex, hook) = name.split_once('-')?;
    let how = match hook {
        "tcx" => HookKind::Tcx,
        "xdp_skb" => HookKind::XdpSkb,
        "xdp_driver" => HookKind::XdpDriver,
        "xdp_veth" => HookKind::XdpVeth,
        _ => return None,
    };
    Some((ifindex.parse().ok()?, how))
}

/// The names in a directory; none if it is not there.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_say_interface_and_hook() {
        for how in [HookKind::Tcx, HookKind::XdpSkb, HookKind::XdpDriver, HookKind::XdpVeth] {
            assert_eq!(parse(&name(17, how)), Some((17, how)));
            // Names with dots are reserved on a bpffs.
            assert!(!name(17, how).contains('.'));
        }
        assert_eq!(parse("17-netkit"), None);
        assert_eq!(parse("tcx"), None);
    }

    #[test]
    fn where_no_bpffs_is_nothing_is_pinned() {
        assert!(Pins::open(Path::new("/proc"), "1-2-0").unwrap().is_none());
        assert!(Pins::open(Path::new("off"), "1-2-0").unwrap().is_none());
    }
}
