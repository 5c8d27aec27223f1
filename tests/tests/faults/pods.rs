//! As many pods as a node has, that start at once under all policies.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::topology::{self, FAR_HOST};
use lab::{AgentOptions, needs_root, wait_until};

/// More than Kubernetes lets a node have by default (110), and what large nodes are configured for.
const PODS: u8 = 250;
/// How long the first ping of each may take while all of them start; a lost frame would cost a second.
const FIRST: Duration = Duration::from_secs(30);

#[test]
fn long_two_hundred_and_fifty_pods_that_start_at_once() -> Result<()> {
    needs_root!();
    let _turn = crate::turn();
    let mut lab = topology::calico(0)?;
    let each = ["sender-guard", "entry-limit", "budget", "binding", "unresolved-budget"];
    let policies: Vec<String> = each.iter().flat_map(|policy| [format!("--{policy}"), "cali*=drop".into()]).collect();
    let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
    let agent = AgentOptions::new(&["cali*"]).args(&policies).start(lab.node())?;
    let begin = Instant::now();
    for pod in 0..PODS {
        topology::add_calico_pod(&mut lab, pod)?;
        ensure!(lab.host(&format!("p{pod}")).namespace().can_ping(FAR_HOST)?, "p{pod} reaches the world at once");
    }
    println!("{PODS} pods, one after the other: {:?}", begin.elapsed());
    // And all of them once more, as after the node's start: none is known, each announces itself and asks.
    lab.node().ip("neigh flush all nud all").context("flushing the node's entries")?;
    let begin = Instant::now();
    let lab = &lab;
    let reached = thread::scope(|scope| {
        let pods: Vec<_> = (0..PODS)
            .map(|pod| {
                scope.spawn(move || {
                    let host = lab.host(&format!("p{pod}"));
                    host.namespace().ip("neigh flush dev eth0 nud all")?;
                    host.ask(&arp_common::ArpFrame::request(host.mac().bytes(), host.ip(), host.ip()).to_bytes())?;
                    host.namespace().can_ping(FAR_HOST)
                })
            })
            .collect();
        pods.into_iter().map(|pod| pod.join().unwrap_or_else(|_| Ok(false))).collect::<Result<Vec<bool>>>()
    })?;
    println!("all at once: {:?}", begin.elapsed());
    ensure!(begin.elapsed() < FIRST, "it took {:?}", begin.elapsed());
    ensure!(reached.iter().all(|&reached| reached), "{} reach the world", reached.iter().filter(|&&is| is).count());
    let are_guarded = || {
        let status = agent.status()?;
        let guards = (0..PODS).map(|pod| status.interface(&format!("cali{pod}"))["guard"].clone());
        Ok(guards.filter(|guard| guard.as_str().is_some_and(|guard| guard.starts_with("attached"))).count() == 250)
    };
    wait_until(Duration::from_secs(10), are_guarded, || "every pod's interface is guarded".to_owned())?;
    let status = agent.status()?;
    ensure!(status.0["dropped"].as_object().is_some_and(serde_json::Map::is_empty), "{}", status.0["dropped"]);
    Ok(())
}
