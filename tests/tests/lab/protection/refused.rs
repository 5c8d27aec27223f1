//! What is refused before anything is attached, with one clear line.

use anyhow::Result;
use lab::{AgentOptions, needs_root, topology};

#[test]
fn policies_that_cannot_be_meant_are_refused() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    for (policies, named) in [
        (vec!["--sender-guard", "eth9=drop"], "--interface does not name"),
        (vec!["--sender-guard", "cali*=drop", "--sender-guard", "cali*=count"], "twice"),
        (vec!["--sender-guard", "cali*=drop", "--sender-allow", "cali*=10.8.0.1/24"], "host bits"),
        (vec!["--sender-allow", "cali*=10.8.0.0/24"], "without --sender-guard"),
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
