//! What the test programs printed and wrote, counted, and the report made of it. Pure.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::iter::Sum;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TestCounts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

/// The line that scripts read.
impl fmt::Display for TestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl Sum for TestCounts {
    fn sum<I: Iterator<Item = TestCounts>>(counts: I) -> TestCounts {
        counts.fold(TestCounts::default(), |sum, TestCounts { passed, failed, skipped }| TestCounts {
            passed: sum.passed + passed,
            failed: sum.failed + failed,
            skipped: sum.skipped + skipped,
        })
    }
}

/// A test that this machine could not run, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skip {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Skip {
    fn new(name: &str, reason: &str) -> Skip {
        Skip { name: name.to_owned(), reason: reason.to_owned() }
    }

    /// The lines that tests wrote: name, tab, reason.
    pub(crate) fn parse(written: &str) -> Vec<Skip> {
        let lines = written.lines().filter(|line| !line.trim().is_empty());
        lines
            .map(|line| line.split_once('\t').unwrap_or((line, "no reason given")))
            .map(|(n, r)| Skip::new(n, r))
            .collect()
    }
}

/// What became of one tier.
#[derive(Debug)]
pub(crate) struct TierOutcome {
    tier: String,
    pub(crate) counts: TestCounts,
    pub(crate) took: Duration,
    pub(crate) failures: Vec<String>,
    pub(crate) skips: Vec<Skip>,
}

impl TierOutcome {
    /// This machine cannot run the tier, which has that many tests, if that is known.
    pub(crate) fn not_run(tier: &str, tests: Option<usize>, why: String) -> TierOutcome {
        // Unknown how many, but not none: a tier that vanishes must not look like one without tests.
        let counts = TestCounts { skipped: tests.unwrap_or(1), ..TestCounts::default() };
        let what = tests.map_or("the whole tier".to_owned(), |tests| format!("the whole tier ({tests} tests)"));
        let skips = vec![Skip::new(&what, &why)];
        TierOutcome { tier: tier.to_owned(), counts, took: Duration::ZERO, failures: Vec::new(), skips }
    }

    pub(crate) fn has_skips(&self) -> bool {
        !self.skips.is_empty()
    }

    /// Something that is one test by itself, and passed.
    pub(crate) fn passed(tier: &str, took: Duration) -> TierOutcome {
        let counts = TestCounts { passed: 1, ..TestCounts::default() };
        TierOutcome { tier: tier.to_owned(), counts, took, failures: Vec::new(), skips: Vec::new() }
    }

    /// The tier should have run and could not.
    pub(crate) fn broken(tier: &str, why: String) -> TierOutcome {
        let counts = TestCounts { failed: 1, ..TestCounts::default() };
        TierOutcome { tier: tier.to_owned(), counts, took: Duration::ZERO, failures: vec![why], skips: Vec::new() }
    }
}

/// The output of `cargo test`, read line by line.
#[derive(Default)]
pub(crate) struct Libtest {
    passed: usize,
    failed: usize,
    ignored: usize,
    failures: Vec<String>,
    ignored_tests: Vec<Skip>,
}

impl Libtest {
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += count(result, "passed");
            self.failed += count(result, "failed");
            self.ignored += count(result, "ignored");
        } else if let Some((name, end)) = line.strip_prefix("test ").and_then(|test| test.rsplit_once(" ... ")) {
            if end.starts_with("FAILED") {
                self.failures.push(name.to_owned());
            } else if let Some(reason) = end.strip_prefix("ignored") {
                let reason = reason.trim_start_matches([',', ' ']);
                let reason = if reason.is_empty() { "ignored in the source" } else { reason };
                self.ignored_tests.push(Skip::new(name, reason));
            }
        }
    }

    /// The tier's outcome, given what its tests wrote and whether cargo was content.
    pub(crate) fn outcome(self, tier: &str, written: Vec<Skip>, success: bool, took: Duration) -> TierOutcome {
        let Libtest { passed, mut failed, ignored, mut failures, ignored_tests } = self;
        // libtest counts a test that gave up as passed. One that gave up and then failed has failed.
        let gave_up: BTreeSet<&str> =
            written.iter().map(|skip| skip.name.as_str()).filter(|name| !failures.iter().any(|f| f == name)).collect();
        let gave_up = gave_up.len().min(passed);
        if !success && failed == 0 {
            failed = 1;
            failures
                .push("cargo test failed without a failed test: it does not build, or a test program died".to_owned());
        }
        let counts = TestCounts { passed: passed - gave_up, failed, skipped: ignored + gave_up };
        let skips = written.into_iter().chain(ignored_tests).collect();
        TierOutcome { tier: tier.to_owned(), counts, took, failures, skips }
    }
}

/// The number before a word in `ok. 5 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> usize {
    let mut words = result.split([' ', ';', '.']).filter(|w| !w.is_empty());
    let mut before = None;
    words
        .find_map(|w| {
            if w == word {
                before
            } else {
                before = w.parse().ok();
                None
            }
        })
        .unwrap_or(0)
}

/// How many tests `--list` printed.
pub(crate) fn count_listed(list: &str) -> usize {
    list.lines().filter(|line| line.ends_with(": test")).count()
}

/// Why the whole is not a success, if it is not.
pub(crate) fn verdict(total: TestCounts, anything_skipped: bool, ci: bool) -> Option<&'static str> {
    if total.failed > 0 {
        Some("Tests failed.")
    } else if total.passed == 0 {
        Some("No test ran, which is not a success.")
    } else if ci && anything_skipped {
        Some("CI is set: what could not run counts as a failure.")
    } else {
        None
    }
}

/// The table, the failures and what could not run: by `who` could not.
pub(crate) fn summary(outcomes: &[TierOutcome], who: &str) -> String {
    let width = outcomes.iter().map(|outcome| outcome.tier.len() + 2).max().unwrap_or_default().max(10);
    let mut text = format!("\n{:<width$}{:>8}{:>8}{:>9}{:>9}\n", "tier", "passed", "failed", "skipped", "seconds");
    for TierOutcome { tier, counts: TestCounts { passed, failed, skipped }, took, .. } in outcomes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{tier:<width$}{passed:>8}{failed:>8}{skipped:>9}{:>9.1}", took.as_secs_f32());
    }
    let failures = outcomes.iter().flat_map(|o| o.failures.iter().map(move |name| format!("  {}  {name}\n", o.tier)));
    section(&mut text, "Failed:", failures);
    let skips = outcomes
        .iter()
        .flat_map(|o| o.skips.iter().map(move |skip| format!("  {}  {}: {}\n", o.tier, skip.name, skip.reason)));
    section(&mut text, &format!("{who} could not run:"), skips);
    text.push('\n');
    text
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: String = lines.collect();
    if !lines.is_empty() {
        let _ = write!(text, "\n{title}\n{lines}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `cargo test` really prints it.
    const OUTPUT: &str = "\nrunning 4 tests\ntest frame::tests::a ... ok\ntest later ... ignored, needs a radio\ntest explodes - should panic ... FAILED\ntest gives_up ... ok\n\nfailures:\n\n---- explodes stdout ----\n\ntest result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.31s\n\nrunning 1 test\ntest arp-common/src/lib.rs - doc (line 3) ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    fn read(output: &str) -> Libtest {
        let mut libtest = Libtest::default();
        output.lines().for_each(|line| libtest.line(line));
        libtest
    }

    fn counts(passed: usize, failed: usize, skipped: usize) -> TestCounts {
        TestCounts { passed, failed, skipped }
    }

    #[test]
    fn several_test_programs_add_up() {
        let outcome = read(OUTPUT).outcome("unit", Vec::new(), false, Duration::ZERO);
        assert_eq!(outcome.counts, counts(3, 1, 1));
        assert_eq!(outcome.failures, ["explodes - should panic"]);
        assert_eq!(outcome.skips, [Skip::new("later", "needs a radio")]);
    }

    #[test]
    fn a_test_that_gave_up_is_skipped_not_passed() {
        let written = Skip::parse("gives_up\tno tcx on this kernel\ngives_up\tnor clsact\n");
        let outcome = read(OUTPUT).outcome("lab", written, false, Duration::ZERO);
        assert_eq!(outcome.counts, counts(2, 1, 2), "two reasons, one test");
        assert_eq!(outcome.skips.len(), 3);
    }

    #[test]
    fn a_test_that_gave_up_and_failed_has_failed() {
        let output = "test half ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\n";
        let outcome = read(output).outcome("lab", Skip::parse("half\twhy"), false, Duration::ZERO);
        assert_eq!(outcome.counts, counts(1, 1, 0));
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        let outcome = read("error: could not compile").outcome("lab", Vec::new(), false, Duration::ZERO);
        assert_eq!(outcome.counts, counts(0, 1, 0));
        // The same when one program passed and the next one crashed before its result.
        let died = read("test result: ok. 5 passed; 0 failed; 0 ignored\ntest a ... ok\n");
        assert_eq!(died.outcome("unit", Vec::new(), false, Duration::ZERO).counts, counts(5, 1, 0));
    }

    #[test]
    fn a_test_printing_about_tests_is_no_result() {
        let libtest = read("  test result: ok. 5 passed\nthe test result: 3 passed\n");
        assert_eq!((libtest.passed, libtest.failed), (0, 0));
    }

    #[test]
    fn a_line_without_a_reason_still_names_the_test() {
        assert_eq!(Skip::parse("bare\n\n"), [Skip::new("bare", "no reason given")]);
    }

    #[test]
    fn tests_that_cannot_run_are_counted_from_the_list() {
        assert_eq!(count_listed("proxy::answers: test\nproxy::passes: test\n\n2 tests, 0 benchmarks\n"), 2);
    }

    #[test]
    fn success_needs_a_test_and_under_ci_no_skip() {
        assert_eq!(verdict(counts(3, 0, 1), true, false), None);
        assert!(verdict(counts(3, 0, 1), true, true).is_some());
        assert!(
            verdict(counts(3, 0, 0), true, true).is_some(),
            "a tier that could not run, all its tests filtered out"
        );
        assert_eq!(verdict(counts(3, 0, 0), false, true), None);
        assert!(verdict(counts(3, 1, 0), false, false).is_some());
        assert!(verdict(counts(0, 0, 0), false, false).is_some());
        assert!(verdict(counts(0, 0, 9), true, false).is_some());
    }

    #[test]
    fn the_last_line_is_as_scripts_expect_it() {
        assert_eq!(counts(12, 0, 3).to_string(), "12 passed, 0 failed, 3 skipped");
    }

    #[test]
    fn the_summary_names_failures_and_reasons() {
        let outcomes = [
            read(OUTPUT).outcome("unit", Vec::new(), false, Duration::from_millis(1240)),
            TierOutcome::not_run("lab", Some(40), "not root".to_owned()),
        ];
        let expected = "
tier        passed  failed  skipped  seconds
unit             3       1        1      1.2
lab              0       0       40      0.0

Failed:
  unit  explodes - should panic

This machine could not run:
  unit  later: needs a radio
  lab  the whole tier (40 tests): not root

";
        assert_eq!(summary(&outcomes, "This machine"), expected);
    }
}
