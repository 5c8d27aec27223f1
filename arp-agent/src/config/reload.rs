//! What a running agent makes of changed settings.

use super::sources::SourcedSettings;
use anyhow::bail;

/// The settings that a running agent takes over; all others need a restart. Of policies some may need a program that is
/// not loaded: the agent refuses those.
pub(crate) const LIVE: [&str; 16] = [
    "interface",
    "reread-interval",
    "lease",
    "metrics-interfaces",
    "log-level",
    "log-format",
    "sender-guard",
    "sender-allow",
    "sender-grace",
    "entry-limit",
    "budget",
    "binding",
    "unresolved-budget",
    "unresolved-node",
    "gateway",
    "no-delay",
];

/// The names and values of the settings that differ, as `name = value`.
///
/// # Errors
/// A setting differs that cannot change while the agent runs.
pub(crate) fn changes(old: &SourcedSettings, new: &SourcedSettings) -> anyhow::Result<Vec<String>> {
    let differs = |(old, new): &(&super::sources::Setting, &super::sources::Setting)| old.value != new.value;
    let changed: Vec<_> = old.each.iter().zip(&new.each).filter(differs).map(|(_, new)| new).collect();
    let fixed: Vec<&str> =
        changed.iter().map(|setting| setting.name.as_str()).filter(|name| !LIVE.contains(name)).collect();
    if !fixed.is_empty() {
        bail!("{}: cannot change while the agent runs; restart it (systemctl restart)", fixed.join(", "));
    }
    Ok(changed.into_iter().map(|setting| format!("{} = {}", setting.name, setting.in_short())).collect())
}
