//! What could see the frame first, or hold the reply back (§12.6, and K025, K028, K029, K122): while it is there, every frame
//! passes, for a reason that names it. Each is tried out three times: there before the agent, come while it runs, gone again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::tc::TcAttachType::{Egress, Ingress};
use lab::stream::{Stream, until_fast};
use lab::{AgentOptions, Answerer, Host, LOST, Lab, SideBySide, TestHook, needs_root, topology};

use super::Ask::For;
use super::Expect::{Fast, Kernel, Silent};
use super::devices::{answers, missing_device, pass_for};
use super::others;
use super::{L, X, base, rows, run, run_all, when};
use crate::foreign::{Does, TcProgram};

/// Makes `there` before an agent starts, takes it away, makes it again, takes it away. While it is there, requests for L pass for
/// `reason` and get so many answers; else the fast path answers.
fn comes_and_goes<Thing>(
    reason: &str,
    answered: usize,
    make: impl Fn(&Lab) -> Result<Thing>,
    unmake: impl Fn(&Lab, Thing) -> Result<()>,
) -> Result<()> {
    const REQUEST: fn(&Host) -> Vec<u8> = |p0| p0.who_has(L).to_vec();
    let things = std::cell::RefCell::new(Vec::new());
    let build = || {
        let lab = topology::matrix()?;
        things.borrow_mut().push(make(&lab)?);
        Ok(lab)
    };
    let mut parity = SideBySide::start(build, &["v0"])?;
    for there in ["at the start", "while it runs"] {
        let answers = pass_for(&mut parity, reason, Duration::ZERO, &[REQUEST]).with_context(|| there.to_owned())?;
        ensure!(answers == [answered], "{there}: {answers:?}, not {answered} answers");
        // In the order in which both labs got theirs.
        parity.change(|lab| unmake(lab, things.borrow_mut().remove(0)))?;
        parity.learn("p0", L)?;
        let by = parity.ask("p0", |p0| p0.who_has(L))?.by;
        ensure!(by == Answerer::FastPath, "gone after it was there {there}: {by:?}");
        if there == "at the start" {
            parity.change(|lab| {
                things.borrow_mut().push(make(lab)?);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// The same by commands.
pub(super) fn commands(reason: &str, answered: usize, make: &[&str], unmake: &[&str]) -> Result<()> {
    comes_and_goes(reason, answered, |lab| run_all(lab, make), |lab, ()| run_all(lab, unmake))
}

#[test]
fn k028_a_bridge_as_master() -> Result<()> {
    needs_root!();
    let make =
        ["link add br0 type bridge forward_delay 0 mcast_snooping 0", "link set br0 up", "link set v0 master br0"];
    // The bridge has no proxy_arp, but the node's addresses are everywhere.
    commands("interface_has_master", 1, &make, &["link del br0"])
}

const ARP_TABLE: &str = "nft add table arp t";

#[test]
fn k135_an_arp_chain_drops_what_comes_in() -> Result<()> {
    needs_root!();
    let make = [ARP_TABLE, "nft add chain arp t c { type filter hook input priority 0 ; policy drop ; }"];
    commands("arp_netfilter", 0, &make, &["nft delete table arp t"])
}

#[test]
fn k135_an_arp_chain_whose_rule_comes_later() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    let chain = "nft add chain arp t c { type filter hook input priority 0 ; }";
    parity.change(|lab| run_all(lab, &[ARP_TABLE, chain]))?;
    let ask = |parity: &mut SideBySide| Ok::<_, anyhow::Error>(parity.ask("p0", |p0| p0.who_has(L))?.by);
    assert_eq!(ask(&mut parity)?, Answerer::FastPath, "no rule, policy accept: nothing can happen to a frame");
    parity.change(|lab| run(lab, "nft add rule arp t c arp operation request drop"))?;
    assert_eq!(ask(&mut parity)?, Answerer::nobody("arp_netfilter"));
    parity.change(|lab| run(lab, "nft flush chain arp t c"))?;
    assert_eq!(ask(&mut parity)?, Answerer::FastPath);
    parity.change(|lab| run(lab, "nft chain arp t c { policy drop ; }"))?;
    assert_eq!(ask(&mut parity)?, Answerer::nobody("arp_netfilter"));
    Ok(())
}

#[test]
fn k135_arptables_drops_what_comes_in() -> Result<()> {
    needs_root!();
    let legacy = |lab: &Lab, arguments: &str| lab.node().exec(&format!("arptables-legacy {arguments}")).map(drop);
    let probe = Lab::new()?;
    if let Err(error) = legacy(&probe, "-L") {
        lab::skip(&format!("this kernel has no arptables: {error:#}"));
        return Ok(());
    }
    let mut parity = base()?;
    let mut after = |arguments: &str| -> Result<Answerer> {
        parity.change(|lab| legacy(lab, arguments))?;
        Ok(parity.ask("p0", |p0| p0.who_has(L))?.by)
    };
    // The table stays until its module or the namespace goes; without rules it is no obstacle.
    let nobody = Answerer::nobody("arp_netfilter");
    assert_eq!(after("-L")?, Answerer::FastPath);
    assert_eq!(after("-A INPUT -j DROP")?, nobody);
    assert_eq!(after("-F")?, Answerer::FastPath, "without rules again");
    assert_eq!(after("-P INPUT DROP")?, nobody, "the policy");
    assert_eq!(after("-P INPUT ACCEPT")?, Answerer::FastPath);
    assert_eq!(after("-P OUTPUT DROP")?, nobody, "what goes out");
    assert_eq!(after("-P OUTPUT ACCEPT")?, Answerer::FastPath);
    assert_eq!(after("-N own")?, Answerer::FastPath, "nothing leads to a chain of its own");
    let build = || {
        let lab = topology::matrix()?;
        legacy(&lab, "-A INPUT -j DROP")?;
        Ok(lab)
    };
    let mut parity = SideBySide::start(build, &["v0"])?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has(L))?.by, nobody, "there at the start");
    Ok(())
}

/// Also by cheap polls, the only ones for a minute where the sysctl hook is attached.
#[test]
fn arptables_rules_are_seen_coming_and_going() -> Result<()> {
    needs_root!();
    let lab = topology::matrix()?;
    let agent = AgentOptions::new(&["v0"]).sysctl_hook().default_reread().start(lab.node())?;
    let p0 = lab.host("p0");
    if lab.node().exec("arptables-legacy -L").is_err() {
        lab::skip("arptables-legacy or its module is not there");
        return Ok(());
    }
    for _ in 0..3 {
        until_fast(&agent, p0, L)?;
        let drop_all = || lab.node().exec("arptables-legacy -A INPUT -j DROP").map(drop);
        let stream = Stream::around(p0, L, Duration::from_millis(350), drop_all)?;
        println!("arptables-legacy -A: the last answer {:?} after it", stream.answered_later().1);
        assert!(stream.later().last().is_some_and(|asked| asked.replies() == 0), "{:?}", stream.asked.last());
        lab.node().exec("arptables-legacy -F")?;
    }
    until_fast(&agent, p0, L)
}

#[test]
fn k136_an_arp_chain_drops_what_goes_out() -> Result<()> {
    needs_root!();
    let make = [ARP_TABLE, "nft add chain arp t c { type filter hook output priority 0 ; policy drop ; }"];
    commands("arp_netfilter", 0, &make, &["nft delete table arp t"])
}

/// A chain of the netdev family on v0 that drops ARP alone.
fn netdev(hook: &str) -> Result<()> {
    let chain = format!("nft add chain netdev t c {{ type filter hook {hook} device v0 priority 0 ; }}");
    let make = ["nft add table netdev t", &chain, "nft add rule netdev t c meta protocol arp drop"];
    commands("ingress_hook", 0, &make, &["nft delete table netdev t"])
}

#[test]
fn k136_a_netdev_chain_drops_what_goes_out() -> Result<()> {
    needs_root!();
    netdev("egress")
}

#[test]
fn k137_a_netdev_chain_drops_what_comes_in() -> Result<()> {
    needs_root!();
    netdev("ingress")
}

/// With tc as our hook, a foreign program of tc's may be first, and ours never sees the frame.
fn takes_it_from_tc() -> bool {
    TestHook::chosen().is_ok_and(|hook| hook == TestHook::Tc)
}

/// Such a program: nobody answers while it is there.
fn taken<Thing>(attach: impl Fn(&Lab) -> Result<Thing>) -> Result<()> {
    let mut parity = base()?;
    let mut things = Vec::new();
    parity.change(|lab| {
        things.push(attach(lab)?);
        Ok(())
    })?;
    let by = parity.ask("p0", |p0| p0.who_has(L))?.by;
    ensure!(matches!(by, Answerer::Nobody(_)), "{by:?}");
    Ok(())
}

#[test]
fn k139_a_tc_filter_takes_arp_away() -> Result<()> {
    needs_root!();
    let make = [
        // There is one already where the agent's hook is tc.
        "tc qdisc replace dev v0 clsact",
        "tc filter add dev v0 ingress protocol arp u32 match u32 0 0 action mirred egress redirect dev u0",
    ];
    if takes_it_from_tc() {
        return taken(|lab| run_all(lab, &make));
    }
    commands("ingress_hook", 0, &make, &["tc qdisc del dev v0 clsact"])
}

fn detach(program: TcProgram) -> Result<()> {
    drop(program);
    Ok(())
}

#[test]
fn k139_a_tcx_program_drops_what_comes_in() -> Result<()> {
    needs_root!();
    let attach = |lab: &Lab| TcProgram::attach(lab.node(), "v0", Ingress, Does::DropArp);
    if takes_it_from_tc() {
        return taken(attach);
    }
    comes_and_goes("ingress_hook", 0, attach, |_, program| detach(program))
}

#[test]
fn k139_a_tcx_program_drops_what_goes_out() -> Result<()> {
    needs_root!();
    if takes_it_from_tc() {
        return others::check(others::AUTO, &[others::on_egress(Does::DropArp)], &Answerer::nobody(LOST));
    }
    let attach = |lab: &Lab| TcProgram::attach(lab.node(), "v0", Egress, Does::DropArp);
    comes_and_goes("ingress_hook", 0, attach, |_, program| detach(program))
}

#[test]
fn k139_a_tcx_program_that_does_nothing() -> Result<()> {
    needs_root!();
    if takes_it_from_tc() {
        return others::check(others::AUTO, &[others::first_in(Does::Nothing)], &Answerer::FastPath);
    }
    let attach = |lab: &Lab| TcProgram::attach(lab.node(), "v0", Ingress, Does::Nothing);
    comes_and_goes("ingress_hook", 1, attach, |_, program| detach(program))
}

rows! {
    k122_a_mark_set_by_an_arp_chain: [
        when(
            &[
                "route del default",
                "route add default via 10.9.0.254 table 100",
                "rule add fwmark 7 lookup 100",
            ],
            For([10, 30, 0, 1]),
            Silent("no_route"),
        ),
        when(
            &[
                ARP_TABLE,
                "nft add chain arp t c { type filter hook input priority 0 ; }",
                "nft add rule arp t c meta mark set 7",
            ],
            For([10, 30, 0, 1]),
            Kernel("arp_netfilter"),
        ),
        // Without the rule the chain alone is reason enough.
        when(&["rule del fwmark 7 lookup 100"], For(L), Kernel("arp_netfilter")),
    ];
    k138_hooks_that_do_not_see_arp: [
        when(
            &["nft add table ip t", "nft add chain ip t c { type filter hook prerouting priority -300 ; policy drop ; }"],
            For(L),
            Fast,
        ),
        when(
            &[
                "nft delete table ip t",
                "nft add table inet t",
                "nft add chain inet t c { type filter hook ingress device v0 priority 0 ; policy drop ; }",
            ],
            For(L),
            Fast,
        ),
    ];
}

#[test]
fn k122_a_mark_set_by_a_tc_program() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    parity.change(|lab| {
        run_all(
            lab,
            &[
                "route del default",
                "route add default via 10.9.0.254 table 100",
                "route add unreachable 10.9.0.9 table 100",
                "rule add fwmark 7 lookup 100",
            ],
        )
    })?;
    assert_eq!(parity.ask("p0", |p0| p0.who_has([10, 30, 0, 1]))?.by, Answerer::nobody("no_route"));
    assert_eq!(parity.ask("p0", |p0| p0.who_has(X))?.by, Answerer::FastPath);
    let mut programs = Vec::new();
    parity.change(|lab| {
        programs.push(others::first_in(Does::Mark(7)).attach(lab)?);
        Ok(())
    })?;
    // tc sees the mark; by XDP the program comes later.
    let (unrouted, routed) =
        if takes_it_from_tc() { ("no_route", "frame_marked") } else { ("ingress_hook", "ingress_hook") };
    assert_eq!(parity.ask("p0", |p0| p0.who_has([10, 30, 0, 1]))?.by, Answerer::kernel(unrouted));
    assert_eq!(parity.ask("p0", |p0| p0.who_has(X))?.by, Answerer::nobody(routed));
    Ok(())
}

/// The pod's frames get a tag beside them, as its VLAN device would leave it, or none.
fn tag(lab: &Lab) -> Result<TcProgram> {
    TcProgram::attach(lab.host("p0").namespace(), "eth0", Egress, Does::Tag(100))
}

#[test]
fn k025_a_tag_beside_the_frame() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    let mut programs = Vec::new();
    parity.change(|lab| {
        programs.push(tag(lab)?);
        Ok(())
    })?;
    let [alone, fast] = answers(&mut parity, Duration::ZERO, |p0| p0.who_has(L).to_vec())?;
    assert_eq!(alone, [[0; 0]; 0], "id 100, without a device for it: nobody answers");
    // The known exception (docs/semantics.md): XDP cannot see the tag. The other hook can.
    let seen = TestHook::chosen()? == TestHook::Tc;
    assert_eq!(fast.len(), usize::from(!seen), "{fast:02x?}");
    // The remedy that the documentation names: the tag is in the frame then.
    parity.change(|lab| lab.host("p0").namespace().exec("ethtool -K eth0 tx-vlan-offload off").map(drop))?;
    let [alone, fast] = answers(&mut parity, Duration::ZERO, |p0| p0.who_has(L).to_vec())?;
    assert_eq!((alone.len(), fast.len()), (0, 0));
    Ok(())
}

#[test]
fn a_tunnel_with_metadata_is_not_answered_on() -> Result<()> {
    needs_root!();
    if let Some(missing) = missing_device(&["vxlan"])? {
        lab::skip(&missing);
        return Ok(());
    }
    const MAKE: &str = "link add x0 type vxlan external dstport 4789";
    let lab = topology::matrix()?;
    run_all(&lab, &[MAKE, "link set x0 up"])?;
    // The tunnel has no driver mode.
    let options = AgentOptions::new(&["v0", "x*"]).args(&["--hook", "xdp", "--xdp-mode", "skb"]);
    let mut agent = options.start(lab.node())?;
    run_all(&lab, &["link add x1 type vxlan external dstport 4790", "link set x1 up"])?;
    agent.in_sync()?;
    let status = agent.status()?;
    for name in ["x0", "x1"] {
        let interface = status.interface(name);
        assert_eq!(interface["state"], "passing", "{}", status.0);
        assert!(interface["reason"].as_str().is_some_and(|reason| reason.contains("tunnel")), "{}", status.0);
    }
    assert_eq!(status.interface("v0")["state"], "answering", "{}", status.0);
    Ok(())
}
