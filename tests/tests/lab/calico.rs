//! A pod as Calico sets it up, and the whole walk of a packet.

use anyhow::Result;
use lab::topology::{self, CALICO_GATEWAY, CALICO_MAC, FAR_HOST, UPLINK_IP};
use lab::{Answerer, SideBySide, needs_root, reply_bytes};

fn calico_with_agent() -> Result<SideBySide> {
    SideBySide::start(|| topology::calico(2), &["cali*"])
}

#[test]
fn a_pod_learns_its_gateway_address() -> Result<()> {
    needs_root!();
    let mut parity = calico_with_agent()?;
    let p0 = parity.fast().host("p0");
    let reply = reply_bytes(CALICO_MAC, p0.mac(), p0.ip(), CALICO_GATEWAY);

    let first = parity.ask("p0", |p0| p0.who_has(CALICO_GATEWAY))?;
    assert_eq!(first.replies, std::slice::from_ref(&reply));
    assert_eq!(first.by, Answerer::kernel("neighbour_unknown"), "the kernel answers once, and learns");

    parity.agent().in_sync()?;
    let second = parity.ask("p0", |p0| p0.who_has(CALICO_GATEWAY))?;
    assert_eq!(second.replies, [reply]);
    assert_eq!(second.by, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_permanent_neighbour_is_answered_at_once() -> Result<()> {
    needs_root!();
    let mut parity = calico_with_agent()?;
    let mac = parity.fast().host("p0").mac();
    parity.node_ip(&format!("neigh replace 10.244.235.132 lladdr {mac} dev cali0 nud permanent"))?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(CALICO_GATEWAY))?.by, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_pod_may_ask_for_pods_node_and_others() -> Result<()> {
    needs_root!();
    let mut parity = calico_with_agent()?;
    parity.learn("p0", CALICO_GATEWAY)?;
    let other_pod = parity.fast().host("p1").ip();
    for target in [other_pod, UPLINK_IP, FAR_HOST] {
        let outcome = parity.ask("p0", |p0| p0.who_has(target))?;
        let p0 = parity.fast().host("p0");
        assert_eq!(outcome.replies, [reply_bytes(CALICO_MAC, p0.mac(), p0.ip(), target)], "{target:?}");
        assert_eq!(outcome.by, Answerer::FastPath, "{target:?}");
    }
    Ok(())
}

#[test]
fn a_pod_is_not_told_its_own_address() -> Result<()> {
    needs_root!();
    let mut parity = calico_with_agent()?;
    parity.learn("p0", CALICO_GATEWAY)?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(p0.ip()))?.by, Answerer::nobody("announcement"));
    assert_eq!(parity.ask("p0", |p0| p0.probe(p0.ip()))?.by, Answerer::nobody("probe_not_local"));
    Ok(())
}

#[test]
fn a_packet_walks_to_a_pod_and_beyond() -> Result<()> {
    needs_root!();
    let mut parity = calico_with_agent()?;
    for host in ["p0", "p1"] {
        parity.learn(host, CALICO_GATEWAY)?;
    }
    let before = parity.agent().status()?;
    parity.both(|lab| {
        let (p0, p1) = (lab.host("p0"), lab.host("p1"));
        assert_eq!(p0.neighbour(CALICO_GATEWAY)?, None, "the pod's own stack has not asked yet");
        assert!(p0.can_ping(p1.ip())?, "from pod to pod");
        assert!(p0.can_ping(FAR_HOST)?, "from pod to the world");
        for pod in [p0, p1] {
            assert_eq!(pod.neighbour(CALICO_GATEWAY)?, Some(CALICO_MAC), "{}", pod.name());
        }
        Ok(())
    })?;
    let after = parity.agent().status()?;
    for node_end in ["cali0", "cali1"] {
        let answered = after.answered(node_end) - before.answered(node_end);
        assert_eq!(
            answered,
            1,
            "the pod's stack asked for its gateway once, on {node_end}; {:?}",
            after.passed(node_end)
        );
    }
    parity.compare_neighbours()
}
