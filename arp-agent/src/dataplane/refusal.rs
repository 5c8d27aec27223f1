//! Errors for people when the kernel refuses to load something: the thing, the cause, the remedy, and as much of the
//! verifier's log as helps.

use anyhow::anyhow;
use aya::EbpfError;
use aya::programs::ProgramError;
use nix::errno::Errno;
use std::error::Error;
use std::io;

/// How many lines of the verifier's log are shown: the last ones say what it does not accept.
const LINES: usize = 20;

/// Why a program that reads kernel memory is refused although it is a correct one.
pub(crate) const LOCKDOWN: &str = "it is locked down for confidentiality (/sys/kernel/security/lockdown), and then lets no program \
                        read its memory";

/// The error for an eBPF object that cannot be loaded.
pub(crate) fn of_object(error: &EbpfError) -> anyhow::Error {
    let errno = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    anyhow!("loading the eBPF object failed: {}{}", once(error), remedy(errno, &status_of_this_process()))
}

/// The error for one of its programs that cannot be loaded.
pub(crate) fn of_program(name: &str, error: &ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return anyhow!("loading the program {name} failed: {}", once(error));
    };
    let said = verifier_log.to_string();
    if said.trim().is_empty() {
        let remedy = remedy(io_error.raw_os_error(), &status_of_this_process());
        return anyhow!("the kernel refused the program {name}: {io_error}{remedy}");
    }
    if reads_kernel_memory_under_lockdown(&said) {
        return anyhow!("the kernel refused the program {name}: {LOCKDOWN}");
    }
    log::debug!("all that the kernel's verifier said of the program {name}:\n{said}");
    anyhow!(
        "the kernel's verifier refused the program {name}: {io_error}; it said (-v shows all of it):\n{}",
        last_lines(&said)
    )
}

/// Whether a program is refused because it reads kernel memory, and the kernel is locked down.
pub(crate) fn is_for_lockdown(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { verifier_log, .. }
        if reads_kernel_memory_under_lockdown(&verifier_log.to_string()))
}

/// Whether the verifier's log says that lockdown has taken the helpers that read kernel memory (`bpf_base_func_proto`
/// and `bpf_tracing_func_proto` give none of them then). Before 6.11 it is an unknown function.
fn reads_kernel_memory_under_lockdown(said: &str) -> bool {
    said.lines().any(|line| {
        (line.contains("cannot use helper bpf_probe_read") || line.contains("unknown func bpf_probe_read"))
            && line.contains('#')
    })
}

/// Whether the kernel, or a seccomp filter before it, refused for lack of a privilege, not for the program's content.
pub(crate) fn is_for_privilege(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(Errno::EPERM as i32))
}

/// The likely cause, and the remedy. Missing capabilities are not the cause: `run` checks them first.
fn remedy(errno: Option<i32>, status: &str) -> &'static str {
    let has_filter = status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]));
    match errno.map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::ENOSYS) if has_filter => {
            "; this process has the capabilities, but also a seccomp filter, which most likely refuses bpf(2), as the \
             default profiles of container runtimes do: give it a profile that allows `bpf`"
        }
        Some(Errno::EPERM) => {
            "; this process has the capabilities, so a security module or kernel lockdown most likely refuses bpf(2): \
             see /sys/kernel/security/lockdown and the audit log"
        }
        Some(Errno::ENOSYS) => "; this kernel has no bpf(2) (CONFIG_BPF_SYSCALL)",
        Some(Errno::EMFILE | Errno::ENFILE) => "; raise the limit of file descriptors (systemd: LimitNOFILE=)",
        // The first whose compiler of BPF for arm64 has additions that fetch (ADR 19).
        _ if cfg!(target_arch = "aarch64") => "; on arm64 the agent needs Linux 5.18 or newer, with BPF",
        _ => "; the agent needs Linux 5.15 or newer, with BPF",
    }
}

fn status_of_this_process() -> String {
    std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default()
}

/// An error with its causes, without those that its own text already contains.
fn once(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::maps::MapError;
    use aya_obj::VerifierLog;

    fn errno(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno as i32)
    }

    #[test]
    fn the_last_lines_of_the_verifier_log_are_told() {
        let log: String = (0..1000).map(|line| format!("{line}: (79) r8 = *(u64 *)(r10 -96)\n\n")).collect();
        let refused =
            ProgramError::LoadError { io_error: errno(Errno::EACCES), verifier_log: VerifierLog::new(log.clone()) };
        let told = of_program("arp_xdp", &refused).to_string();
        assert!(told.contains("arp_xdp: Permission denied"), "{told}");
        assert!(told.contains("\n980: ") && told.ends_with("999: (79) r8 = *(u64 *)(r10 -96)"), "{told}");
        assert!(!told.contains("\n979: "), "{told}");
        assert_eq!(told.lines().count(), 1 + LINES);
    }

    #[test]
    fn helpers_that_lockdown_takes_are_told_as_that() {
        // As 6.12 says it, and as 6.1 does.
        for line in
            ["program of this type cannot use helper bpf_probe_read#4", "unknown func bpf_probe_read_kernel#113"]
        {
            let log = format!("8: (b7) r2 = 4   ; R2_w=4\n9: (85) call bpf_probe_read#4\n{line}\nprocessed 9 insns\n");
            let refused =
                ProgramError::LoadError { io_error: errno(Errno::EINVAL), verifier_log: VerifierLog::new(log) };
            let told = of_program("arp_pressure", &refused).to_string();
            assert!(told.contains("arp_pressure") && told.contains("/sys/kernel/security/lockdown"), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
    }

    #[test]
    fn a_map_that_is_refused_is_named_once() {
        let refused = MapError::CreateError { name: "IFACES".into(), io_error: errno(Errno::EPERM) };
        let told = of_object(&EbpfError::MapError(refused)).to_string();
        assert_eq!(told.matches("IFACES").count(), 1, "{told}");
        assert!(told.contains("IFACES`: Operation not permitted"), "{told}");
    }

    #[test]
    fn with_the_capabilities_a_refusal_is_told_as_what_it_most_likely_is() {
        let of = |errno, seccomp| {
            remedy(Some(errno as i32), &format!("Name:\tx\nSeccomp:\t{seccomp}\nSeccomp_filters:\t2\n"))
        };
        assert!(of(Errno::EPERM, 2).contains("seccomp filter"));
        assert!(of(Errno::EPERM, 0).contains("lockdown"));
        assert!(of(Errno::ENOSYS, 0).contains("CONFIG_BPF_SYSCALL"));
        assert!(of(Errno::EMFILE, 0).contains("LimitNOFILE"));
        assert!(of(Errno::EINVAL, 2).contains("the agent needs Linux 5.1"));
    }
}
