//! tar archives that are the same for the same files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

use super::Package;
use super::files::{self, File};
use crate::arch::Arch;

/// An archive to be unpacked at /.
pub(super) fn tar_gz(arch: Arch, package: &Package, files: &[File]) -> Result<PathBuf> {
    let mut all = files.to_vec();
    all.extend(files::documents()?);
    let bytes = files::gzip(&tar(&all, package.epoch)?)?;
    let path = package.out.join(format!("arp-agent-{}-{}.tar.gz", package.version, arch.machine()));
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// An archive of files and the folders that they are in, all of root.
pub(super) fn tar(files: &[File], epoch: u64) -> Result<Vec<u8>> {
    let mut folders = BTreeSet::new();
    for file in files {
        let parents = Path::new(&file.path).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
        folders.extend(parents.map(Path::to_owned));
    }
    let mut archive = Builder::new(Vec::new());
    for folder in folders {
        let mut header = header(EntryType::Directory, 0o755, 0, epoch);
        archive.append_data(&mut header, folder, &[][..])?;
    }
    let mut sorted: Vec<&File> = files.iter().collect();
    sorted.sort_by(|one, other| one.path.cmp(&other.path));
    for file in sorted {
        let mut header = header(EntryType::Regular, file.mode, file.bytes.len() as u64, epoch);
        archive.append_data(&mut header, &file.path, file.bytes.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

fn header(kind: EntryType, mode: u32, size: u64, epoch: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(epoch);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_depends_on_its_files_alone() {
        let files = [File::new("usr/b", "two"), File { mode: 0o755, ..File::new("usr/a/x", "one") }];
        let reversed: Vec<File> = files.iter().rev().cloned().collect();
        let archive = tar(&files, 7).unwrap();
        assert_eq!(archive, tar(&reversed, 7).unwrap());
        let mut read = tar::Archive::new(archive.as_slice());
        let entries = read.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            (entry.path().unwrap().display().to_string(), header.mode().unwrap(), header.mtime().unwrap())
        });
        let expected = [("usr", 0o755), ("usr/a", 0o755), ("usr/a/x", 0o755), ("usr/b", 0o644)];
        assert_eq!(entries.collect::<Vec<_>>(), expected.map(|(path, mode)| (path.to_owned(), mode, 7)));
    }
}
