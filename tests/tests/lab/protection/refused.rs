//! What is refused before anything is attached, with one clear line.

use anyhow::Result;
use lab::{AgentOptions, needs_root, topology};

#[test]
fn policies_that_cannot_be_meant_are_refused() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    for (policies, named) in [
        (vec!["--sender-guard", "eth9=drop"], "sender-guard eth9: `interface` names no such interface"),
        (vec!["--budget", "eth*=drop"], "budget eth*: `interface` names no such interface"),
        (vec!["--budget", "cali0=drop", "cali*=count"], "budget cali0: never counts"),
        (vec!["--sender-guard", "cali*=drop", "--sender-guard", "cali*=count"], "twice"),
        (vec!["--sender-guard", "cali*=drop", "--sender-allow", "cali*=10.8.0.1/24"], "host bits"),
        (vec!["--sender-allow", "cali*=10.8.0.0/24"], "without sender-guard"),
        (vec!["--entry-limit", "cali*=drop:0"], "1..=1000000"),
        (vec!["--budget", "cali*=drop:fast"], "50/512"),
    ] {
        let mut agent = AgentOptions::new(&["cali*"]).args(&policies).spawn(lab.node())?;
        let exit = agent.wait()?;
        let log = agent.log();
        assert!(!exit.success(), "{policies:?}");
        assert!(log.contains(named) && !log.contains("panicked"), "{policies:?}: {log}");
        let links = lab.node().ip("-details link show cali0")?;
        assert!(
            !links.contains("xdp") && !lab.node().ip("link show")?.contains("clsact"),
            "nothing is attached: {links}"
        );
    }
    Ok(())
}

#[test]
fn policies_of_a_file_hold_as_those_of_the_command_line() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("arp-agent.toml");
    let policies =
        "sender-guard = [\"cali*=count\", \"cali0=drop\"]\nsender-grace = 0\nsender-allow = \"cali*=10.8.0.0/24\"\n";
    std::fs::write(&path, format!("interface = \"cali*\"\n{policies}"))?;
    let agent = AgentOptions::new(&[]).arg("--config").arg(&path).start(lab.node())?;
    super::await_guard(&agent)?;
    assert_eq!(agent.status()?.interface("cali0")["policies"][0], "sender-guard: drop");
    let p0 = lab.host("p0");
    let announce = |spa: [u8; 4]| super::request(p0, spa, spa);
    super::send(p0, &[announce([10, 8, 0, 7]), announce([10, 9, 0, 7])])?;
    assert_eq!(super::count(&agent, "cali0", "dropped", "sender_elsewhere")?, 1);
    Ok(())
}

#[test]
fn ten_thousand_allowed_prefixes_are_taken() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let mut options = AgentOptions::new(&["cali*"]).args(&["--sender-guard", "cali*=drop", "--sender-grace", "0"]);
    for number in 0..10_000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        options = options.arg("--sender-allow").arg(format!("cali*=10.{high}.{low}.0/24"));
    }
    let agent = options.start(lab.node())?;
    super::await_guard(&agent)?;
    let p0 = lab.host("p0");
    let announce = |spa: [u8; 4]| super::request(p0, spa, spa);
    // The last one on the list, and one behind it.
    super::send(p0, &[announce([10, 39, 15, 7]), announce([10, 39, 16, 7])])?;
    assert_eq!(super::count(&agent, "cali0", "dropped", "sender_elsewhere")?, 1);
    Ok(())
}
