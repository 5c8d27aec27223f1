//! The hook on writes of sysctls. A write of a setting of this network namespace makes frames pass before it takes
//! effect, until the new value is in the tables.

use super::cgroup::cgroup_root;
use super::sysctl_writes::{Budget, NotedWrite, PauseStep, Rest, StaleSettings, Value, Writes};
use crate::dataplane::{bpf::Bpf, refusal};
use anyhow::{Context as _, anyhow, bail};
use arp_common::maps::{SettingWrite, names};
use arp_common::settings::{EVERYBODY, IP_FORWARD, NOBODY, PROXY_ARP, PROXY_DELAY, Whose};
use aya::maps::{MapData, RingBuf};
use aya::programs::{CgroupAttachMode, CgroupSysctl, ProgramError};
use std::future::pending;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{Interest, unix::AsyncFd};
use tokio::time::sleep_until;
use zerocopy::FromBytes as _;

/// Pause between two checks while a write has not taken effect: it doubles from the first value up to the last.
const PAUSES: [Duration; 2] = [Duration::from_micros(125), Duration::from_millis(16)];

/// The resolution of tokio's timer. For shorter pauses the thread sleeps: meanwhile all frames pass anyway, because a
/// write is in doubt.
const TIMER: Duration = Duration::from_millis(1);

/// The pause after reading again, as a multiple of the time that reading took: other people's writes must not keep the
/// agent busy.
const REST: u32 = 4;

/// How often the hook is asked whose setting is read: somebody else may read one in between.
const ATTEMPTS: usize = 16;

/// The hook, attached or not. Dropping it detaches.
pub(crate) struct SysctlHook {
    ring: Result<AsyncFd<RingBuf<MapData>>, String>,
    /// Why writes of other network namespaces count as well, if they do.
    counts_all: Option<String>,
    writes: Writes,
    /// The settings that were announced and are not in the tables yet.
    stale: StaleSettings,
    lost: u64,
    pause: Duration,
    next_poll: Instant,
    /// How much time has recently been spent waiting for writes.
    budget: Budget,
    /// While this is set, no writes count.
    rest: Option<Rest>,
}

impl SysctlHook {
    /// Attaches the hook if it is `wanted` and possible.
    pub(crate) fn start(wanted: bool, bpf: &mut Bpf) -> Self {
        let attached = match wanted {
            true => attach(bpf).map_err(|error| format!("{error:#}")),
            false => Err("off".to_owned()),
        };
        let (ring, counts_all) = match attached {
            Ok((ring, counts_all)) => (Ok(ring), counts_all),
            Err(why) => (Err(why), None),
        };
        match (&ring, &counts_all) {
            (Ok(_), None) => log::info!("sysctl hook attached: writes are noticed before they take effect"),
            (Ok(_), Some(why)) => log::warn!(
                "sysctl hook attached, but frames also pass for writes of other network namespaces, because the hook cannot \
                 tell them apart: {why}"
            ),
            (Err(why), _) => log::info!("no sysctl hook ({why}): settings are polled"),
        }
        SysctlHook {
            ring,
            counts_all,
            writes: Writes::default(),
            stale: StaleSettings::default(),
            lost: 0,
            pause: PAUSES[0],
            next_poll: Instant::now(),
            budget: Budget::new(Instant::now()),
            rest: None,
        }
    }

    /// Whether writes are noticed before they take effect.
    pub(crate) fn is_attached(&self) -> bool {
        self.ring.is_ok() && self.rest.is_none()
    }

    /// `attached`; `attached: ` and why writes in other network namespaces count too; or why writes are not noticed.
    pub(crate) fn state(&self) -> String {
        match (&self.ring, self.rest, &self.counts_all) {
            (Err(why), _, _) => why.clone(),
            (Ok(_), None, None) => "attached".to_owned(),
            (Ok(_), None, Some(why)) => {
                format!("attached: writes of other network namespaces count as well ({why})")
            }
            (Ok(_), Some(_), why) => format!(
                "paused until fewer sysctls are written on this machine, because it cannot tell network namespaces apart ({})",
                why.as_deref().unwrap_or_default()
            ),
        }
    }

    /// To be called at each poll. Says whether the hook's pause has just ended: then everything must be polled once
    /// more.
    pub(crate) fn came_back(&mut self, bpf: &Bpf) -> bool {
        let Some(rest) = &mut self.rest else { return false };
        let now = Instant::now();
        match rest.next(now, bpf.written_elsewhere()) {
            PauseStep::Rest => false,
            PauseStep::Count => {
                bpf.set_netns(EVERYBODY);
                false
            }
            PauseStep::Over => {
                log::info!("sysctl hook resumed: writes are noticed before they take effect");
                self.rest = None;
                self.budget = Budget::new(now);
                true
            }
        }
    }

    /// Whether a setting changed after the agent had stopped waiting for the write: the writer was kept from its CPU
    /// for longer than that. `is_link`: as for [`SysctlHook::poll`].
    pub(crate) fn has_late_ones(&mut self, is_link: impl Fn(&str) -> bool) -> bool {
        self.writes.late_ones(Instant::now(), |name| read(name, &is_link))
    }

    /// Waits until it is time to check whether writes have taken effect; for ever without the hook. May be dropped
    /// while it waits.
    pub(crate) async fn wait(&mut self, bpf_in_doubt: bool) {
        let Ok(ring) = &self.ring else { return pending().await };
        if !bpf_in_doubt {
            match ring.readable().await {
                // Before the looking: what comes after this wakes up again.
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => {
                    log::warn!("waiting for writes of sysctls failed: {error}");
                    self.next_poll = Instant::now() + PAUSES[1];
                }
            }
        }
        let pause = self.next_poll.saturating_duration_since(Instant::now());
        if pause < TIMER { std::thread::sleep(pause) } else { sleep_until(self.next_poll.into()).await }
    }

    /// Checks whether everything written so far has taken effect. If so, gives the count of those writes, for
    /// [`SysctlHook::settled`] once [`SysctlHook::stale`] has been read again. `is_link`: whether the mirror knows an
    /// interface of that name.
    pub(crate) fn poll(&mut self, bpf: &Bpf, is_link: impl Fn(&str) -> bool) -> Option<u64> {
        let ring = self.ring.as_mut().ok()?;
        let now = Instant::now();
        // In this order: if they are equal, no announcement up to `written` is still being made.
        let announced = bpf.writes_announced();
        let written = bpf.settings_written();
        while let Some(record) = ring.get_mut().next() {
            match SettingWrite::read_from_bytes(&record) {
                Ok(write) => {
                    let write = decoded(&write);
                    self.stale.add(write.name.as_deref());
                    self.writes.announced(write, now);
                }
                Err(_) => {
                    self.stale.add(None);
                    self.writes.lost(now);
                }
            }
        }
        let lost = bpf.writes_lost();
        if lost != self.lost {
            self.lost = lost;
            self.stale.add(None);
            self.writes.lost(now);
        }
        self.budget.note(now, true);
        if self.writes.are_done(now, |name| read(name, &is_link)) && announced == written {
            self.pause = PAUSES[0];
            return Some(written);
        }
        if let Some(why) = self.counts_all.as_deref().filter(|_| self.budget.is_spent()) {
            log::warn!(
                "sysctl hook paused, settings are polled: too many sysctls are written on this machine, and the hook cannot \
                 tell network namespaces apart ({why})"
            );
            bpf.set_netns(NOBODY);
            self.rest = Some(Rest::Since(now, bpf.written_elsewhere()));
            self.budget = Budget::new(now);
            self.writes = Writes::default();
            self.stale = StaleSettings::Everything;
            return Some(bpf.settings_written());
        }
        self.next_poll = now + self.pause;
        self.pause = PAUSES[1].min(self.pause * 2);
        None
    }

    /// The settings that were written and must be read again.
    pub(crate) fn stale(&self) -> &StaleSettings {
        &self.stale
    }

    /// Notes that all writes up to this count are in the tables.
    pub(crate) fn settled(&mut self, bpf: &mut Bpf, written: u64) {
        self.stale = StaleSettings::default();
        bpf.set_settings_read(written);
        self.budget.note(Instant::now(), false);
    }

    /// Notes that reading the kernel again took from `start` until now.
    pub(crate) fn rest_since(&mut self, start: Instant) {
        self.next_poll = Instant::now() + start.elapsed() * REST;
    }
}

/// Attaches the hook. Also gives why it cannot tell whose setting is written, if it cannot.
fn attach(bpf: &mut Bpf) -> anyhow::Result<(AsyncFd<RingBuf<MapData>>, Option<String>)> {
    let root = cgroup_root()?;
    let map = bpf.ebpf_mut().take_map(names::SETTING_WRITES);
    let ring = RingBuf::try_from(map.ok_or_else(|| anyhow!("the eBPF object has no map {}", names::SETTING_WRITES))?)?;
    // SAFETY: the ring buffer owns its map's descriptor, and neither replaces nor closes it while it lives.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
    let mut counts_all = bpf.cannot_tell_whose().map(str::to_owned);
    if counts_all.is_none()
        && let Err(error) = load(bpf, names::SYSCTL_PROGRAM)
    {
        log::debug!("{error:?}");
        counts_all = Some(format!(
            "the kernel does not let the program read the network namespace of a setting: {}",
            because(&error)
        ));
    }
    let name = if counts_all.is_none() { names::SYSCTL_PROGRAM } else { names::SYSCTL_ALL_PROGRAM };
    // As a BPF link the program joins those that are there, whoever has attached them (`cgroup_bpf_link_attach` allows
    // several always, and knows no flag that asks for it).
    let program = load(bpf, name).map_err(|error| match error.downcast_ref() {
        Some(refused) => refusal::of_program(name, refused),
        None => error,
    })?;
    let attached = program.attach(root, CgroupAttachMode::Single);
    attached.context("attaching to the root of the cgroup tree failed")?;
    if counts_all.is_none() {
        // Until then everybody's writes count.
        match own_netns(bpf) {
            Ok(netns) => bpf.set_netns(netns.into()),
            Err(error) => counts_all = Some(format!("{error:#}")),
        }
    }
    Ok((ring, counts_all))
}

/// Why it cannot be loaded, in few words: `status` shows them.
fn because(error: &anyhow::Error) -> String {
    let refused = error.downcast_ref().filter(|refused| refusal::is_for_lockdown(refused));
    refused.map_or_else(|| error.root_cause().to_string(), |_| refusal::LOCKDOWN.to_owned())
}

/// A program of the hook; loads it if needed.
fn load<'a>(bpf: &'a mut Bpf, name: &str) -> anyhow::Result<&'a mut CgroupSysctl> {
    let program: &mut CgroupSysctl = bpf.program(name)?.try_into()?;
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
        Err(error) => Err(error).context("the kernel refused the sysctl program"),
    }
}

/// The number of the calling thread's network namespace, after a test: the hook must find this number from a setting of
/// the namespace. Wrong offsets in the kernel's memory would lead nowhere, or to another number.
fn own_netns(bpf: &Bpf) -> anyhow::Result<u32> {
    const NETNS: &str = "/proc/thread-self/ns/net";
    let inode = std::fs::metadata(NETNS).with_context(|| format!("reading the inode of {NETNS} failed"))?.ino();
    let netns = u32::try_from(inode).with_context(|| format!("{NETNS} has the inode {inode}"))?;
    // One of each way from a setting to its network namespace. Only interfaces have settings under `neigh` everywhere.
    let neigh = "/proc/sys/net/ipv4/neigh";
    let mut interfaces = std::fs::read_dir(neigh).with_context(|| format!("reading {neigh} failed"))?;
    let interface = interfaces.next().with_context(|| format!("{neigh} is empty"))??.path();
    let ipv4 = Path::new("/proc/sys/net/ipv4");
    let conf = ipv4.join("conf/all").join(PROXY_ARP);
    for path in [&conf, &interface.join(PROXY_DELAY), &ipv4.join(IP_FORWARD)] {
        let expected = Whose { netns, is_neigh: path.starts_with(neigh) }.word();
        let mut told = 0;
        for _ in 0..ATTEMPTS {
            bpf.ask_whose();
            let read = std::fs::read(path);
            told = bpf.told_whose();
            read.with_context(|| format!("reading {} failed", path.display()))?;
            if told == expected {
                break;
            }
        }
        if told != expected {
            let path = path.display();
            bail!("the program finds the wrong network namespace of {path}: {told:#x} instead of {expected:#x}");
        }
    }
    Ok(netns)
}

fn decoded(write: &SettingWrite) -> NotedWrite {
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|&byte| byte == 0)?;
        str::from_utf8(&bytes[..end]).ok().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    NotedWrite {
        name: text(&write.name),
        old: text(&write.old).and_then(|text| number(&text)),
        new: text(&write.new).and_then(|text| number(&text)),
    }
}

/// Reads a setting in the calling thread's network namespace.
fn read(name: &str, is_link: impl Fn(&str) -> bool) -> Value {
    match std::fs::read_to_string(format!("/proc/sys/{name}")) {
        Ok(text) => number(&text).map_or(Value::Unknown, Value::Is),
        // net/ipv4/conf/INTERFACE/…: not to be found may also mean that it is just being taken away.
        Err(error) if error.kind() == ErrorKind::NotFound && !name.split('/').nth(3).is_none_or(is_link) => Value::Gone,
        Err(_) => Value::Unknown,
    }
}

/// A number as people usually write it. The kernel also accepts `0x1`, `01` and leading blanks; these count as unknown.
fn number(text: &str) -> Option<i32> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.parse().ok().filter(|number: &i32| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_everybody_reads_alike_is_a_number() {
        assert_eq!([number("1\n"), number("0"), number("-1")], [Some(1), Some(0), Some(-1)]);
        for text in ["", "\n", "01", "0x1", " 1", "1 ", "1\n\n", "+1", "1 2", "99999999999"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_known() {
        let mut write = SettingWrite { name: [b'x'; 64], new: [b'1'; 16], old: [0; 16] };
        assert_eq!(decoded(&write), NotedWrite { name: None, old: None, new: None });
        write.name[3] = 0;
        write.new[1] = 0;
        write.old[0] = b'0';
        assert_eq!(decoded(&write), NotedWrite { name: Some("xxx".into()), old: Some(0), new: Some(1) });
    }
}
