//! What only procfs tells: `net.ipv4.conf.all.*`.

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
        Ok(Settings {
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
        })
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
    let mut digits = [0; 16];
    let len = file.read_at(&mut digits, 0)?;
    let text = str::from_utf8(&digits[..len])?;
    text.trim().parse().with_context(|| format!("{text:?}"))
}
