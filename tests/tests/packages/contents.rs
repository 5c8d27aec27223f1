//! What is in the packages, by the distribution's own checkers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::{VERSION, debian_arch, output, packages, run};

fn deb(packages: &Path) -> PathBuf {
    packages.join(format!("arp-agent_{VERSION}-1_{}.deb", debian_arch()))
}

/// The deb's files, in a folder.
fn unpacked(packages: &Path) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    output(Command::new("dpkg-deb").arg("-x").arg(deb(packages)).arg(folder.path()))?;
    Ok(folder)
}

#[test]
fn lintian_finds_neither_errors_nor_warnings_in_the_deb() -> Result<()> {
    let Some(packages) = packages() else { return Ok(()) };
    let lintian = |deb: &Path| -> Result<String> {
        let said = run(Command::new("lintian").args(["--allow-root", "--tag-display-limit", "0"]).arg(deb))?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        // 2: there are tags that fail it; others are trouble of its own.
        ensure!(said.status.code().is_some_and(|code| code == 0 || code == 2), "{said:?}");
        Ok(text)
    };
    let found = lintian(&deb(&packages))?;
    ensure!(!found.lines().any(|line| line.starts_with("E: ") || line.starts_with("W: ")), "{found}");
    // It finds what is wrong.
    let work = tempfile::tempdir()?;
    let (tree, wrong) = (work.path().join("tree"), work.path().join("wrong.deb"));
    output(Command::new("dpkg-deb").arg("-R").arg(deb(&packages)).arg(&tree))?;
    fs::remove_file(tree.join("usr/share/doc/arp-agent/copyright"))?;
    output(Command::new("dpkg-deb").args(["-Znone", "--root-owner-group", "--build"]).arg(&tree).arg(&wrong))?;
    ensure!(lintian(&wrong)?.contains("E: arp-agent: no-copyright-file"), "lintian finds nothing");
    Ok(())
}

#[test]
fn man_pages_are_formatted_without_a_warning() -> Result<()> {
    let Some(packages) = packages() else { return Ok(()) };
    let files = unpacked(&packages)?;
    let man = |page: &Path| -> Result<(usize, String)> {
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-Tutf8", "-l"])
            .arg(page)
            .env("MANWIDTH", "80")
            .env("LC_ALL", "C.UTF-8");
        let said = run(&mut man)?;
        Ok((said.stdout.len(), String::from_utf8_lossy(&said.stderr).into_owned()))
    };
    let mut pages = 0;
    for section in ["man5", "man8"] {
        for page in fs::read_dir(files.path().join("usr/share/man").join(section))? {
            let page = page?.path();
            let (length, warnings) = man(&page)?;
            ensure!(length > 200 && warnings.is_empty(), "{}: {length} bytes, {warnings}", page.display());
            pages += 1;
        }
    }
    ensure!(pages > 8, "only {pages} pages");
    let wrong = files.path().join("wrong.8");
    fs::write(&wrong, ".TH WRONG 8\n.SH NAME\nwrong \\- \\*[nothing]\n")?;
    ensure!(!man(&wrong)?.1.is_empty(), "man finds nothing");
    Ok(())
}

#[test]
fn shells_load_their_completions() -> Result<()> {
    let Some(packages) = packages() else { return Ok(()) };
    let files = unpacked(&packages)?;
    let share = files.path().join("usr/share");
    let says = |shell: &str, arguments: &[&str], script: &str| {
        output(Command::new(shell).args(arguments).args(["-c", script]).current_dir(&share).stdin(Stdio::null()))
    };
    // What each offers after `arp-agent st`.
    let bash = "source bash-completion/completions/arp-agent; COMP_WORDS=(arp-agent st); COMP_CWORD=1; \
        $(complete -p arp-agent | sed 's/.* -F \\([^ ]*\\).*/\\1/') arp-agent st arp-agent; echo \"${COMPREPLY[@]}\"";
    let fish = "source fish/vendor_completions.d/arp-agent.fish; complete -C 'arp-agent st'";
    for (shell, arguments, script) in
        [("bash", &["--norc", "--noprofile"][..], bash), ("fish", &["--no-config"][..], fish)]
    {
        let offered = says(shell, arguments, script)?;
        ensure!(offered.contains("status") && offered.contains("stats"), "{shell} offers {offered:?}");
        ensure!(!offered.contains("explain"), "{shell} offers {offered:?}");
    }
    // zsh offers nothing without a terminal: it must take the file, and bind it to the command.
    let zsh = "fpath=($PWD/zsh/vendor-completions $fpath); autoload -U compinit; compinit -D -u; \
        echo $_comps[arp-agent]; autoload +X _arp-agent && whence -w _arp-agent";
    let bound = says("zsh", &["-f"], zsh)?;
    ensure!(bound == "_arp-agent\n_arp-agent: function\n", "zsh says {bound:?}");
    Ok(())
}

#[test]
fn the_rpm_is_whole_and_for_this_processor() -> Result<()> {
    let Some(packages) = packages() else { return Ok(()) };
    let arch = std::env::consts::ARCH;
    let rpm = packages.join(format!("arp-agent-{VERSION}-1.{arch}.rpm"));
    let checked = output(Command::new("rpm").arg("-K").arg(&rpm))?;
    ensure!(checked.trim_end().ends_with("digests OK"), "{checked}");
    let said =
        output(Command::new("rpm").args(["-qp", "--qf", "%{NAME} %{ARCH} %{BUILDHOST} [%{REQUIRENAME} ]"]).arg(&rpm))?;
    ensure!(said.starts_with(&format!("arp-agent {arch} localhost ")), "{said}");
    ensure!(!said.contains(".so"), "a static binary needs no library: {said}");
    Ok(())
}

#[test]
fn sums_are_those_of_the_files() -> Result<()> {
    let Some(packages) = packages() else { return Ok(()) };
    output(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&packages))?;
    let sums = fs::read_to_string(packages.join("SHA256SUMS"))?;
    for end in [".deb", ".rpm", ".tar.gz", "-oci.tar"] {
        ensure!(sums.lines().any(|line| line.ends_with(end)), "no {end} in\n{sums}");
    }
    Ok(())
}
