//! The hook on writes of sysctls: every such write makes frames pass, before it takes effect, until what came of it
//! is in the tables.

use super::bpf::Bpf;
use crate::kernel::cgroup_root;
use crate::writes::{Unread, Value, Write, Writes};
use anyhow::{Context as _, anyhow};
use arp_common::maps::{SettingWrite, names};
use aya::maps::{MapData, RingBuf};
use aya::programs::{CgroupAttachMode, CgroupSysctl};
use std::future::pending;
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use tokio::io::{Interest, unix::AsyncFd};
use tokio::time::sleep_until;
use zerocopy::FromBytes as _;

/// From one look to the next, while a write has not landed: it doubles from the first to the last.
const PAUSES: [Duration; 2] = [Duration::from_micros(125), Duration::from_millis(16)];

/// What tokio's timer cannot tell apart, and would round up to. Less than that the thread sleeps: what it keeps waiting so
/// long answers no frame anyway, because a write is in doubt.
const TIMER: Duration = Duration::from_millis(1);

/// For each moment that reading again takes, so many go by until the next time: what others write must not keep the
/// agent busy.
const REST: u32 = 4;

/// The hook, attached or not. Dropped, it detaches.
pub struct SysctlHook {
    ring: Result<AsyncFd<RingBuf<MapData>>, String>,
    writes: Writes,
    /// What was announced since all of it was in the tables.
    unread: Unread,
    lost: u64,
    pause: Duration,
    next_look: Instant,
}

impl SysctlHook {
    /// Attaches the hook if it is `wanted` and can be had.
    pub fn start(wanted: bool, bpf: &mut Bpf) -> Self {
        let ring = match wanted {
            true => attach(bpf).map_err(|error| format!("{error:#}")),
            false => Err("off".to_owned()),
        };
        match &ring {
            Ok(_) => log::info!("writes of sysctls are noticed before they take effect"),
            Err(why) => log::info!("no hook on writes of sysctls ({why}): they are looked for from time to time"),
        }
        SysctlHook {
            ring,
            writes: Writes::default(),
            unread: Unread::default(),
            lost: 0,
            pause: PAUSES[0],
            next_look: Instant::now(),
        }
    }

    /// Whether writes are noticed before they take effect.
    pub fn is_attached(&self) -> bool {
        self.ring.is_ok()
    }

    /// `attached`, or why not.
    pub fn state(&self) -> &str {
        self.ring.as_ref().err().map_or("attached", String::as_str)
    }

    /// Waits until it is time to look whether what was written has taken effect; for ever without the hook. May be
    /// dropped while it waits.
    pub async fn wait(&mut self, bpf_in_doubt: bool) {
        let Ok(ring) = &self.ring else { return pending().await };
        if !bpf_in_doubt {
            match ring.readable().await {
                // Before the looking: what comes after this wakes up again.
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => {
                    log::warn!("waiting for writes of sysctls failed: {error}");
                    self.next_look = Instant::now() + PAUSES[1];
                }
            }
        }
        let pause = self.next_look.saturating_duration_since(Instant::now());
        if pause < TIMER { std::thread::sleep(pause) } else { sleep_until(self.next_look.into()).await }
    }

    /// Looks whether everything written so far has taken effect: then gives the count up to which it has, for
    /// [`SysctlHook::settled`] once what is [`SysctlHook::unread`] has been read. `is_link`: whether the mirror knows an
    /// interface of that name.
    pub fn look(&mut self, bpf: &Bpf, is_link: impl Fn(&str) -> bool) -> Option<u64> {
        let ring = self.ring.as_mut().ok()?;
        let now = Instant::now();
        // In this order: if they are equal, no announcement up to `written` is still being made.
        let announced = bpf.writes_announced();
        let written = bpf.settings_written();
        while let Some(record) = ring.get_mut().next() {
            match SettingWrite::read_from_bytes(&record) {
                Ok(write) => {
                    let write = decoded(&write);
                    self.unread.add(write.name.as_deref());
                    self.writes.announced(write, now);
                }
                Err(_) => {
                    self.unread.add(None);
                    self.writes.lost(now);
                }
            }
        }
        let lost = bpf.writes_lost();
        if lost != self.lost {
            self.lost = lost;
            self.unread.add(None);
            self.writes.lost(now);
        }
        if self.writes.are_done(now, |name| read(name, &is_link)) && announced == written {
            self.pause = PAUSES[0];
            return Some(written);
        }
        self.next_look = now + self.pause;
        self.pause = PAUSES[1].min(self.pause * 2);
        None
    }

    /// What was written since everything was read last.
    pub fn unread(&self) -> &Unread {
        &self.unread
    }

    /// What was written up to the count is in the tables.
    pub fn settled(&mut self, bpf: &mut Bpf, written: u64) {
        self.unread = Unread::default();
        bpf.set_settings_read(written);
    }

    /// Reading the kernel again, after a look, took from `start` until now.
    pub fn rest_since(&mut self, start: Instant) {
        self.next_look = Instant::now() + start.elapsed() * REST;
    }
}

fn attach(bpf: &mut Bpf) -> anyhow::Result<AsyncFd<RingBuf<MapData>>> {
    let root = cgroup_root()?;
    let map = bpf.ebpf_mut().take_map(names::SETTING_WRITES);
    let ring = RingBuf::try_from(map.ok_or_else(|| anyhow!("the eBPF object has no map {}", names::SETTING_WRITES))?)?;
    // SAFETY: the ring buffer owns its map's descriptor, and neither replaces nor closes it while it lives.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
    let program = bpf.ebpf_mut().program_mut(names::SYSCTL_PROGRAM);
    let program: &mut CgroupSysctl =
        program.ok_or_else(|| anyhow!("the eBPF object has no program {}", names::SYSCTL_PROGRAM))?.try_into()?;
    program.load().context("the kernel refused the sysctl program")?;
    // As a BPF link the program joins those that are there, whoever has attached them (`cgroup_bpf_link_attach` allows
    // several always, and knows no flag that asks for it).
    program.attach(root, CgroupAttachMode::Single).context("attaching to the root of the cgroup tree failed")?;
    Ok(ring)
}

fn decoded(write: &SettingWrite) -> Write {
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|&byte| byte == 0)?;
        str::from_utf8(&bytes[..end]).ok().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    Write {
        name: text(&write.name),
        old: text(&write.old).and_then(|text| number(&text)),
        new: text(&write.new).and_then(|text| number(&text)),
    }
}

/// A setting, in the network namespace of the calling thread.
fn read(name: &str, is_link: impl Fn(&str) -> bool) -> Value {
    match std::fs::read_to_string(format!("/proc/sys/{name}")) {
        Ok(text) => number(&text).map_or(Value::Unknown, Value::Is),
        // net/ipv4/conf/INTERFACE/…: not to be found may also mean that it is just being taken away.
        Err(error) if error.kind() == ErrorKind::NotFound && !name.split('/').nth(3).is_none_or(is_link) => Value::Gone,
        Err(_) => Value::Unknown,
    }
}

/// A number as everybody writes it. The kernel takes more (`0x1`, `01`, blanks before it): no need to know.
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
        assert_eq!(decoded(&write), Write { name: None, old: None, new: None });
        write.name[3] = 0;
        write.new[1] = 0;
        write.old[0] = b'0';
        assert_eq!(decoded(&write), Write { name: Some("xxx".into()), old: Some(0), new: Some(1) });
    }
}
