//! What only procfs tells: `net.ipv4.conf.all.*`, and whether an arptables table is loaded.

use std::{
    fs::{self, File},
    io, mem,
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

/// The names of the tables of legacy arptables: a file that is there while the module is loaded. It is kept open from then on,
/// because opening it costs several times what reading it does.
#[derive(Default)]
pub(super) struct ArpTables {
    names: Option<File>,
    /// It was told that the file may not be read.
    told: bool,
}

impl ArpTables {
    /// Whether there is a table, in the network namespace of the calling thread; once there was one, in that of the
    /// thread that saw it first.
    pub(super) fn any(&mut self) -> Result<bool> {
        // The file of a module that was unloaded cannot be read any more; there may be another one by now.
        if let Some(any) = self.names.as_ref().and_then(|names| is_not_empty(names).ok()) {
            return Ok(any);
        }
        self.names = None;
        let path = "/proc/thread-self/net/arp_tables_names";
        match File::open(path) {
            Ok(names) => is_not_empty(self.names.insert(names)).with_context(|| format!("reading {path}")),
            // The module is not loaded.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // Its mode is 0440, and it belongs to root: what is in it may be a table.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if !mem::replace(&mut self.told, true) {
                    log::warn!(
                        "the module arp_tables is loaded, and {path} may not be read: every frame passes, because \
                         there may be a table of arptables; run as root (uid 0), give CAP_DAC_READ_SEARCH, or unload \
                         the module"
                    );
                }
                Ok(true)
            }
            Err(error) => Err(error).with_context(|| format!("opening {path}")),
        }
    }
}

fn is_not_empty(file: &File) -> io::Result<bool> {
    Ok(file.read_at(&mut [0], 0)? != 0)
}

fn number(file: &File) -> Result<i32> {
    let mut digits = [0; 16];
    let len = file.read_at(&mut digits, 0)?;
    let text = str::from_utf8(&digits[..len])?;
    text.trim().parse().with_context(|| format!("{text:?}"))
}
