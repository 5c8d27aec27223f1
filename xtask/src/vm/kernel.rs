//! Debian's kernels: found by name among the packages that apt knows, downloaded and unpacked, never installed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::setup::Apt;
use crate::{paths, process};

/// What the tests use and a kernel may have as a module. The kernel loads most of it by itself when a test asks for it;
/// to name all of it here is how a guest gets the files, and how one learns what a kernel lacks.
const MODULES: [&str; 42] = [
    "8021q",
    "act_bpf",
    "act_gact",
    "act_mirred",
    "act_skbedit",
    "act_vlan",
    "arp_tables",
    "arpt_mangle",
    "arptable_filter",
    "bonding",
    "bridge",
    "cls_bpf",
    "cls_flower",
    "cls_matchall",
    "cls_u32",
    "dummy",
    "geneve",
    "ifb",
    "ip_gre",
    "ip_tunnel",
    "ipip",
    "ipvlan",
    "ipvtap",
    "macvlan",
    "macvtap",
    "mpls_iptunnel",
    "netkit",
    "nf_tables",
    "nft_fwd_netdev",
    "nft_reject_netdev",
    "openvswitch",
    "sch_ingress",
    "team",
    "team_mode_activebackup",
    "team_mode_loadbalance",
    "team_mode_roundrobin",
    "tun",
    "veth",
    "virtio_net",
    "virtio_pci",
    "vrf",
    "vxlan",
];

/// The two numbers by which one asks for a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(u32, u32);

impl Version {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Version(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// An unpacked kernel.
pub(super) struct UnpackedKernel {
    /// As `uname -r` will say.
    pub(super) release: String,
    /// The package's name and version.
    pub(super) package: String,
    /// Where it is unpacked, under `.tools/kernels`.
    pub(super) folder: PathBuf,
    /// What qemu boots.
    pub(super) image: PathBuf,
}

/// The modules for a guest.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// Those of [`MODULES`] that the kernel has as files.
    pub(super) names: Vec<&'static str>,
    /// Those that it does not have at all.
    pub(super) absent: Vec<&'static str>,
    /// The files of all of them, with what they depend on.
    pub(super) files: Vec<PathBuf>,
}

/// The newest kernel of that version that apt can fetch; an older one from an earlier fetch if apt knows none.
pub(super) fn fetch(version: &Version, arch: Arch) -> Result<UnpackedKernel> {
    let kernels = paths::tools().join("kernels");
    fs::create_dir_all(&kernels).with_context(|| format!("cannot create {}", kernels.display()))?;
    let apt = Apt::of(arch)?;
    let newest = |names| newest(*version, arch, names);
    let package = match newest(known_to(&apt, *version, arch)) {
        Some(package) => package,
        None => {
            apt.refresh();
            match newest(known_to(&apt, *version, arch)).or_else(|| newest(unpacked(&kernels))) {
                Some(package) => package,
                None => bail!(
                    "apt knows no package linux-image-{version}.…-cloud-{}: Debian's bookworm has 6.1 and (in its \
                     security and backports parts) 6.12, trixie has 6.12",
                    arch.debian()
                ),
            }
        }
    };
    let folder = kernels.join(&package);
    apt.unpack(&[&package], &folder)?;
    let release = fs::read_dir(folder.join("lib/modules"))
        .ok()
        .and_then(|mut releases| releases.next()?.ok()?.file_name().into_string().ok())
        .with_context(|| format!("{package} has no /lib/modules/RELEASE"))?;
    let archive = fs::read_dir(folder.join("archives")).ok().and_then(|mut files| files.next()?.ok());
    let archive = archive.with_context(|| format!("{package} has left no archive"))?.path();
    let version = process::output(Command::new("dpkg-deb").arg("-f").arg(archive).arg("Version"))?;
    let image = folder.join(format!("boot/vmlinuz-{release}"));
    Ok(UnpackedKernel { package: format!("{package} {}", version.trim()), image, release, folder })
}

/// The names of the packages that apt knows and can fetch.
fn known_to(apt: &Apt, version: Version, arch: Arch) -> Vec<String> {
    let Version(major, minor) = version;
    apt.search(&format!(r"^linux-image-{major}\.{minor}\..*cloud-{}", arch.debian()))
}

/// The names of the packages that are here already.
fn unpacked(kernels: &Path) -> Vec<String> {
    let folders = fs::read_dir(kernels).into_iter().flatten().flatten();
    folders.filter(|entry| entry.path().is_dir()).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The newest kernel of a version, the signed build before the unsigned one.
fn newest(version: Version, arch: Arch, packages: Vec<String>) -> Option<String> {
    let suffix = format!("-cloud-{}", arch.debian());
    let rank = |package: &String| {
        let release = package.strip_prefix("linux-image-")?;
        let (release, signed) = match release.strip_suffix("-unsigned") {
            Some(release) => (release, false),
            None => (release, true),
        };
        let release = release.strip_suffix(&suffix)?;
        let numbers: Vec<u32> =
            release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok()).collect();
        numbers.starts_with(&[version.0, version.1]).then_some((numbers, signed))
    };
    packages.into_iter().filter(|package| rank(package).is_some()).max_by_key(rank)
}

impl UnpackedKernel {
    /// A file beside the unpacked kernel. The release has dots: this is not its extension.
    pub(super) fn beside(&self, what: &str) -> PathBuf {
        let mut path = self.folder.clone().into_os_string();
        path.push(format!(".{what}"));
        path.into()
    }

    /// The folder of the modules, with the indices that `depmod` makes.
    pub(super) fn module_folder(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    /// Which modules there are for the tests and for the guest's `lines`, and what else they need.
    pub(super) fn modules(&self, lines: &'static [&'static str]) -> Result<Modules> {
        process::output(process::program("depmod")?.arg("-b").arg(&self.folder).arg(&self.release))?;
        let mut modules = Modules::default();
        for name in lines.iter().copied().chain(MODULES) {
            let mut modprobe = process::program("modprobe")?;
            modprobe.arg("-d").arg(&self.folder).args(["-S", &self.release, "--show-depends", name]);
            match process::output(&mut modprobe) {
                Err(_) => modules.absent.push(name),
                Ok(shown) => {
                    modules.names.push(name);
                    modules.files.extend(files_to_load(&shown));
                }
            }
        }
        modules.files.sort();
        modules.files.dedup();
        Ok(modules)
    }
}

/// The files in what `modprobe --show-depends` prints; what is built in has none.
fn files_to_load(shown: &str) -> impl Iterator<Item = PathBuf> {
    let path = |line: &str| line.strip_prefix("insmod ")?.split_whitespace().next().map(PathBuf::from);
    shown.lines().filter_map(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_signed_kernel_is_chosen() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-dbg",
            "linux-image-6.1.0-47-cloud-amd64",
            "linux-image-6.1.0-47-cloud-amd64-unsigned",
            "linux-image-6.1.0-49-cloud-arm64",
            "linux-image-6.12.101+deb12-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.99+deb13-cloud-amd64-unsigned",
        ];
        let newest =
            |version: &str, arch| newest(Version::parse(version).unwrap(), arch, names.map(str::to_owned).to_vec());
        let amd64 = |version| newest(version, Arch::Amd64);
        assert_eq!(amd64("6.1").as_deref(), Some("linux-image-6.1.0-47-cloud-amd64"));
        assert_eq!(amd64("6.12").as_deref(), Some("linux-image-6.12.101+deb12-cloud-amd64"));
        assert_eq!(amd64("5.15"), None);
        assert_eq!(newest("6.1", Arch::Arm64).as_deref(), Some("linux-image-6.1.0-49-cloud-arm64"));
    }

    #[test]
    fn a_version_is_two_numbers() {
        assert_eq!(Version::parse("6.12").map(|version| version.to_string()).as_deref(), Some("6.12"));
        assert_eq!(Version::parse("6.12.1"), None);
        assert_eq!(Version::parse("lab"), None);
    }

    #[test]
    fn files_are_taken_from_modprobes_list_in_its_words() {
        let shown = "builtin stp\ninsmod /k/lib/modules/6/kernel/net/llc.ko.xz \ninsmod /k/bridge.ko.xz option=1\n";
        let files: Vec<_> = files_to_load(shown).collect();
        assert_eq!(files, [Path::new("/k/lib/modules/6/kernel/net/llc.ko.xz"), Path::new("/k/bridge.ko.xz")]);
    }

    #[test]
    fn modules_are_listed_sorted_and_once() {
        assert!(MODULES.is_sorted_by(|a, b| a < b));
    }
}
