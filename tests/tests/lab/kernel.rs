//! The lab by itself: what it builds, what it leaves behind, and that the kernel alone answers as docs/kernel-arp.md
//! says. No agent anywhere.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Result;
use lab::topology::{self, CALICO_GATEWAY, CALICO_MAC, FAR_HOST, LOCAL_TARGET, NODE_MAC, ROUTED_TARGET};
use lab::{Lab, Neighbours, needs_root, reply_bytes};

fn names_with(prefix: &str) -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("{prefix}-"))).collect()
}

#[test]
fn a_lab_leaves_no_name_behind() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let prefix = lab.prefix().to_owned();
    assert_eq!(names_with(&prefix).len(), 3, "node, external, p0");
    let held = lab.node().clone();
    drop(lab);
    assert_eq!(names_with(&prefix), Vec::<String>::new(), "though somebody holds {}", held.name());
    Ok(())
}

#[test]
fn a_lab_leaves_no_name_behind_after_a_panic() -> Result<()> {
    needs_root!();
    let mut prefix = String::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = topology::calico(1).unwrap();
        prefix = lab.prefix().to_owned();
        assert_eq!(names_with(&prefix).len(), 3);
        panic!("a test fails: this line of output is meant to be here");
    }));
    assert!(panicked.is_err() && !prefix.is_empty());
    assert_eq!(names_with(&prefix), Vec::<String>::new());
    Ok(())
}

#[test]
fn an_unfinished_lab_leaves_no_name_behind() -> Result<()> {
    needs_root!();
    let mut lab = Lab::new()?;
    let prefix = lab.prefix().to_owned();
    let error = lab.attach("p0", CALICO_MAC, "a_name_that_is_too_long", CALICO_MAC).unwrap_err();
    assert!(format!("{error:#}").contains("a_name_that_is_too_long"), "{error:#}");
    drop(lab);
    assert_eq!(names_with(&prefix), Vec::<String>::new());
    Ok(())
}

#[test]
fn sysctls_are_of_the_namespace() -> Result<()> {
    needs_root!();
    let (one, other) = (Lab::new()?, Lab::new()?);
    one.node().sysctl("net.ipv4.conf.all.arp_ignore", 7)?;
    assert_eq!(one.node().read_sysctl("net.ipv4.conf.all.arp_ignore")?, "7");
    assert_eq!(other.node().read_sysctl("net.ipv4.conf.all.arp_ignore")?, "0");
    assert_ne!(fs::read_to_string("/proc/sys/net/ipv4/conf/all/arp_ignore")?.trim(), "7");
    let error = one.node().sysctl("net.ipv4.conf.all.no_such_key", 1).unwrap_err();
    assert!(format!("{error:#}").contains("no_such_key"), "{error:#}");
    Ok(())
}

#[test]
fn a_packet_walks_by_the_kernel_alone() -> Result<()> {
    needs_root!();
    let lab = topology::calico(2)?;
    let (p0, p1) = (lab.host("p0"), lab.host("p1"));
    assert_eq!(p0.neighbour(CALICO_GATEWAY)?, None);
    assert!(p0.can_ping(p1.ip())?, "from pod to pod");
    assert!(p0.can_ping(FAR_HOST)?, "from pod to the world");
    assert_eq!(p0.neighbour(CALICO_GATEWAY)?, Some(CALICO_MAC));
    assert_eq!(p1.neighbour(CALICO_GATEWAY)?, Some(CALICO_MAC));
    Ok(())
}

#[test]
fn the_captured_reply_has_the_bytes_written_out_here() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let p0 = lab.host("p0");
    let request = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x00, 0x00, 0x00, 0x02, 0x00, 0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6,
        4, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x02, 0x00, 10, 244, 235, 132, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1,
    ];
    let reply = [
        0x02, 0x00, 0x00, 0x00, 0x02, 0x00, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6,
        4, 0x00, 0x02, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 169, 254, 1, 1, 0x02, 0x00, 0x00, 0x00, 0x02, 0x00, 10, 244,
        235, 132,
    ];
    assert_eq!(p0.who_has(CALICO_GATEWAY), request);
    assert_eq!(p0.ask(&request)?, [reply]);
    assert_eq!(reply_bytes(CALICO_MAC, p0.mac(), p0.ip(), CALICO_GATEWAY), reply);
    Ok(())
}

#[test]
fn k043_a_probe_for_a_local_address_teaches_nothing() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let p0 = lab.host("p0");
    let before = Neighbours::of(lab.node())?;
    assert_eq!(p0.ask(&p0.probe(LOCAL_TARGET))?, [reply_bytes(NODE_MAC, p0.mac(), [0; 4], LOCAL_TARGET)]);
    assert_eq!(Neighbours::of(lab.node())?, before);
    Ok(())
}

#[test]
fn silence_is_told_from_an_answer_a_thousand_times() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let p0 = lab.host("p0");
    for round in 0..1000 {
        assert_eq!(p0.ask(&p0.who_has(LOCAL_TARGET))?.len(), 1, "round {round}");
        assert_eq!(p0.ask(&p0.probe(ROUTED_TARGET))?.len(), 0, "round {round}");
    }
    Ok(())
}
