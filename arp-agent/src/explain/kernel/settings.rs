//! How a setting of an interface and that of `all` combine, and which of the two says it (include/linux/inetdevice.h).

use super::Cause;
use crate::event::{Link, Settings};
use crate::mirror::snapshot::Snapshot;
use arp_common::settings as names;
use std::fmt::{self, Display, Formatter};

/// How the two combine.
#[derive(Clone, Copy, PartialEq)]
enum Combines {
    Either,
    Highest,
    /// That of `all` does not count.
    Own,
}

/// A setting as it is effective for an interface.
pub(in crate::explain) struct InterfaceSetting<'a> {
    name: &'a str,
    key: &'static str,
    combines: Combines,
    own: i32,
    all: i32,
}

impl<'a> InterfaceSetting<'a> {
    pub(in crate::explain) fn of(snapshot: &Snapshot, link: &'a Link, key: &'static str) -> Self {
        let combines = match key {
            names::FORWARDING | names::MEDIUM_ID => Combines::Own,
            names::RP_FILTER | names::ARP_IGNORE => Combines::Highest,
            _ => Combines::Either,
        };
        let value = |settings: Option<Settings>| settings.map_or(0, |settings| value(&settings, key));
        InterfaceSetting { name: &link.name, key, combines, own: value(link.settings), all: value(snapshot.all) }
    }

    /// The value that counts.
    pub(in crate::explain) fn value(&self) -> i32 {
        match self.combines {
            Combines::Own => self.own,
            Combines::Highest => self.own.max(self.all),
            Combines::Either => i32::from(self.own != 0 || self.all != 0),
        }
    }

    pub(in crate::explain) fn is_on(&self) -> bool {
        self.value() != 0
    }

    /// Whether the interface's own value makes the effective one.
    pub(in crate::explain) fn is_own(&self) -> bool {
        match self.combines {
            Combines::Own => true,
            Combines::Highest => self.own >= self.all,
            Combines::Either => self.own != 0 || self.all == 0,
        }
    }

    /// Whether that of `all` does.
    pub(in crate::explain) fn is_all(&self) -> bool {
        match self.combines {
            Combines::Own => false,
            Combines::Highest => self.all >= self.own,
            Combines::Either => self.all != 0 || self.own == 0,
        }
    }

    /// It decides: who says what, `so` what, and in which file.
    pub(in crate::explain) fn cause(&self, so: &str) -> Cause {
        let InterfaceSetting { name, key, own, all, combines } = *self;
        let value = if combines == Combines::Either && self.is_on() { own.max(all).max(1) } else { self.value() };
        let who = match (combines, self.is_own(), self.is_all()) {
            (Combines::Own, ..) => format!("on {name} (that of `all` does not count)"),
            (_, true, true) => format!("on {name} and in `all`"),
            (_, true, false) => format!("on {name} (`all` has {all})"),
            (_, false, _) => format!("in `all` ({name} has {own})"),
        };
        let so = if so.is_empty() { String::new() } else { format!(", {so}") };
        let scopes = [(self.is_own(), name), (self.is_all(), "all")];
        let files = scopes.into_iter().filter(|(holds, _)| *holds);
        let files: Vec<String> = files.map(|(_, scope)| format!("/proc/sys/net/ipv4/conf/{scope}/{key}")).collect();
        Cause::new("sysctl", format!("{key} is {value} {who}{so}")).at(files.join(", "))
    }
}

impl Display for InterfaceSetting<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let InterfaceSetting { own, all, combines, .. } = *self;
        match combines {
            Combines::Own => write!(f, "{own} (that of all does not count)"),
            Combines::Highest => write!(f, "{own}, all {all}: as {}", self.value()),
            Combines::Either => write!(f, "{own}, all {all}: {}", if self.is_on() { "on" } else { "off" }),
        }
    }
}

/// A value by its name.
pub(in crate::explain) fn value(settings: &Settings, key: &str) -> i32 {
    macro_rules! by_name {
        ($($constant:ident $name:ident,)*) => {
            match key {
                $(stringify!($name) => settings.$name,)*
                _ => 0,
            }
        };
    }
    arp_common::for_conf!(by_name)
}

/// Sets a value by its name.
pub(in crate::explain) fn set(settings: &mut Settings, key: &str, value: i32) {
    macro_rules! by_name {
        ($($constant:ident $name:ident,)*) => {
            match key {
                $(stringify!($name) => settings.$name = value,)*
                _ => {}
            }
        };
    }
    arp_common::for_conf!(by_name);
}
