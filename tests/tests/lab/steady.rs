//! The steady state of a Calico node: who answers when nothing changes but the time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::topology::{self, CALICO_GATEWAY, FAR_HOST, UPLINK_IP};
use lab::{AgentOptions, AgentStatus, Lab, needs_root, slack};

const PODS: u8 = 6;
/// Twenty re-reads at the agent's default interval.
const DURATION: Duration = Duration::from_secs(5);
/// How long after a pod's first request its second one comes. Stacks take a second or more.
const PAUSE: Duration = Duration::from_millis(200);
/// The share, per mille, of the pods' requests that the fast path is to answer from a sender's second one on.
const WANTED: u64 = 999;

#[test]
fn the_fast_path_answers_999_of_1000_requests() -> Result<()> {
    needs_root!();
    let lab = topology::calico(PODS)?;
    let agent = AgentOptions::new(&["cali*"]).default_reread().start(lab.node())?;
    let pods: Vec<String> = (0..PODS).map(|pod| format!("p{pod}")).collect();
    for pod in &pods {
        let pod = lab.host(pod);
        ensure!(pod.ask(&pod.who_has(CALICO_GATEWAY))?.len() == 1, "the kernel does not answer {}", pod.name());
    }
    thread::sleep(PAUSE);

    let before = agent.status()?;
    let (mut asked, start) = (0, Instant::now());
    while start.elapsed() < DURATION {
        for (at, pod) in pods.iter().enumerate() {
            let pod = lab.host(pod);
            let next_pod = lab.host(&pods[(at + 1) % pods.len()]).ip();
            let requests = [CALICO_GATEWAY, next_pod, FAR_HOST, UPLINK_IP].map(|target| pod.who_has(target));
            for request in &requests {
                ensure!(pod.ask(request)?.len() == 1, "no single answer to {}", pod.name());
                asked += 1;
            }
        }
    }
    let after = agent.status()?;
    let answered = total(&lab, &after) - total(&lab, &before);
    let passed: Vec<_> = pods.iter().map(|pod| after.passed(lab.host(pod).node_end())).collect();
    println!(
        "{asked} requests in {DURATION:?}, {answered} answered by the fast path; passed since the start: {passed:?}"
    );
    // Otherwise a pass more or less would decide.
    ensure!(asked > u64::from(2_000 / slack()), "only {asked} requests in {DURATION:?}");
    ensure!(answered <= asked, "{answered} answers to {asked} requests");
    ensure!(answered * 1000 >= asked * WANTED, "the fast path answered {answered} of {asked}; passed: {passed:?}");
    Ok(())
}

fn total(lab: &Lab, status: &AgentStatus) -> u64 {
    lab.hosts().map(|host| status.answered(host.node_end())).sum()
}
