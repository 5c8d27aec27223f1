//! What only procfs tells, or tells without side effects: `net.ipv4.conf.*`.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

use anyhow::{Context, Result};

use crate::event::Settings;
use arp_common::settings::CONF;

/// Whether there are IPv4 settings of an interface of that name in the calling thread's network namespace, or it cannot be
/// said.
pub fn has_settings(interface: &str) -> bool {
    fs::exists(format!("/proc/sys/net/ipv4/conf/{interface}")).unwrap_or(true)
}

/// The files of `net.ipv4.conf.all`, kept open: they stay those of the network namespace in which they were
/// opened, and each read from their start gives the value of that moment.
pub(super) struct AllSettings {
    files: Vec<File>,
}

impl AllSettings {
    pub(super) fn open() -> Result<Self> {
        let open = |name| {
            let path = format!("/proc/sys/net/ipv4/conf/all/{name}");
            File::open(&path).with_context(|| format!("opening {path}"))
        };
        Ok(Self { files: CONF.into_iter().map(open).collect::<Result<_>>()? })
    }

    pub(super) fn read(&self) -> Result<Settings> {
        let mut values = [0; CONF.len()];
        for ((value, file), name) in values.iter_mut().zip(&self.files).zip(CONF) {
            *value = number(file).with_context(|| format!("reading net.ipv4.conf.all.{name}"))?;
        }
        Ok(from_values(values))
    }
}

/// `net.ipv4.conf.<interface>.*` in the calling thread's network namespace; `None` if the interface has no IPv4 settings, or
/// there is none of that name.
pub(super) fn settings(interface: &str) -> Result<Option<Settings>> {
    let mut values = [0; CONF.len()];
    for (value, name) in values.iter_mut().zip(CONF) {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/{name}");
        match File::open(&path).and_then(|file| text(&file)) {
            Ok(text) => *value = text.trim().parse().with_context(|| format!("reading {path}: {text:?}"))?,
            // Also what is read of a file that has gone since it was opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {path}")),
        }
    }
    Ok(Some(from_values(values)))
}

/// The values in the order of [`CONF`].
fn from_values(values: [i32; CONF.len()]) -> Settings {
    let [
        forwarding,
        proxy_arp,
        proxy_arp_pvlan,
        medium_id,
        arp_ignore,
        arp_filter,
        rp_filter,
        accept_local,
        route_localnet,
        drop_gratuitous_arp,
        ignore_routes_with_linkdown,
    ] = values;
    Settings {
        forwarding,
        proxy_arp,
        proxy_arp_pvlan,
        medium_id,
        arp_ignore,
        arp_filter,
        rp_filter,
        accept_local,
        route_localnet,
        drop_gratuitous_arp,
        ignore_routes_with_linkdown,
    }
}

/// `net.ipv4.neigh.<interface>.proxy_delay` in milliseconds, in the calling thread's network namespace; `None` if the
/// interface has no such setting.
pub(super) fn proxy_delay(interface: &str) -> Result<Option<u64>> {
    /// What the file counts in: USER_HZ is 100.
    const UNIT: u64 = 10;
    let path = format!("/proc/sys/net/ipv4/neigh/{interface}/proxy_delay");
    match File::open(&path) {
        Ok(file) => {
            let units = number(&file).with_context(|| format!("reading {path}"))?;
            Ok(u64::try_from(units).ok().map(|units| units * UNIT))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("opening {path}")),
    }
}

fn number(file: &File) -> Result<i32> {
    let text = text(file)?;
    text.trim().parse().with_context(|| format!("{text:?}"))
}

/// What a file with one number holds.
fn text(file: &File) -> io::Result<String> {
    let mut digits = [0; 16];
    let len = file.read_at(&mut digits, 0)?;
    String::from_utf8(digits[..len].to_vec()).map_err(io::Error::other)
}
