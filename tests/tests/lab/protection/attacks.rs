//! What each policy does with the frames that it is against: `off`, `count`, `drop`.

use anyhow::Result;
use arp_common::ArpFrame;
use lab::stream::answered_of_ten;
use lab::topology::{self, CALICO_GATEWAY, FAR_HOST, UPLINK_IP};
use lab::{AgentOptions, Host, Lab, needs_root};

use super::{await_guard, count, entries, request, send, start};

/// Few enough for the neighbour table that all labs share.
const SENDERS: u8 = 60;

/// Requests of senders that the node routes by its uplink (198.18.0.0/15 is for benchmarks, RFC 2544).
fn spoofed(host: &Host) -> Vec<Vec<u8>> {
    (0..SENDERS).map(|number| request(host, [198, 18, 0, number], CALICO_GATEWAY)).collect()
}

/// Two pods, and no source validation.
fn open() -> Result<Lab> {
    let lab = topology::calico(2)?;
    for pod in ["cali0", "cali1"] {
        lab.node().sysctl(&format!("net.ipv4.conf.{pod}.rp_filter"), 0)?;
    }
    Ok(lab)
}

/// The entries of the kernel alone after these frames of p0.
fn by_the_kernel(build: impl Fn() -> Result<Lab>, frames: impl Fn(&Host) -> Vec<Vec<u8>>) -> Result<usize> {
    let lab = build()?;
    send(lab.host("p0"), &frames(lab.host("p0")))?;
    entries(&lab, "cali0")
}

#[test]
fn spoofed_senders_make_no_entry_where_the_sender_guard_drops() -> Result<()> {
    needs_root!();
    let alone = by_the_kernel(open, spoofed)?;
    assert_eq!(alone, usize::from(SENDERS), "without source validation the kernel learns each sender");
    let all = u64::from(SENDERS);
    // While the agent writes what the kernel has learnt, up to eight frames are not judged.
    let most = all - 8..=all;
    for (mode, learnt, dropped, would_drop) in
        [("off", alone, 0..=0, 0..=0), ("count", alone, 0..=0, most), ("drop", 0, all..=all, 0..=0)]
    {
        let lab = open()?;
        let policy = format!("cali*={mode}");
        let mut agent = start(&lab, &["--sender-guard", &policy, "--sender-grace", "0"])?;
        agent.in_sync()?;
        let p0 = lab.host("p0");
        send(p0, &spoofed(p0))?;
        assert_eq!(entries(&lab, "cali0")?, learnt, "{mode}");
        for (what, expected) in [("dropped", dropped), ("would_drop", would_drop)] {
            let counted = count(&agent, "cali0", what, "sender_elsewhere")?;
            assert!(expected.contains(&counted), "{mode}: {what} {counted}");
        }
        // Whoever is who it says it is, is answered all the same: the attacker, too.
        for pod in ["p0", "p1"] {
            assert_eq!(answered_of_ten(&mut agent, lab.host(pod), CALICO_GATEWAY)?, 10, "{mode}, {pod}");
        }
    }
    Ok(())
}

#[test]
fn spoofed_announcements_make_no_entry_either() -> Result<()> {
    needs_root!();
    let accepting = || {
        let lab = open()?;
        lab.node().sysctl("net.ipv4.conf.cali0.arp_accept", 1)?;
        Ok(lab)
    };
    let announcements = |host: &Host| -> Vec<Vec<u8>> {
        (0..SENDERS).map(|number| request(host, [198, 18, 1, number], [198, 18, 1, number])).collect()
    };
    assert_eq!(by_the_kernel(accepting, announcements)?, usize::from(SENDERS));
    let lab = accepting()?;
    let agent = start(&lab, &["--sender-guard", "cali*=drop", "--sender-grace", "0"])?;
    let p0 = lab.host("p0");
    send(p0, &announcements(p0))?;
    assert_eq!(entries(&lab, "cali0")?, 0);
    assert_eq!(count(&agent, "cali0", "dropped", "sender_elsewhere")?, u64::from(SENDERS));
    Ok(())
}

#[test]
fn a_pod_with_a_wide_route_causes_no_more_entries_than_its_limit() -> Result<()> {
    needs_root!();
    let wide = || {
        let lab = topology::calico(2)?;
        lab.node().ip("route add 10.66.0.0/20 dev cali0 scope link")?;
        Ok(lab)
    };
    let senders =
        |host: &Host| (0..SENDERS).map(|number| request(host, [10, 66, 1, number], CALICO_GATEWAY)).collect::<Vec<_>>();
    let alone = by_the_kernel(wide, senders)?;
    assert_eq!(alone, usize::from(SENDERS), "source validation accepts them");
    const LIMIT: usize = 20;
    for (mode, at_most, reason) in [("count", alone, "would_drop"), ("drop", LIMIT, "dropped")] {
        let lab = wide()?;
        let (p0, limit) = (lab.host("p0"), format!("cali*={mode}:{LIMIT}"));
        let mut agent = start(&lab, &["--sender-guard", "cali*=drop", "--entry-limit", &limit, "--sender-grace", "0"])?;
        // One of them before.
        assert_eq!(answered_of_ten(&mut agent, p0, CALICO_GATEWAY)?, 10, "{mode}");
        send(p0, &senders(p0))?;
        assert_eq!(count(&agent, "cali0", "dropped", "sender_elsewhere")?, 0, "they are routed back");
        let now = entries(&lab, "cali0")?;
        assert!(now <= at_most + usize::from(mode == "count"), "{mode}: {now} entries");
        let refused = count(&agent, "cali0", reason, "entry_limit")?;
        // An eighth of the room is for times at which the agent writes; and those that it has not heard of yet may be counted
        // twice for a moment.
        let expected = u64::from(SENDERS) + 1 - LIMIT as u64;
        assert!((expected..=expected + 10).contains(&refused), "{mode}: {refused}, the first ones pass");
        assert_eq!(answered_of_ten(&mut agent, p0, CALICO_GATEWAY)?, 10, "{mode}: it has its entry");
        assert_eq!(answered_of_ten(&mut agent, lab.host("p1"), CALICO_GATEWAY)?, 10, "{mode}: another pod");
        // Room comes back with the entries.
        lab.node().ip("neigh flush dev cali0 nud all")?;
        agent.in_sync()?;
        lab::wait_until(
            std::time::Duration::from_secs(5),
            || Ok(!p0.ask(&request(p0, [10, 66, 2, 1], CALICO_GATEWAY))?.is_empty()),
            || "a new sender is answered once there is room".to_owned(),
        )?;
    }
    Ok(())
}

#[test]
fn room_is_found_although_the_count_was_put_off() -> Result<()> {
    needs_root!();
    const LIMIT: u8 = 5;
    let lab = topology::calico(1)?;
    lab.node().ip("route add 10.66.0.0/20 dev cali0 scope link")?;
    // The heartbeat, which counts, too, comes every twenty seconds.
    let rare = ["--lease", "60s", "--reread-interval", "60s"];
    let options = AgentOptions::new(&["cali*"]).default_reread().args(&rare);
    let agent = options.args(&["--entry-limit", &format!("cali*=drop:{LIMIT}")]).start(lab.node())?;
    await_guard(&agent)?;
    let p0 = lab.host("p0");
    let settle = || std::thread::sleep(std::time::Duration::from_millis(150));
    let mut last = 0_u8;
    let mut is_answered = || {
        last += 1;
        Ok::<_, anyhow::Error>(!p0.ask(&request(p0, [10, 66, 1, last], CALICO_GATEWAY))?.is_empty())
    };
    for round in 0..8 {
        let mut answered = 0;
        while is_answered()? {
            answered += 1;
            assert!(answered <= LIMIT + 8, "round {round}: the limit holds");
        }
        assert!(answered >= LIMIT, "round {round}: {answered} had room");
        settle();
        assert!(!is_answered()?, "round {round}: it is full");
        settle();
        // What comes first is counted; what frees the room comes within the pause after that.
        lab.node().ip_each(
            "neigh replace 10.66.2.1 lladdr 02:00:00:00:66:01 dev cali0 nud reachable
                            neigh flush dev cali0 nud all",
        )?;
        settle();
    }
    Ok(())
}

#[test]
fn changes_of_an_address_are_limited_by_the_budget() -> Result<()> {
    needs_root!();
    const FLIPS: u8 = 60;
    let flips = |host: &Host| -> Vec<Vec<u8>> {
        let mac = |number| [2, 0, 0, 0, 0x77, number];
        (0..FLIPS).map(|number| ArpFrame::request(mac(number), host.ip(), UPLINK_IP).to_bytes().to_vec()).collect()
    };
    for (mode, dropped) in [("count", "would_drop"), ("drop", "dropped")] {
        let lab = topology::calico(1)?;
        let p0 = lab.host("p0");
        // One frame in a thousand seconds: what is taken does not come back within the test.
        let budget = format!("cali*={mode}:1/10,1/5");
        let mut agent = start(&lab, &["--budget", &budget])?;
        let before = count(&agent, "cali0", dropped, "learn_budget")?;
        assert_eq!(before, 0, "{mode}");
        send(p0, &flips(p0))?;
        let refused = count(&agent, "cali0", dropped, "learn_budget")?;
        // One more comes each second.
        let expected = u64::from(FLIPS) - 10;
        assert!((expected - 3..=expected).contains(&refused), "{mode}: {refused}");
        // Frames of no use have a budget of their own.
        let mut of_no_use = ArpFrame::request(p0.mac().bytes(), p0.ip(), FAR_HOST);
        of_no_use.arp.oper = [0, 9];
        send(p0, &vec![of_no_use.to_bytes().to_vec(); 20])?;
        let refused = count(&agent, "cali0", dropped, "other_budget")?;
        assert!((12..=15).contains(&refused), "{mode}: {refused}");

        // The node asks for the pod itself: the reply is awaited, and not charged.
        lab.node().ip("neigh flush dev cali0 nud all")?;
        agent.in_sync()?;
        assert!(lab.node().can_ping(p0.ip())?, "{mode}: the node reaches the pod");
        agent.in_sync()?;
        // By now the pod is known, and what it asks is free.
        assert_eq!(answered_of_ten(&mut agent, p0, CALICO_GATEWAY)?, 10, "{mode}");
    }
    Ok(())
}

#[test]
fn probes_that_the_fast_path_answers_are_free() -> Result<()> {
    needs_root!();
    let lab = topology::calico(1)?;
    let p0 = lab.host("p0");
    let agent = start(&lab, &["--budget", "cali*=drop:1/1,1/1"])?;
    for number in 0..20 {
        assert_eq!(p0.ask(&p0.probe(UPLINK_IP))?.len(), 1, "probe {number} for an address of the node's");
    }
    assert_eq!(count(&agent, "cali0", "dropped", "other_budget")?, 0);
    Ok(())
}
