//! The form of commit messages: `area: imperative` in at most 72 characters, and a body that gives the cause.

use anyhow::{Result, bail};

use super::Done;
use crate::process;
use std::process::Command;

/// What a branch is compared with: its own commits are those that are not in there.
const BASE: &str = "origin/main";
/// The most characters of a subject.
const SUBJECT: usize = 72;

/// Checks the branch's own commits. Merges are left out: git words them.
pub(super) fn check() -> Result<Done> {
    let git =
        |arguments: &[&str]| process::output(Command::new("git").current_dir(crate::paths::root()).args(arguments));
    if git(&["rev-parse", "--verify", "--quiet", BASE]).is_err() {
        return Ok(Done::Less(format!("there is no {BASE} to compare the branch with")));
    }
    let log = git(&["log", "--no-merges", "--format=%h%x00%s%x00%b%x00", &format!("{BASE}..HEAD")])?;
    let fields: Vec<&str> = log.split('\0').map(str::trim).collect();
    let complaints: Vec<String> = fields
        .chunks_exact(3)
        .filter_map(|commit| Some(format!("{} {:?}: {}", commit[0], commit[1], complaint(commit[1], commit[2])?)))
        .collect();
    if !complaints.is_empty() {
        bail!("{} (CONTRIBUTING.md, Commits)", complaints.join("; "));
    }
    Ok(Done::Clean)
}

/// What is wrong with a message, if anything.
fn complaint(subject: &str, body: &str) -> Option<String> {
    let length = subject.chars().count();
    if length > SUBJECT {
        return Some(format!("the subject has {length} characters, more than {SUBJECT}"));
    }
    let is_area = |area: &str| {
        !area.is_empty() && area.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_/, ".contains(c))
    };
    match subject.split_once(": ") {
        Some((area, rest)) if is_area(area) && !rest.is_empty() && !rest.ends_with('.') => {}
        _ => return Some("the subject is not `area: imperative`, in lower case and without a full stop".to_owned()),
    }
    body.is_empty().then(|| "there is no body that gives the cause".to_owned())
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn a_subject_with_area_and_a_body_is_accepted() {
        assert_eq!(complaint("agent: renew the lease before the dump", "The dump takes 2 s."), None);
        assert_eq!(complaint("mirror, kernel: read rules whole", "They have no identity."), None);
    }

    #[test]
    fn each_fault_of_a_message_is_named() {
        let long = format!("agent: {}", "x".repeat(70));
        for (subject, body, named) in [
            (long.as_str(), "why", "77 characters"),
            ("Renew the lease", "why", "area: imperative"),
            ("Agent: renew the lease", "why", "area: imperative"),
            ("agent: renew the lease.", "why", "full stop"),
            ("agent: ", "why", "area: imperative"),
            ("agent: renew the lease", "", "no body"),
        ] {
            let complaint = complaint(subject, body).unwrap_or_default();
            assert!(complaint.contains(named), "{subject:?}: {complaint:?}");
        }
    }
}
