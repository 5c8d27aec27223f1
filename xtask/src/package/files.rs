//! The files of every package, and where they go.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};

use crate::paths;

/// A file of a package.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Without the leading slash.
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
    /// The administrator's: an upgrade keeps it as it is.
    pub(super) is_config: bool,
}

impl File {
    pub(super) fn new(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        File { path: path.into(), bytes: bytes.into(), mode: 0o644, is_config: false }
    }

    pub(super) fn write_below(&self, root: &Path) -> Result<()> {
        let path = root.join(&self.path);
        let folder = path.parent().unwrap_or(root);
        // Whatever umask this runs under.
        for folder in folder.ancestors().take_while(|folder| folder.starts_with(root) && !folder.exists()) {
            make_public(folder)?;
        }
        fs::write(&path, &self.bytes)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(self.mode)))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn make_public(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot create {}", folder.display()))
}

/// What all packages hold. `pages`: the folder with man pages and completions.
pub(super) fn all(binary: Vec<u8>, pages: &Path) -> Result<Vec<File>> {
    let mut files = vec![
        File { mode: 0o755, ..File::new("usr/sbin/arp-agent", binary) },
        File { is_config: true, ..File::new("etc/arp-agent/arp-agent.toml", settings()?) },
        File::new("usr/lib/systemd/system/arp-agent.service", source("packaging/arp-agent.service")?),
        File::new("usr/lib/systemd/system/arp-agent.service.d/group.conf", source("packaging/group.conf")?),
        File::new("usr/lib/sysusers.d/arp-agent.conf", source("packaging/sysusers.conf")?),
    ];
    for section in ["man5", "man8"] {
        let folder = pages.join(section);
        for page in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let page = page?;
            let text = fs::read(page.path()).with_context(|| format!("cannot read {}", page.path().display()))?;
            let path = format!("usr/share/man/{section}/{}.gz", page.file_name().to_string_lossy());
            files.push(File::new(path, gzip(&text)?));
        }
    }
    for (made, path) in [
        ("arp-agent.bash", "usr/share/bash-completion/completions/arp-agent"),
        ("_arp-agent", "usr/share/zsh/vendor-completions/_arp-agent"),
        ("arp-agent.fish", "usr/share/fish/vendor_completions.d/arp-agent.fish"),
    ] {
        let from = pages.join("completions").join(made);
        files.push(File::new(path, fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?));
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

/// The sample of all settings, which are comments in it; but for the interfaces, without which no agent starts.
fn settings() -> Result<String> {
    let sample = String::from_utf8(source("packaging/arp-agent.toml")?)?;
    let with_interface = sample.replacen("#interface = ", "interface = ", 1);
    anyhow::ensure!(with_interface != sample, "packaging/arp-agent.toml has no line `#interface = …`");
    Ok(with_interface)
}

/// The licences and the list of changes, for packages that keep no other record of them.
pub(super) fn documents() -> Result<Vec<File>> {
    ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md"]
        .into_iter()
        .map(|name| Ok(File::new(format!("usr/share/doc/arp-agent/{name}"), source(name)?)))
        .collect()
}

/// A file of the repository.
pub(super) fn source(name: &str) -> Result<Vec<u8>> {
    let path = paths::root().join(name);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Compressed without the time and the name.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}
