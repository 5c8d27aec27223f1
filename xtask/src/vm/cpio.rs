//! The archive that a kernel unpacks as its first root: cpio in the "newc" form
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Owner root, time zero.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// Writes an archive; a file's folders come into it by themselves.
pub(super) struct Archive<W> {
    to: W,
    folders: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Archive { to, folders: BTreeSet::new(), files: BTreeSet::new() }
    }

    /// A folder, by its path from the root on.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        ends.push(path.len());
        for end in ends {
            let folder = &path[..end];
            if !folder.is_empty() && self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER | 0o755, &[])?;
            }
        }
        Ok(())
    }

    /// A file with that content; the first of a name counts.
    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.leaf(path, REGULAR | permissions, content)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, to: &str) -> io::Result<()> {
        self.leaf(path, LINK | 0o777, to.as_bytes())
    }

    fn leaf(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        if !self.files.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(folder) = Path::new(path).parent().and_then(Path::to_str) {
            self.folder(folder)?;
        }
        self.entry(path, mode, content)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| io::Error::other(format!("{name} is too large")))?;
        // An inode of its own for each, or the kernel takes files for links to each other.
        let inode = self.folders.len() + self.files.len();
        let name_size = name.len() + 1;
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            0, 0, 1, 0, 0, 0, 0, 0, 0,
        );
        self.to.write_all(header.as_bytes())?;
        self.to.write_all(name.as_bytes())?;
        self.to.write_all(&[0])?;
        self.pad(header.len() + name_size)?;
        self.to.write_all(content)?;
        self.pad(content.len())
    }

    /// To the next multiple of four.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..length.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_folders_before_files_and_a_trailer() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/a/b/c", 0o755, b"hello").unwrap();
        archive.file("a/b/c", 0o755, b"again").unwrap();
        archive.file("a/d", 0o644, b"").unwrap();
        archive.link("/e", "a/d").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let expected = [
            ("a", "000041ed", ""),
            ("a/b", "000041ed", ""),
            ("a/b/c", "000081ed", "hello"),
            ("a/d", "000081a4", ""),
            ("e", "0000a1ff", "a/d"),
            ("TRAILER!!!", "00000000", ""),
        ];
        let mut at = 0;
        for (name, mode, content) in expected {
            let field = |number: usize| {
                let from = at + 6 + 8 * number;
                std::str::from_utf8(&bytes[from..from + 8]).unwrap().to_owned()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            assert_eq!((field(1).as_str(), field(6)), (mode, format!("{:08x}", content.len())), "{name}");
            assert_eq!(field(11), format!("{:08x}", name.len() + 1));
            assert_eq!(&bytes[at + 110..at + 110 + name.len()], name.as_bytes());
            let start = (at + 110 + name.len() + 1).next_multiple_of(4);
            assert_eq!(&bytes[start..start + content.len()], content.as_bytes());
            at = (start + content.len()).next_multiple_of(4);
        }
        assert_eq!(at, bytes.len());
    }
}
