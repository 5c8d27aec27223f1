//! A newcomer's way with a package: installed, looked at, downgraded, upgraded, removed; and nobody loses a frame.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use lab::{Lab, kernel_is_since, needs_root, topology, under_traffic, wait_until};

use crate::machine::Machine;
use crate::{VERSION, debian_arch, folder, packages};

/// The longest that the way may take.
const BOUND: Duration = Duration::from_secs(120);
const INSTALL: &str = include_str!("../../../docs/install.md");
const SETTINGS: &str = "/etc/arp-agent/arp-agent.toml";
const METRICS: &str = "127.0.0.1:9798";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Deb,
    Rpm,
    Archive,
}

impl Format {
    /// The package in a folder. (The version of that to upgrade from is whichever is there.)
    fn find(self, folder: &Path, version: Option<&str>) -> Result<PathBuf> {
        let end = match self {
            Format::Deb => format!("_{}.deb", debian_arch()),
            Format::Rpm => format!(".{}.rpm", env::consts::ARCH),
            Format::Archive => format!("-{}.tar.gz", env::consts::ARCH),
        };
        let start = version.map_or("arp-agent".to_owned(), |version| match self {
            Format::Deb => format!("arp-agent_{version}-"),
            Format::Rpm | Format::Archive => format!("arp-agent-{version}-"),
        });
        let files = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        let mut found = files.flatten().map(|file| file.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&start) && name.ends_with(&end)
        });
        found.next().with_context(|| format!("there is no {start}*{end} in {}", folder.display()))
    }

    /// What docs/install.md says to type, to the line that looks at the agent.
    fn documented(self) -> Result<Vec<String>> {
        let heading = match self {
            Format::Deb => "## Debian and its derivatives\n",
            Format::Rpm => "## Fedora, RHEL and their derivatives\n",
            Format::Archive => "## Any other system with systemd\n",
        };
        let (_, text) = INSTALL.split_once(heading).with_context(|| format!("docs/install.md has no {heading}"))?;
        let text = text.split("\n## ").next().unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
        let lines: Vec<String> = lines.take_while(|line| *line != "arp-agent status").map(str::to_owned).collect();
        ensure!(lines.len() >= 2 && lines.len() <= 4, "docs/install.md: {lines:?}");
        Ok(lines)
    }

    /// The command that upgrades or downgrades to a file in root's home.
    fn change(self, file: &str) -> String {
        match self {
            Format::Deb => format!("apt install --allow-downgrades -y ./{file}"),
            // This Debian's database of rpms is empty: it knows no shadow-utils.
            Format::Rpm => format!("rpm -U --nodeps --oldpackage ./{file}"),
            Format::Archive => format!("tar -C / -xzf {file}"),
        }
    }
}

#[test]
fn a_newcomer_installs_changes_and_purges_the_deb() -> Result<()> {
    life(Format::Deb)
}

#[test]
fn a_newcomer_installs_changes_and_removes_the_rpm() -> Result<()> {
    life(Format::Rpm)
}

#[test]
fn a_newcomer_unpacks_and_removes_the_archive() -> Result<()> {
    life(Format::Archive)
}

fn life(format: Format) -> Result<()> {
    needs_root!();
    let (Some(packages), Some(debian)) = (packages(), folder("ARP_DEBIAN")) else { return Ok(()) };
    let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let lab = topology::calico(1)?;
    let untouched = interfaces(&lab)?;
    let machine = Machine::boot(&debian, &lab)?;
    let new = format.find(&packages, Some(VERSION))?;
    machine.put(&new)?;
    let new = name(new);
    let mut changes = Vec::new();
    if format != Format::Archive {
        // The last release's, if the tester has them; else the same files as an older version.
        let last = env::var_os("ARP_LAST_RELEASE").map_or(packages.join("last"), PathBuf::from);
        let last = format.find(&last, None)?;
        machine.put(&last)?;
        changes = vec![name(last), new.clone()];
    }
    // As on a node: what is pinned there outlives the agent.
    machine.sh("mount -t bpf bpf /sys/fs/bpf")?;
    let pins = || machine.sh("find /sys/fs/bpf | sort");
    let untouched_pins = pins()?;
    let files = machine.files()?;
    let groups = machine.sh("getent group")?;

    let begun = Instant::now();
    under_traffic(&lab, &format!("{format:?}"), 0, || {
        for line in format.documented()? {
            // This Debian has no dnf.
            let line = if line.starts_with("dnf install ./") { format.change(&new) } else { line };
            if line.contains("systemctl enable") {
                let enabled = machine.try_sh("systemctl is-enabled arp-agent")?;
                ensure!(enabled.stdout == b"disabled\n", "the installation enables the unit: {enabled:?}");
            }
            machine.sh(&line)?;
        }
        until_answering(&machine, "after the installation")?;
        ensure!(!kernel_is_since(6, 6) || pins()?.contains("-tcx"), "no link is pinned: {}", pins()?);
        look(&machine, &lab)?;

        machine.sh(&format!("echo '# mine' >>{SETTINGS}"))?;
        for package in &changes {
            let before = machine.sh("systemctl show -p MainPID --value arp-agent")?;
            machine.sh(&format.change(package))?;
            until_answering(&machine, &format!("after the change to {package}"))?;
            let after = machine.sh("systemctl show -p MainPID --value arp-agent")?;
            ensure!(after != before, "the change to {package} did not start the agent again");
            machine.sh(&format!("grep '^# mine' {SETTINGS}")).context("the settings were overwritten")?;
        }
        remove(format, &machine, &lab, &untouched, &new)
    })?;
    // Two files that `groupdel` and `groupadd` keep of before.
    let kept = ["/etc/group-".to_owned(), "/etc/gshadow-".to_owned()];
    let after: BTreeSet<String> = machine.files()?.into_iter().collect();
    let before: BTreeSet<String> = files.into_iter().collect();
    let mut left: Vec<&String> = after.symmetric_difference(&before).filter(|file| !kept.contains(file)).collect();
    if format == Format::Archive {
        // `tar -tzf` names the folders, too, of which most are not the archive's own.
        left.retain(|path| !machine.try_sh(&format!("test -d {path}")).is_ok_and(|is| is.status.success()));
    }
    let [folder, saved] = ["/etc/arp-agent".to_owned(), format!("{SETTINGS}.rpmsave")];
    let expected: Vec<&String> = if format == Format::Rpm { vec![&folder, &saved] } else { Vec::new() };
    ensure!(left == expected, "left, or gone: {left:?}");
    let groups_left = machine.sh("getent group")?.replace(&groups, "");
    let has_group = groups_left.starts_with("arp-agent:") && groups_left.lines().count() == 1;
    ensure!(has_group == (format != Format::Deb), "groups: {groups_left:?}");
    ensure!(has_group || groups_left.is_empty(), "groups: {groups_left:?}");
    ensure!(pins()? == untouched_pins, "pins are left: {}", pins()?);
    ensure!(!machine.try_sh("test -e /run/arp-agent")?.status.success(), "the run directory is left");
    println!("{format:?}: {:?}", begun.elapsed());
    ensure!(begun.elapsed() < lab::stretched(BOUND), "it took {:?}", begun.elapsed());
    Ok(())
}

/// What a newcomer looks at once the agent runs.
fn look(machine: &Machine, lab: &Lab) -> Result<()> {
    let answered = || -> Result<u64> {
        let stats: serde_json::Value = serde_json::from_str(&machine.sh("arp-agent stats --json")?)?;
        stats["stats"]["answered"].as_u64().or(stats["answered"].as_u64()).with_context(|| format!("{stats}"))
    };
    let before = answered()?;
    wait_until(Duration::from_secs(5), || Ok(answered()? > before + 5), || "the fast path answers the pod".to_owned())?;
    let top = machine.sh("arp-agent top --once")?;
    ensure!(top.contains("cali0"), "{top}");
    let metrics = machine.sh("arp-agent metrics")?;
    ensure!(metrics.contains("\narp_agent_up 1\n"), "{metrics}");

    // Who may ask.
    let asked = machine.try_sh("setpriv --reuid=65534 --regid=65534 --clear-groups arp-agent status")?;
    ensure!(!asked.status.success(), "everybody may ask: {asked:?}");
    let group = "$(getent group arp-agent | cut -d: -f3)";
    let as_member = format!("setpriv --reuid=65534 --regid=65534 --groups={group} arp-agent status");
    machine.sh(&as_member).context("members of the group may not ask")?;

    // Scraped by HTTP: a setting that needs a restart.
    machine.sh(&format!("sed -i 's/^#* *listen-address = .*/listen-address = \"{METRICS}\"/' {SETTINGS}"))?;
    machine.sh(&format!("grep '^listen-address' {SETTINGS}")).context("the settings name no listen-address")?;
    let why = "{ journalctl -u arp-agent --no-pager | tail -n 20 >&2; false; }";
    machine.sh(&format!("arp-agent check-config && systemctl restart arp-agent || {why}"))?;
    until_answering(machine, "after the restart")?;
    let mut scraped = String::new();
    let is_counted = || {
        scraped = lab.node().run(|| get("/metrics"))??;
        let replies = scraped.lines().find_map(|line| line.strip_prefix("arp_agent_replies_total "));
        Ok(replies.is_some_and(|replies| replies.parse::<f64>().is_ok_and(|replies| replies > 0.0)))
    };
    wait_until(Duration::from_secs(10), is_counted, || "metrics count replies".to_owned())
}

/// An HTTP answer of the agent's, with its header.
fn get(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "{text}");
    Ok(text)
}

/// Removes the package as docs/install.md says.
fn remove(format: Format, machine: &Machine, lab: &Lab, untouched: &str, package: &str) -> Result<()> {
    let files = "tar -tzf";
    machine.sh(&match format {
        Format::Deb => "apt remove -y arp-agent".to_owned(),
        Format::Rpm => "rpm -e arp-agent".to_owned(),
        Format::Archive => format!(
            "systemctl disable --now arp-agent && arp-agent detach && \
             {files} {package} | while read -r file; do [ -d \"/$file\" ] || rm \"/$file\"; done"
        ),
    })?;
    let now = interfaces(lab)?;
    ensure!(now == untouched, "on interfaces there was\n{untouched}\nand now there is\n{now}");
    if format == Format::Deb {
        machine.sh(&format!("test -e {SETTINGS}")).context("the removal took the settings")?;
        machine.sh("apt purge -y arp-agent")?;
    }
    Ok(())
}

/// What is attached to the pod's interface.
fn interfaces(lab: &Lab) -> Result<String> {
    let node = lab.node();
    let mut text = node.exec("tc qdisc show")? + &node.exec("tc filter show dev cali0 ingress")?;
    let link = node.ip_json("-details link show cali0")?;
    text += &format!("xdp {}\n", link[0]["xdp"]);
    if kernel_is_since(6, 6) {
        let (_, tcx) = node.run(|| SchedClassifier::query_tcx("cali0", TcAttachType::Ingress))??;
        text += &format!("tcx {:?}\n", tcx.iter().map(ProgramInfo::id).collect::<Vec<_>>());
    }
    Ok(text)
}

fn until_answering(machine: &Machine, when: &str) -> Result<()> {
    let is_answering = || {
        let status = machine.try_sh("arp-agent status")?;
        Ok(String::from_utf8_lossy(&status.stdout).contains("answering on 1 of 1 interface"))
    };
    wait_until(Duration::from_secs(15), is_answering, || {
        let [status, journal] =
            ["arp-agent status", "journalctl -u arp-agent --no-pager | tail -n 20"].map(|line| machine.try_sh(line));
        thread::sleep(Duration::from_millis(100));
        format!("the agent answers {when}: {status:?}\n{journal:?}")
    })
}
