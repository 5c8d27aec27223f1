//! The script that runs in the guest, and the reading of its results. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use crate::arch::Arch;
use crate::test::report::{Libtest, Skip, TierOutcome};
use crate::test::{HOOK, Tier};

/// Where the agent is in the guest.
pub(super) const AGENT: &str = "arp/arp-agent";

/// Where the program that makes random scenarios is in the guest, and the word for it in the results.
pub(super) const PARITY: &str = "arp/parity";
pub(super) const PARITY_WORD: &str = "parity";

/// Where the scenarios that once diverged are in the guest.
pub(super) const REGRESSIONS: &str = "arp/regressions";

/// The addresses of the guest's two network cards, which are linked to each other and to nothing else: those that the
/// tests give a node's interface and a host's. The tests know by the variable that they may take them.
pub(super) const CARDS: [&str; 2] = ["02:00:00:00:06:01", "02:00:00:00:06:05"];

/// Tests that choose the hook themselves, or are about devices that have only one.
const ONE_HOOK: [&str; 3] = ["matrix::cards::", "matrix::devices::", "matrix::kinds::"];

/// Where the tests of a tier are in the guest. Tiers that differ by the hook share theirs.
pub(super) fn test_program(tier: Tier) -> String {
    format!("arp/test-{}", tier.target().map_or(tier.name(), |(_, target)| target))
}

/// The kernel's console.
pub(super) fn console(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "ttyS0",
        Arch::Arm64 => "ttyAMA0",
    }
}

/// Where the guest writes what its tests print, and what became of them.
fn lines(arch: Arch) -> [&'static str; 2] {
    match arch {
        Arch::Amd64 => ["/dev/ttyS1", "/dev/ttyS2"],
        Arch::Arm64 => ["/dev/vport0p1", "/dev/vport0p2"],
    }
}

/// The modules of these lines, in the order in which they are loaded.
pub(super) fn line_modules(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Amd64 => &[],
        Arch::Arm64 => &["virtio_pci", "virtio_console"],
    }
}

/// What a guest is to do.
pub(super) struct GuestPlan<'a> {
    pub(super) arch: Arch,
    pub(super) tiers: Vec<Tier>,
    pub(super) filters: &'a [String],
    pub(super) slack: u32,
    pub(super) threads: usize,
    pub(super) modules: &'a [&'static str],
    /// Random scenarios, after the tiers: for how many seconds, and the seed.
    pub(super) parity: Option<(u64, u64)>,
}

/// What came out of a guest.
pub(super) struct GuestOutput {
    /// What the tests printed.
    pub(super) tests: Vec<String>,
    /// What became of them.
    pub(super) results: String,
    /// Why the guest did not come to its end by itself, if it did not.
    pub(super) cut_short: Option<String>,
}

/// Mounts what the tests expect. `set -u` and no `set -e`: whatever fails here, the guest must come to its end.
const MOUNTS: &str = r#"#!/usr/bin/sh
set -u
export PATH=/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
for module in @MODULES@; do modprobe -q $module; done
for line in @TESTS@ @RESULTS@; do
    tries=0
    until [ -c $line ] || [ $tries -ge 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    case $line in /dev/tty*) stty -F $line raw -echo;; esac
done
exec </dev/null >@TESTS@ 2>&1
say() { echo "$*" >@RESULTS@; }
ip link set lo up
# As on a machine that never loaded a tunnel: a new namespace has only lo.
echo 1 >/proc/sys/net/core/fb_tunnels_only_for_init_net
"#;

/// The last lines: off, by the way that needs no other program.
const END: &str = "say end
sleep 0.2
echo o >/proc/sysrq-trigger
sleep 60
";

/// The line after which the lines of a tier come.
const TIER: &str = "tier ";
/// A test that gave up, as it wrote it.
const SKIP: &str = "skip ";
/// The exit code of a tier's tests, and the hundredths of a second at their start and end.
const DONE: &str = "done ";

impl GuestPlan<'_> {
    /// The guest's init.
    pub(super) fn script(&self) -> String {
        let [tests, results] = lines(self.arch);
        let mut script = MOUNTS
            .replace("@MODULES@", &line_modules(self.arch).join(" "))
            .replace("@TESTS@", tests)
            .replace("@RESULTS@", results);
        // Writing to a String cannot fail.
        let _ = writeln!(script, "for module in {}; do modprobe -q $module; done", self.modules.join(" "));
        let _ = writeln!(
            script,
            "export ARP_AGENT_BIN=/{AGENT} ARP_TEST_REGRESSIONS=/{REGRESSIONS} ARP_TEST_SLACK={} ARP_TEST_CARDS='{}'",
            self.slack,
            CARDS.join(" ")
        );
        script.push_str("now() { read -r up _ </proc/uptime; echo \"${up%.*}${up#*.}\"; }\n");
        for tier in &self.tiers {
            let own = tier.filter(None).map(str::to_owned);
            let filters: Vec<String> = match self.filters {
                [] => own.iter().map(|filter| quoted(filter)).collect(),
                asked => asked.iter().map(|filter| quoted(filter)).collect(),
            };
            let of_devices = if tier.hook().is_some() { &ONE_HOOK[..] } else { &[] };
            let long = if *tier == Tier::Faults { tier.skipped() } else { &[] };
            let skip: String = of_devices.iter().chain(long).map(|skipped| format!(" --skip {skipped}")).collect();
            let _ = match tier.hook() {
                Some(hook) => writeln!(script, "export {HOOK}={hook}"),
                None => writeln!(script, "unset {HOOK}"),
            };
            let _ = write!(
                script,
                r#"echo; echo "== {tier}"
say "{TIER}{tier}"
export ARP_TEST_SKIPS=/tmp/skips-{tier}
: >$ARP_TEST_SKIPS
start=$(now)
/{program} --color=never --test-threads={threads}{skip} {filters}
code=$?
sed 's/^/{SKIP}/' $ARP_TEST_SKIPS >{results}
say "{DONE}$code $start $(now)"
"#,
                program = test_program(*tier),
                tier = tier.name(),
                filters = filters.join(" "),
                threads = self.threads,
            );
        }
        if let Some((seconds, seed)) = self.parity {
            let _ = write!(
                script,
                r#"echo; echo "== {PARITY_WORD}"
say "{TIER}{PARITY_WORD}"
start=$(now)
/{PARITY} --seconds {seconds} --seed {seed} --out /tmp/parity
code=$?
for script in /tmp/parity/*; do [ -e "$script" ] && echo "$script:" && cat "$script"; done
say "{DONE}$code $start $(now)"
"#
            );
        }
        script + END
    }
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A line of the guest's output as text, without what a serial line adds.
pub(super) fn clean(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()
}

/// Whether the guest ran its plan to the end.
pub(super) fn came_to_its_end(results: &str) -> bool {
    results.lines().any(|line| line == "end")
}

/// What became of each tier.
pub(super) fn outcomes(release: &str, tiers: &[Tier], output: &GuestOutput) -> Vec<TierOutcome> {
    let GuestOutput { tests, results, cut_short } = output;
    tiers
        .iter()
        .map(|tier| {
            let label = format!("{release} {}", tier.name());
            let Some(result) = TierResult::find(results, tier.name()) else {
                let why = cut_short.clone().unwrap_or_else(|| "the guest says nothing about it".to_owned());
                return TierOutcome::broken(&label, why);
            };
            let mut libtest = Libtest::default();
            section(tests, tier.name()).for_each(|line| libtest.line(line));
            libtest.outcome(&label, Skip::parse(&result.skips), result.success, result.took)
        })
        .collect()
}

/// The last line of the random scenarios, which says how many there were, and in how many frames the fast path differed.
pub(super) fn scenarios(output: &GuestOutput) -> Option<String> {
    section(&output.tests, PARITY_WORD).filter(|line| line.starts_with("parity: ")).last().map(str::to_owned)
}

/// What became of the random scenarios: one test, as the report counts.
pub(super) fn parity_outcome(release: &str, output: &GuestOutput) -> TierOutcome {
    let label = format!("{release} {PARITY_WORD}");
    match TierResult::find(&output.results, PARITY_WORD) {
        Some(TierResult { success: true, took, .. }) => TierOutcome::passed(&label, took),
        Some(_) => TierOutcome::broken(&label, "scenarios differ, see above".to_owned()),
        None => TierOutcome::broken(&label, output.cut_short.clone().unwrap_or_else(|| "it did not end".to_owned())),
    }
}

/// The lines that a tier printed: from its headline to the next.
pub(super) fn section<'a>(tests: &'a [String], tier: &str) -> impl Iterator<Item = &'a str> {
    let headline = format!("== {tier}");
    let after = tests.iter().map(String::as_str).skip_while(move |line| *line != headline).skip(1);
    after.take_while(|line| !line.starts_with("== "))
}

#[derive(Debug, PartialEq)]
struct TierResult {
    success: bool,
    took: Duration,
    skips: String,
}

impl TierResult {
    /// Reads the lines about one tier; none if it did not come to its end.
    fn find(results: &str, tier: &str) -> Option<Self> {
        let headline = format!("{TIER}{tier}");
        let lines = results.lines().skip_while(|line| **line != headline).skip(1);
        let mut skips = String::new();
        for line in lines.take_while(|line| !line.starts_with(TIER)) {
            if let Some(skip) = line.strip_prefix(SKIP) {
                skips.push_str(skip);
                skips.push('\n');
            } else if let Some(done) = line.strip_prefix(DONE) {
                let numbers: Option<Vec<u64>> = done.split(' ').map(|number| number.parse().ok()).collect();
                let [code, start, end] = numbers?[..] else { return None };
                let took = Duration::from_millis(10 * end.saturating_sub(start));
                return Some(TierResult { success: code == 0, took, skips });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::report::TestCounts;

    const RESULTS: &str = "tier program\ndone 0 210 1210\ntier lab\nskip a\tno vrf\ndone 101 1220 31220\nend\n";

    #[test]
    fn the_results_of_each_tier_are_its_own() {
        let program = TierResult { success: true, took: Duration::from_secs(10), skips: String::new() };
        assert_eq!(TierResult::find(RESULTS, "program"), Some(program));
        let lab = TierResult { success: false, took: Duration::from_secs(300), skips: "a\tno vrf\n".to_owned() };
        assert_eq!(TierResult::find(RESULTS, "lab"), Some(lab));
        assert_eq!(TierResult::find(RESULTS, "unit"), None);
        assert_eq!(TierResult::find("tier lab\nskip a\tno vrf\n", "lab"), None, "cut short");
        assert!(came_to_its_end(RESULTS) && !came_to_its_end("tier lab\n"));
    }

    #[test]
    fn a_guest_cut_short_fails_what_it_left() {
        let tests =
            "== program\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n\n== lab\ntest b ... ok";
        let output = GuestOutput {
            tests: tests.lines().map(str::to_owned).collect(),
            results: "tier program\ndone 0 1 2\ntier lab\n".to_owned(),
            cut_short: Some("too slow".to_owned()),
        };
        let outcomes = outcomes("6.1.0-1", &[Tier::Program, Tier::Lab], &output);
        let counts: Vec<TestCounts> = outcomes.iter().map(|outcome| outcome.counts).collect();
        assert_eq!(counts.iter().map(|counts| (counts.passed, counts.failed)).collect::<Vec<_>>(), [(1, 0), (0, 1)]);
    }

    #[test]
    fn random_scenarios_are_one_test_and_one_line() {
        let tests = "== parity\nseed 7\nparity: scenarios=3 frames=9 divergences=0\n";
        let mut output = GuestOutput {
            tests: tests.lines().map(str::to_owned).collect(),
            results: "tier parity\ndone 0 100 6100\nend\n".to_owned(),
            cut_short: None,
        };
        assert_eq!(parity_outcome("6.1", &output).counts.passed, 1);
        assert_eq!(scenarios(&output).as_deref(), Some("parity: scenarios=3 frames=9 divergences=0"));
        output.results = "tier parity\ndone 1 100 6100\nend\n".to_owned();
        assert_eq!(parity_outcome("6.1", &output).counts.failed, 1);
    }

    #[test]
    fn the_init_runs_the_plan_and_ends_the_guest() {
        let filters = ["it's".to_owned(), "k02".to_owned()];
        let plan = |arch| GuestPlan {
            arch,
            tiers: vec![Tier::Program, Tier::Lab, Tier::LabSkb],
            filters: &filters,
            slack: 5,
            threads: 2,
            modules: &["veth", "vrf"],
            parity: Some((60, 7)),
        };
        for (arch, results) in [(Arch::Amd64, ">/dev/ttyS2"), (Arch::Arm64, ">/dev/vport0p2")] {
            let script = plan(arch).script();
            assert!(script.contains(results) && !script.contains('@'), "{script}");
        }
        let script = plan(Arch::Arm64).script();
        for part in [
            "for module in virtio_pci virtio_console; do",
            "for module in veth vrf; do",
            "ARP_TEST_SLACK=5",
            "/arp/test-program --color=never --test-threads=2 'it'\\''s' 'k02'\n",
            "unset ARP_TEST_HOOK\n",
            "/arp/test-lab --color=never --test-threads=2 'it'",
            "export ARP_TEST_HOOK=xdp-skb\n",
            "/arp/parity --seconds 60 --seed 7 ",
            "sysrq-trigger",
        ] {
            assert!(script.contains(part), "{part} in\n{script}");
        }
    }

    #[test]
    fn a_serial_lines_carriage_returns_are_not_text() {
        assert_eq!(clean(b"test a ... ok\r"), "test a ... ok");
    }
}
