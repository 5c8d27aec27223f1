//! Netfilter of the ARP family, interface by interface (§1.1, K340–K352): rules that cannot match frames of v0 are no obstacle there, all
//! others are. The kernel alone has the same rules.

use anyhow::{Context, Result, ensure};
use arp_common::Lladdr;
use lab::{Answerer, Lab, SideBySide, needs_kernel, needs_root, topology};

use super::Expect::{self, Fast, Kernel, Silent};
use super::{L, base, holds, run};

const NETFILTER: &str = "arp_netfilter";
const DROPPED: Expect = Silent(NETFILTER);
const PASSED: Expect = Kernel(NETFILTER);

/// The hooks, each with how a rule names the interface there, by name and by index.
const HOOKS: [(&str, &str, &str); 2] = [("input", "iifname", "iif"), ("output", "oifname", "oif")];

/// Rules that drop frames of u0 or of all interfaces but v0. NAME and INDEX stand for what [`HOOKS`] says.
const OF_ANOTHER: [&str; 13] = [
    "NAME u0 drop",
    "NAME \"u*\" drop",
    "NAME { u0, w9 } drop",
    "NAME @these drop",
    "NAME != v0 drop",
    "NAME != \"v*\" drop",
    "NAME != { v0, w9 } drop",
    "NAME vmap { u0 : drop, w9 : drop }",
    "NAME vmap { u0 : jump drops, v0 : accept }",
    "NAME vmap @verdicts",
    "INDEX u0 drop",
    "INDEX != v0 drop",
    "INDEX { u0, lo } drop",
];

/// A table with these chains in place of what was there, in both labs, and a request for L from a sender that is known.
fn becomes(parity: &mut SideBySide, table: &str, expect: Expect) -> Result<()> {
    let mac = parity.fast().host("p0").mac();
    parity.change(|lab| {
        run(lab, &format!("neigh replace 10.5.0.5 lladdr {mac} dev v0 nud stale"))?;
        run(lab, &format!("nft flush ruleset ; add table arp t {{ {table} ; }}"))
    })?;
    let by = parity.ask("p0", |p0| p0.who_has(L)).with_context(|| table.to_owned())?.by;
    ensure!(holds(parity, expect, &by)?, "{table}: expected {expect:?}, got {by:?}");
    Ok(())
}

/// A chain at a hook, and what its rules may name. `other` is the interface in the sets.
fn chain(hook: &str, other: &str, rules: &str) -> String {
    format!(
        "set these {{ type ifname ; elements = {{ {other}, w9 }} ; }} ; \
         map verdicts {{ type ifname : verdict ; elements = {{ {other} : jump drops }} ; }} ; \
         chain drops {{ drop ; }} ; chain back {{ return ; }} ; \
         chain c {{ type filter hook {hook} priority 0 ; {rules} ; }}"
    )
}

/// Each rule at each hook: what becomes of v0's request, with names exchanged if `swapped`.
fn each_rule(rules: &[&str], swapped: bool, expect: Expect) -> Result<()> {
    let mut parity = base()?;
    for (hook, name, index) in HOOKS {
        for rule in rules {
            let rule = rule.replace("NAME", name).replace("INDEX", index);
            let (rule, other) = if swapped { (swap(&rule), "v0") } else { (rule, "u0") };
            becomes(&mut parity, &chain(hook, other, &rule), expect)?;
        }
    }
    Ok(())
}

/// u0 and v0, and names that begin so, exchanged.
fn swap(rule: &str) -> String {
    let words = [("u0", "?0"), ("\"u*", "\"?*"), ("v0", "u0"), ("\"v*", "\"u*"), ("?0", "v0"), ("\"?*", "\"v*")];
    words.into_iter().fold(rule.to_owned(), |rule, (from, to)| rule.replace(from, to))
}

/// Tables of one chain at the input hook, and what becomes of the request.
fn each_table(cases: &[(&str, Expect)]) -> Result<()> {
    let mut parity = base()?;
    cases.iter().try_for_each(|(rules, expect)| becomes(&mut parity, &chain("input", "u0", rules), *expect))
}

#[test]
fn k340_a_rule_for_another_interface() -> Result<()> {
    needs_root!();
    each_rule(&OF_ANOTHER, false, Fast)
}

#[test]
fn k341_a_rule_for_this_interface() -> Result<()> {
    needs_root!();
    each_rule(&OF_ANOTHER, true, DROPPED)
}

#[test]
fn k342_names_that_are_not_understood() -> Result<()> {
    needs_root!();
    let rules = [
        // Intervals of names, and a name beside something else.
        "NAME { \"u*\", w9 } drop",
        "meta NAME . arp saddr ip { u0 . 10.5.0.5 } drop",
    ];
    let mut parity = base()?;
    for (hook, name, _) in HOOKS {
        for rule in rules {
            becomes(&mut parity, &chain(hook, "u0", &rule.replace("NAME", name)), PASSED)?;
        }
    }
    Ok(())
}

#[test]
fn k343_what_an_earlier_rule_decides() -> Result<()> {
    needs_root!();
    each_table(&[
        ("iifname v0 accept ; drop", Fast),
        ("iifname v0 counter accept ; meta mark set 7", Fast),
        ("iifname u0 accept ; drop", DROPPED),
        ("drop ; iifname v0 accept", DROPPED),
        ("iifname v0 arp saddr ip 10.5.0.5 accept ; drop", PASSED),
        ("iifname v0 arp saddr ip 10.5.0.6 accept ; drop", DROPPED),
        ("iifname v0 return ; drop", Fast),
        ("arp operation reply drop", Fast),
        ("arp operation request drop", DROPPED),
    ])
}

#[test]
fn k344_policies() -> Result<()> {
    needs_root!();
    each_table(&[
        ("policy drop ; iifname v0 accept", Fast),
        ("policy drop ; iifname { v0, u0 } accept", Fast),
        ("policy drop ; iifname u0 accept", DROPPED),
        ("policy drop ; arp saddr ip 10.5.0.5 accept", PASSED),
        ("policy drop ; iifname v0 return ; accept", DROPPED),
        ("policy drop ; iifname v0 jump back ; accept", Fast),
        ("policy drop ; iifname v0 goto back ; accept", DROPPED),
    ])
}

#[test]
fn k345_chains_that_lead_to_others() -> Result<()> {
    needs_root!();
    each_table(&[
        ("accept", Fast),
        ("iifname u0 jump drops", Fast),
        ("iifname u0 goto drops", Fast),
        ("iifname v0 jump drops", DROPPED),
        ("iifname v0 goto drops", DROPPED),
        ("jump back ; drop", DROPPED),
        ("goto back ; drop", Fast),
        ("iifname vmap { v0 : goto back, u0 : drop } ; drop", Fast),
        ("iifname vmap { v0 : jump back, u0 : drop } ; drop", DROPPED),
        ("iifname vmap { v0 : continue } counter ; iifname vmap { v0 : accept } ; drop", Fast),
    ])
}

#[test]
fn k346_what_changes_a_frame_or_is_not_known() -> Result<()> {
    needs_root!();
    let rules = [
        "iifname IF meta mark set 7",
        "iifname IF arp saddr ether set 02:00:00:00:00:77",
        "iifname IF limit rate 1000/second accept",
        "iifname IF update @seen { arp saddr ip }",
        "iifname IF log group 3",
        "iifname IF meta mark set 7 accept",
    ];
    let mut parity = base()?;
    for rule in rules {
        for (name, expect) in [("u0", Fast), ("v0", PASSED)] {
            let seen = "set seen { type ipv4_addr ; flags dynamic,timeout ; timeout 1m ; } ; ";
            becomes(&mut parity, &(seen.to_owned() + &chain("input", "u0", &rule.replace("IF", name))), expect)?;
        }
    }
    // What goes out with another address.
    for (name, expect) in [("u0", Fast), ("v0", PASSED)] {
        let rule = format!("oifname {name} arp saddr ip set 10.1.2.3");
        becomes(&mut parity, &chain("output", "u0", &rule), expect)?;
    }
    Ok(())
}

#[test]
fn k347_rules_that_decide_nothing() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    for rules in [
        "counter",
        "log prefix \"arp\"",
        "iifname v0 counter log accept comment \"v0\"",
        "arp saddr ip 10.5.0.5 counter",
        "arp saddr ip 10.5.0.0/16 accept",
        "arp saddr ip { 10.5.0.5, 10.5.0.6 } return",
    ] {
        for hook in ["input", "output"] {
            becomes(&mut parity, &chain(hook, "u0", rules), Fast)?;
        }
    }
    Ok(())
}

#[test]
fn k348_all_base_chains_count() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    let two = |one: &str, other: &str| {
        format!(
            "chain c {{ type filter hook input priority -10 ; {one} ; }} ; \
             chain d {{ type filter hook input priority 10 ; {other} ; }}"
        )
    };
    becomes(&mut parity, &two("iifname v0 accept", "iifname u0 drop"), Fast)?;
    becomes(&mut parity, &two("iifname v0 accept", "drop"), DROPPED)?;
    becomes(&mut parity, &two("iifname v0 accept", "iifname v0 drop"), DROPPED)?;
    becomes(&mut parity, &two("policy drop ; iifname v0 accept", "iifname u0 meta mark set 7"), Fast)
}

/// The only reply, if there is one, to a request in each lab.
fn replies(parity: &SideBySide) -> Result<[usize; 2]> {
    let ask = |lab: &Lab| Ok::<_, anyhow::Error>(lab.host("p0").ask(&lab.host("p0").who_has(L))?.len());
    Ok([ask(parity.alone())?, ask(parity.fast())?])
}

fn reason(parity: &mut SideBySide, interface: &str) -> Result<String> {
    let status = parity.agent().status()?;
    Ok(status.interface(interface)["reason"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn k349_rules_follow_names_and_indexes() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 2, "renaming of an interface that is up");
    let mut parity = SideBySide::start(topology::matrix, &["v*"])?;
    becomes(&mut parity, &chain("input", "u0", "iifname v1 drop"), Fast)?;
    parity.node_ip("link set v0 name v1")?;
    assert_eq!(replies(&parity)?, [0, 0], "it has the name now");
    let why = reason(&mut parity, "v1")?;
    assert!(why.contains("nft rule arp t c handle"), "{why}");
    parity.node_ip("link set v1 name v0")?;
    let by = parity.ask("p0", |p0| p0.who_has(L))?.by;
    assert_eq!(by, Answerer::FastPath, "no longer");

    becomes(&mut parity, &chain("input", "u0", "iif v0 drop"), DROPPED)?;
    parity.node_ip("link set v0 name v1")?;
    assert_eq!(replies(&parity)?, [0, 0], "the index is the same");
    becomes_named_otherwise(&mut parity, "iifname v0 drop")?;
    assert_eq!(replies(&parity)?, [1, 1], "it had that name");
    Ok(())
}

/// Another chain, while v0 has another name.
fn becomes_named_otherwise(parity: &mut SideBySide, rules: &str) -> Result<()> {
    let table = chain("input", "u0", rules);
    parity.change(|lab| run(lab, &format!("nft flush ruleset ; add table arp t {{ {table} ; }}")))
}

#[test]
fn k350_an_interface_that_comes_later() -> Result<()> {
    needs_root!();
    let mut parity = SideBySide::start(topology::matrix, &["v*"])?;
    becomes(&mut parity, &chain("input", "u0", "iifname \"v7*\" drop"), Fast)?;
    let come = |lab: &mut Lab, last: u8| -> Result<()> {
        let (pod, node_end) = (format!("p{last}"), format!("v{last}"));
        let mac = Lladdr::new([2, 0, 0, 0, 5, last]);
        lab.attach(&pod, mac, &node_end, topology::NODE_MAC)?;
        lab.host(&pod).namespace().ip(&format!("addr add 10.5.0.{last}/32 dev eth0"))?;
        lab.node().ip(&format!("route add 10.5.0.{last}/32 dev {node_end} scope link"))?;
        lab.node().ip(&format!("neigh add 10.5.0.{last} lladdr {mac} dev {node_end} nud permanent")).map(drop)
    };
    // One that the rule is for, and one that it is not for.
    for (last, answered) in [(71, false), (8, true)] {
        let (pod, node_end) = (format!("p{last}"), format!("v{last}"));
        parity.both(|lab| come(lab, last))?;
        let mut settled = 0;
        // The first requests may come before the agent knows of it.
        for _ in 0..200 {
            let ask = |lab: &Lab| {
                let mut request = lab.host(&pod).probe(L).to_vec();
                request[28..32].copy_from_slice(&[10, 5, 0, last]);
                Ok::<_, anyhow::Error>(lab.host(&pod).ask(&request)?.len())
            };
            let [alone, fast] = [ask(parity.alone())?, ask(parity.fast())?];
            ensure!([alone, fast] == [usize::from(answered); 2], "{node_end}: {alone} answers, and {fast}");
            let status = parity.agent().status()?;
            let interface = status.interface(&node_end);
            settled += usize::from(interface["reason_id"] == NETFILTER || interface["state"] == "answering");
            if settled == 10 {
                break;
            }
        }
        ensure!(settled == 10, "{node_end} is not attached to");
        assert_eq!(reason(&mut parity, &node_end)?.contains("nft rule arp t c"), !answered);
    }
    Ok(())
}

#[test]
fn k351_arptables_by_interface() -> Result<()> {
    needs_root!();
    let legacy = |lab: &Lab, arguments: &str| lab.node().exec(&format!("arptables-legacy {arguments}")).map(drop);
    if let Err(error) = legacy(&Lab::new()?, "-L") {
        lab::skip(&format!("this kernel has no arptables: {error:#}"));
        return Ok(());
    }
    let cases: &[(&[&str], Expect)] = &[
        (&["-A INPUT -i u0 -j DROP"], Fast),
        (&["-A INPUT -i u+ -j DROP"], Fast),
        (&["-A INPUT ! -i v0 -j DROP"], Fast),
        (&["-A INPUT ! -i v+ -j DROP"], Fast),
        (&["-A OUTPUT -o u0 -j DROP"], Fast),
        (&["-A OUTPUT ! -o v0 -j DROP"], Fast),
        (&["-A INPUT -i v0 -j DROP"], DROPPED),
        (&["-A INPUT -i v+ -j DROP"], DROPPED),
        (&["-A INPUT ! -i u0 -j DROP"], DROPPED),
        (&["-A OUTPUT -o v0 -j DROP"], DROPPED),
        (&["-A OUTPUT -o v+ -j DROP"], DROPPED),
        (&["-A INPUT -i v0 -j ACCEPT", "-A INPUT -j DROP"], Fast),
        (&["-A INPUT -j DROP", "-A INPUT -i v0 -j ACCEPT"], DROPPED),
        (&["-A INPUT -i v0 -s 10.5.0.6 -j ACCEPT", "-A INPUT -j DROP"], DROPPED),
        (&["-A INPUT -i v0 -s 10.5.0.5 -j ACCEPT", "-A INPUT -j DROP"], PASSED),
        (&["-A INPUT -i v0 -j ACCEPT", "-P INPUT DROP"], Fast),
        (&["-A INPUT -i u0 -j ACCEPT", "-P INPUT DROP"], DROPPED),
        (&["-P FORWARD DROP", "-A FORWARD -j DROP"], Fast),
        (&["-A INPUT --opcode 2 -j DROP"], Fast),
        (&["-A INPUT --opcode 1 -j DROP"], DROPPED),
        (&["-N own", "-A own -j DROP"], Fast),
        (&["-N own", "-A own -j DROP", "-A INPUT -i u0 -j own"], Fast),
        (&["-N own", "-A own -j DROP", "-A INPUT -i v0 -j own"], DROPPED),
        (&["-N own", "-A own -i v0 -j RETURN", "-A own -j DROP", "-A INPUT -j own"], Fast),
        (&["-A OUTPUT -o u0 -j mangle --mangle-ip-s 10.1.2.3"], Fast),
        (&["-A OUTPUT -o v0 -j mangle --mangle-ip-s 10.1.2.3"], PASSED),
        (&["-A INPUT -i v0"], Fast),
    ];
    let mut parity = base()?;
    let mac = parity.fast().host("p0").mac();
    let empty = ["-F", "-X", "-P INPUT ACCEPT", "-P OUTPUT ACCEPT", "-P FORWARD ACCEPT"];
    for &(commands, expect) in cases {
        parity.change(|lab| {
            run(lab, &format!("neigh replace 10.5.0.5 lladdr {mac} dev v0 nud stale"))?;
            empty.iter().chain(commands).try_for_each(|command| legacy(lab, command))
        })?;
        let by = parity.ask("p0", |p0| p0.who_has(L)).with_context(|| format!("{commands:?}"))?.by;
        ensure!(holds(&mut parity, expect, &by)?, "{commands:?}: expected {expect:?}, got {by:?}");
    }
    Ok(())
}

#[test]
fn k352_replies_about_one_address_are_held_back() -> Result<()> {
    needs_root!();
    let mut parity = base()?;
    // Of any table: what it drops is known, and the kernel would say it on v0.
    let rule = |address: &str| format!("oifname v0 arp operation reply arp saddr ip {address} drop");
    becomes(&mut parity, &chain("output", "u0", &rule("10.77.0.1")), DROPPED)?;
    // The pod's own address, of which nobody else there is told.
    becomes(&mut parity, &chain("output", "u0", &rule("10.5.0.5")), Fast)
}
