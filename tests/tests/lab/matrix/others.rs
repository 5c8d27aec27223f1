//! K360 to K378: tc programs of others on the interface (§15). Whatever they do to ARP, they do it with the fast path as
//! without; who answers says whether it was known for certain. Each is tried out twice: there before the agent, and come
//! while it runs.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::tc::TcAttachType::{self, Egress, Ingress};
use lab::stream::{Stream, until_fast};
use lab::{Answerer, Host, LOST, Lab, SideBySide, UNCOUNTED, needs_kernel, needs_root, stretched, topology};

use super::devices::missing_device;
use super::hooks::{CLSACT, SKB, TCX, is_there, options, tc};
use super::{L, X, run_all};
use crate::foreign::does::{OK, PIPE, QUEUED, RECLASSIFY, SHOT, STOLEN, TRAP};
use crate::foreign::{Does, Place, TcProgram, drop_arp_by_xdp};

/// What the agent takes by itself.
pub(super) const AUTO: &[&str] = &["--hook", "auto"];

/// A program of others on v0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foreign(TcAttachType, Place, Does);

const fn before(does: Does) -> Foreign {
    Foreign(Ingress, Place::First, does)
}

const fn after(does: Does) -> Foreign {
    Foreign(Ingress, Place::Last, does)
}

const fn filter(does: Does) -> Foreign {
    Foreign(Ingress, Place::Filter(1), does)
}

const fn out(does: Does) -> Foreign {
    Foreign(Egress, Place::Last, does)
}

const fn filter_out(does: Does) -> Foreign {
    Foreign(Egress, Place::Filter(1), does)
}

/// Before ours, by tcx or, on a kernel without it, as a filter.
pub(super) fn first_in(does: Does) -> Foreign {
    if is_there(TCX) { before(does) } else { filter(does) }
}

/// On the way out, likewise.
pub(super) fn on_egress(does: Does) -> Foreign {
    if is_there(TCX) { out(does) } else { filter_out(does) }
}

impl Foreign {
    pub(super) fn attach(self, lab: &Lab) -> Result<TcProgram> {
        let Foreign(direction, place, does) = self;
        TcProgram::attach_at(lab.node(), "v0", direction, place, does)
    }
}

fn attach_all(lab: &Lab, foreign: &[Foreign]) -> Result<Vec<TcProgram>> {
    foreign.iter().map(|foreign| foreign.attach(lab)).collect()
}

fn fast() -> Answerer {
    Answerer::FastPath
}

/// What is expected of a program: the kernel does it, the fast path is not asked.
fn kernel() -> Answerer {
    Answerer::kernel(UNCOUNTED)
}

fn nobody() -> Answerer {
    Answerer::nobody(UNCOUNTED)
}

fn hooked() -> Answerer {
    Answerer::kernel("ingress_hook")
}

/// Two labs, an agent with this hook on one, and what others have on v0 of both.
struct Case {
    parity: SideBySide,
    programs: Vec<TcProgram>,
    hook: &'static [&'static str],
}

impl Case {
    fn start(hook: &'static [&'static str]) -> Result<Self> {
        Self::with(hook, &[])
    }

    /// With these programs there before the agent.
    fn with(hook: &'static [&'static str], foreign: &[Foreign]) -> Result<Self> {
        let programs = RefCell::new(Vec::new());
        let build = || {
            let lab = topology::matrix()?;
            programs.borrow_mut().extend(attach_all(&lab, foreign)?);
            Ok(lab)
        };
        let parity = SideBySide::start_with(build, options("v0", hook))?;
        Ok(Case { parity, programs: programs.into_inner(), hook })
    }

    /// Attaches programs while it runs.
    fn put(&mut self, foreign: &[Foreign]) -> Result<()> {
        let Case { parity, programs, .. } = self;
        parity.both(|lab| {
            programs.extend(attach_all(lab, foreign)?);
            Ok(())
        })
    }

    /// Runs commands, see [`run_all`].
    fn run(&mut self, commands: &[&str]) -> Result<()> {
        self.parity.both(|lab| run_all(lab, commands))
    }

    /// Once the agent has followed, and whatever it moves is in its place, requests for L come to that.
    fn expect(&mut self, expected: &Answerer) -> Result<()> {
        self.expect_of(|p0| p0.who_has(L).to_vec(), expected)
    }

    fn expect_of(&mut self, frame: impl Fn(&Host) -> Vec<u8>, expected: &Answerer) -> Result<()> {
        let is_hooked = matches!(expected, Answerer::Kernel(reason) if reason == "ingress_hook");
        let state = if is_hooked { "passing" } else { "answering" };
        self.notice()?;
        self.parity.agent().wait_for_interface("v0", |v0| v0["state"] == state)?;
        let by = self.parity.ask("p0", frame).with_context(|| format!("{:?}", self.hook))?.by;
        ensure!(by == *expected, "{:?}: {by:?}, not {expected:?}", self.hook);
        Ok(())
    }

    /// Has the agent poll fully. What it then detaches from is attached to at the next poll.
    fn notice(&mut self) -> Result<()> {
        (0..2).try_for_each(|_| self.parity.agent().ask("\"sync\"").map(drop))
    }

    /// Takes everything away again that was put there.
    fn clear(&mut self) -> Result<()> {
        self.programs.clear();
        self.expect(&fast()).context("without them again")
    }

    /// With these programs there for a while, requests for L come to that.
    fn check(&mut self, foreign: &[Foreign], expected: &Answerer) -> Result<()> {
        self.put(foreign)?;
        self.expect(expected).with_context(|| format!("{foreign:?}"))?;
        self.clear().with_context(|| format!("{foreign:?}"))
    }

    /// With what commands make for a while.
    fn check_commands(&mut self, make: &[&str], unmake: &[&str], expected: &Answerer) -> Result<()> {
        self.run(make)?;
        self.expect(expected).with_context(|| format!("{make:?}"))?;
        self.run(unmake)?;
        self.clear().with_context(|| format!("{unmake:?}"))
    }

    fn mode(&mut self) -> Result<String> {
        let status = self.parity.agent().status()?;
        Ok(status.interface("v0")["mode"].as_str().unwrap_or_default().to_owned())
    }
}

/// There before the agent, and come while it runs.
pub(super) fn check(hook: &'static [&'static str], foreign: &[Foreign], expected: &Answerer) -> Result<()> {
    Case::with(hook, foreign)?.expect(expected).with_context(|| format!("{foreign:?}, there before the agent"))?;
    Case::start(hook)?.check(foreign, expected)
}

/// Each hook of tc that the kernel has.
fn tc_hooks() -> impl Iterator<Item = &'static [&'static str]> {
    [TCX, CLSACT].into_iter().filter(|&hook| is_there(hook))
}

#[test]
fn k360_a_tcx_program_before_ours_returns_each_code() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    for hook in [TCX, CLSACT] {
        check(hook, &[before(Does::Nothing)], &fast())?;
        let mut case = Case::start(hook)?;
        case.check(&[before(Does::Return(OK))], &kernel())?;
        case.check(&[before(Does::Return(SHOT))], &nobody())?;
        // Whatever else it returns ends the list of tcx, and means nothing: filters come next.
        let others = if hook == TCX { kernel() } else { fast() };
        for code in [RECLASSIFY, PIPE, STOLEN, QUEUED, TRAP] {
            case.check(&[before(Does::Return(code))], &others)?;
        }
    }
    Ok(())
}

#[test]
fn k361_a_filter_before_ours_returns_each_code() -> Result<()> {
    needs_root!();
    check(CLSACT, &[filter(Does::Nothing)], &fast())?;
    let mut case = Case::start(CLSACT)?;
    for (code, expected) in [
        (OK, kernel()),
        (SHOT, nobody()),
        (STOLEN, nobody()),
        (TRAP, nobody()),
        // A program's filter takes them for UNSPEC (`cls_bpf_exec_opcode`, net/sched/cls_bpf.c).
        (RECLASSIFY, fast()),
        (PIPE, fast()),
        (QUEUED, fast()),
    ] {
        case.check(&[filter(Does::Return(code))], &expected)?;
    }
    Ok(())
}

#[test]
fn k362_a_tcx_program_that_comes_after_ours() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    for (does, expected) in [(Does::Nothing, fast()), (Does::DropArp, nobody()), (Does::Return(OK), kernel())] {
        // Ours is moved behind it.
        Case::start(TCX)?.check(&[after(does)], &expected)?;
        Case::start(CLSACT)?.check(&[after(does)], &expected)?;
    }
    // Again and again: it may have to wait for its turn (`Moves`), and until then everything passes.
    let mut case = Case::start(TCX)?;
    for _ in 0..2 {
        case.put(&[after(Does::Nothing)])?;
        case.expect(&fast())?;
    }
    case.put(&[after(Does::DropArp)])?;
    case.expect(&nobody())
}

#[test]
fn k363_what_programs_read_beside_a_reply_is_as_beside_the_kernel_s() -> Result<()> {
    needs_root!();
    for hook in tc_hooks() {
        let mut case = Case::start(hook)?;
        if is_there(TCX) {
            case.check(&[out(Does::Record)], &fast())?;
            case.check(&[before(Does::Smear), out(Does::Record)], &fast())?;
            case.check(&[before(Does::Smear), filter_out(Does::Record)], &fast())?;
        } else {
            case.check(&[filter(Does::Smear), filter_out(Does::Record)], &fast())?;
        }
    }
    Ok(())
}

#[test]
fn k364_programs_on_the_way_out() -> Result<()> {
    needs_root!();
    for hook in tc_hooks() {
        check(hook, &[on_egress(Does::Nothing)], &fast())?;
        check(hook, &[on_egress(Does::DropArp)], &Answerer::nobody(LOST))?;
        let mut case = Case::start(hook)?;
        for does in [Does::Nothing, Does::Return(OK), Does::Mark(7), Does::Record] {
            case.check(&[filter_out(does)], &fast())?;
        }
        for code in [SHOT, STOLEN] {
            case.check(&[filter_out(Does::Return(code))], &Answerer::nobody(LOST))?;
        }
    }
    Ok(())
}

#[test]
fn k365_programs_that_send_frames_elsewhere() -> Result<()> {
    needs_root!();
    for hook in tc_hooks() {
        let mut case = Case::start(hook)?;
        let u0 = case.parity.fast().node().ip_json("link show u0")?[0]["ifindex"].as_i64();
        let redirect = Does::Redirect(i32::try_from(u0.context("u0 has no index")?)?);
        case.check(&[first_in(redirect)], &nobody())?;
        case.check(&[on_egress(redirect)], &Answerer::nobody(LOST))?;
        let clsact = "tc qdisc replace dev v0 clsact";
        let action = "u32 match u32 0 0 action mirred egress redirect dev u0";
        let filter = |direction: &str| format!("tc filter add dev v0 {direction} prio 1 protocol arp {action}");
        let remove = |direction: &str| format!("tc filter del dev v0 {direction} prio 1");
        case.check_commands(&[clsact, &filter("egress")], &[&remove("egress")], &Answerer::nobody(LOST))?;
        if hook == CLSACT {
            case.check_commands(&[&filter("ingress")], &[&remove("ingress")], &nobody())?;
        }
    }
    Ok(())
}

#[test]
fn k366_filters_come_after_tcx_so_auto_takes_clsact() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    for hook in [AUTO, &["--hook", "tc"]] {
        ensure!(Case::start(hook)?.mode()? == "tcx", "{hook:?} without filters");
        for (does, expected) in [(Does::Nothing, fast()), (Does::DropArp, nobody()), (Does::Return(OK), kernel())] {
            let mut case = Case::with(hook, &[filter(does)])?;
            case.expect(&expected)?;
            ensure!(case.mode()? == "clsact", "{hook:?}, {does:?} at the start");
            case.clear()?;

            let mut case = Case::start(hook)?;
            case.put(&[filter(does)])?;
            case.parity.agent().wait_for_interface("v0", |v0| v0["mode"] == "clsact")?;
            case.expect(&expected).with_context(|| format!("{does:?} while it runs"))?;
            case.clear()?;
        }
    }
    // By name it stays what it is.
    let mut case = Case::start(TCX)?;
    case.check(&[filter(Does::Nothing)], &hooked())?;
    ensure!(case.mode()? == "tcx", "it was asked for by name");
    // Filters for other protocols are not asked.
    let other = "v0 ingress prio 1 protocol ip";
    let add = format!("tc filter add dev {other} u32 match u32 0 0 action mirred egress redirect dev u0");
    case.check_commands(&["tc qdisc replace dev v0 clsact", &add], &[&format!("tc filter del dev {other}")], &fast())
}

#[test]
fn k367_programs_that_say_for_whom_a_frame_came() -> Result<()> {
    needs_root!();
    const HOST: i32 = 0;
    const BROADCAST: i32 = 1;
    const OTHER_HOST: i32 = 3;
    for hook in tc_hooks() {
        let mut case = Case::start(hook)?;
        let others = Answerer::nobody("other_destination");
        case.check(&[first_in(Does::ChangeType(OTHER_HOST))], &others)?;
        case.check(&[first_in(Does::ChangeType(BROADCAST))], &fast())?;
        case.check(&[first_in(Does::ChangeType(HOST))], &fast())?;
        // A frame to the interface's own address is answered at once, unless it is said to be a broadcast.
        case.run(&["/net/ipv4/neigh/v0/proxy_delay=2"])?;
        let unicast = |p0: &Host| {
            let mut frame = p0.who_has(X).to_vec();
            frame[..6].copy_from_slice(&topology::NODE_MAC.bytes());
            frame
        };
        case.expect_of(unicast, &fast())?;
        case.put(&[first_in(Does::ChangeType(BROADCAST))])?;
        case.expect_of(unicast, &others)?;
        case.programs.clear();
        case.put(&[first_in(Does::ChangeType(HOST))])?;
        case.expect_of(|p0| p0.who_has(X).to_vec(), &Answerer::kernel("proxy_delay"))?;
    }
    Ok(())
}

/// How many frames the root queueing discipline of a lab's v0 has sent.
fn queued(lab: &Lab) -> Result<u64> {
    let shown: serde_json::Value = serde_json::from_str(&tc(lab, "-json -statistics qdisc show dev v0 root")?)?;
    shown[0]["packets"].as_u64().with_context(|| format!("no packets in {shown}"))
}

#[test]
fn k368_replies_wait_in_the_queue_that_the_bandwidth_plugin_makes() -> Result<()> {
    needs_root!();
    const ADD: &str = "tc qdisc add dev v0 root tbf rate 10mbit burst 16kb latency 25ms";
    for hook in tc_hooks() {
        let mut case = Case::start(hook)?;
        for there in ["while it runs", "again"] {
            case.run(&[ADD])?;
            case.expect(&fast())?;
            let sent =
                |case: &Case| Ok::<_, anyhow::Error>([queued(case.parity.alone())?, queued(case.parity.fast())?]);
            let from = sent(&case)?;
            for _ in 0..10 {
                case.parity.ask("p0", |p0| p0.who_has(L))?;
            }
            let to = sent(&case)?;
            let [alone, fast] = [to[0] - from[0], to[1] - from[1]];
            // The replies, and the lab's own markers.
            ensure!(alone >= 20 && fast >= 20, "{hook:?}, {there}: {alone} waited alone, {fast} with the fast path");
            case.run(&["tc qdisc del dev v0 root"])?;
            case.clear()?;
        }
    }
    Ok(())
}

#[test]
fn k369_the_ifb_device_that_the_bandwidth_plugin_makes() -> Result<()> {
    needs_root!();
    if let Some(missing) = missing_device(&["ifb"])? {
        lab::skip(&missing);
        return Ok(());
    }
    let make = [
        "link add ifb0 type ifb",
        "link set ifb0 up",
        "tc qdisc add dev ifb0 root tbf rate 10mbit burst 16kb latency 25ms",
        "tc qdisc add dev v0 root tbf rate 10mbit burst 16kb latency 25ms",
        "tc qdisc replace dev v0 handle ffff: ingress",
        "tc filter add dev v0 parent ffff: prio 1 protocol all u32 match u32 0 0 flowid 1:1 action mirred egress redirect dev ifb0",
    ];
    let hook = if is_there(TCX) { AUTO } else { CLSACT };
    let mut case = Case::start(hook)?;
    if hook == CLSACT {
        // There is one of its kind already.
        case.run(&["tc qdisc del dev v0 clsact"])?;
    }
    case.run(&make)?;
    // What comes back from the ifb device is not shown to tc any more: the kernel answers.
    case.expect(&kernel())?;
    case.run(&["tc qdisc del dev v0 ingress", "tc qdisc del dev v0 root"])?;
    case.expect(&fast())
}

#[test]
fn k370_policing_of_what_comes_in() -> Result<()> {
    needs_root!();
    const FILTER: &str =
        "tc filter add dev v0 ingress prio 1 protocol arp u32 match u32 0 0 action police rate 10mbit burst 16kb";
    let probe = Lab::new()?;
    run_all(&probe, &["link add v0 type veth peer name p0", "tc qdisc add dev v0 clsact"])?;
    if let Err(error) = run_all(&probe, &[FILTER]) {
        lab::skip(&format!("this kernel polices nothing: {error:#}"));
        return Ok(());
    }
    let mut case = Case::start(CLSACT)?;
    for (conform, expected) in [("continue", fast()), ("ok", kernel()), ("drop", nobody())] {
        let add = format!("{FILTER} conform-exceed drop/{conform}");
        case.check_commands(&[&add], &["tc filter del dev v0 ingress prio 1"], &expected)?;
    }
    Ok(())
}

#[test]
fn k371_several_of_each() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "tcx");
    let all = [
        before(Does::Mark(3)),
        before(Does::Nothing),
        after(Does::Smear),
        filter(Does::Nothing),
        Foreign(Ingress, Place::Filter(60_000), Does::Mark(9)),
        out(Does::Mark(4)),
        out(Does::Record),
        filter_out(Does::Nothing),
        Foreign(Egress, Place::Filter(2), Does::Record),
    ];
    for hook in [AUTO, CLSACT] {
        Case::with(hook, &all)?.expect(&fast())?;
        let mut case = Case::start(hook)?;
        case.put(&all)?;
        if hook == AUTO {
            case.parity.agent().wait_for_interface("v0", |v0| v0["mode"] == "clsact")?;
        }
        case.expect(&fast())?;
        let others = case.parity.agent().status()?.interface("v0")["others"].clone();
        ensure!(others.as_array().is_some_and(|others| others.len() >= 5), "status names them: {others}");
        case.put(&[Foreign(Ingress, Place::Filter(65_000), Does::DropArp)])?;
        case.expect(&nobody())?;
    }
    Ok(())
}

#[test]
fn k372_by_xdp_whatever_others_have_comes_later() -> Result<()> {
    needs_root!();
    let mut case = Case::start(SKB)?;
    let mut programs = vec![filter(Does::Nothing), filter_out(Does::Nothing)];
    if is_there(TCX) {
        programs.extend([before(Does::Nothing), out(Does::Nothing)]);
    }
    for program in programs {
        case.check(&[program], &hooked())?;
    }
    Ok(())
}

#[test]
fn k373_programs_that_drop_come_and_go_under_load() -> Result<()> {
    needs_root!();
    const ROUNDS: usize = 10;
    let mut cases: Vec<(&[&str], Foreign)> = vec![(CLSACT, filter(Does::DropArp))];
    if is_there(TCX) {
        cases.extend([(TCX, before(Does::DropArp)), (CLSACT, before(Does::DropArp)), (CLSACT, after(Does::DropArp))]);
    }
    for (hook, program) in cases {
        let lab = topology::matrix()?;
        let agent = options("v0", hook).start(lab.node())?;
        let p0 = lab.host("p0");
        for _ in 0..ROUNDS {
            until_fast(&agent, p0, L)?;
            let mut there = None;
            let stream = Stream::around(p0, L, Duration::from_millis(20), || {
                there = Some(program.attach(&lab)?);
                Ok(())
            })?;
            let past = stream.answered_later().0;
            ensure!(past == 0, "{hook:?}, {program:?}: {past} of {} answered past it", stream.later().count());
            drop(there);
        }
    }
    Ok(())
}

#[test]
fn k374_programs_that_ours_has_to_make_way_for_under_load() -> Result<()> {
    needs_root!();
    // What is in ours's way when it comes is answered past until it is noticed, and never after that.
    const NOTICED: Duration = Duration::from_millis(400);
    let mut cases: Vec<(&[&str], Foreign)> = vec![(CLSACT, filter_out(Does::DropArp)), (SKB, filter(Does::DropArp))];
    if is_there(TCX) {
        cases.extend([
            (TCX, after(Does::DropArp)),
            (TCX, out(Does::DropArp)),
            (CLSACT, out(Does::DropArp)),
            (AUTO, filter(Does::DropArp)),
            (SKB, before(Does::DropArp)),
        ]);
    }
    for (hook, program) in cases {
        let lab = topology::matrix()?;
        // That one is added would cut the link's traffic for a moment.
        tc(&lab, "qdisc add dev v0 clsact")?;
        let agent = options("v0", hook).default_reread().start(lab.node())?;
        let p0 = lab.host("p0");
        for _ in 0..2 {
            until_fast(&agent, p0, L)?;
            let mut there = None;
            let stream = Stream::around(p0, L, 2 * NOTICED, || {
                there = Some(program.attach(&lab)?);
                Ok(())
            })?;
            let (past, last) = stream.answered_later();
            println!("{hook:?}, {program:?}: {past} answered past it, the last {last:?} after it came");
            ensure!(last < stretched(NOTICED), "{hook:?}, {program:?}: answered past it {last:?} after it came");
            ensure!(stream.later().last().is_some_and(|asked| asked.replies() == 0), "{:?}", stream.asked.last());
            drop(there);
        }
    }
    Ok(())
}

#[test]
fn k375_where_a_reply_came_in_can_be_read_beside_it() -> Result<()> {
    needs_root!();
    // The known exception (docs/semantics.md): no program can write it.
    for hook in tc_hooks() {
        let mut case = Case::start(hook)?;
        case.put(&[on_egress(Does::RecordIngress)])?;
        case.notice()?;
        let read = |lab: &Lab| -> Result<u32> {
            let p0 = lab.host("p0");
            let replies = p0.ask(&p0.who_has(L))?;
            let bytes = replies.first().and_then(|reply| reply.get(42..46)).context("no reply with a record")?;
            Ok(u32::from_ne_bytes(bytes.try_into()?))
        };
        let v0 = case.parity.fast().node().ip_json("link show v0")?[0]["ifindex"].as_u64();
        ensure!(read(case.parity.alone())? == 0, "the kernel's own comes from nowhere");
        ensure!(Some(u64::from(read(case.parity.fast())?)) == v0, "the fast path's was the request");
    }
    Ok(())
}

#[test]
fn k376_a_filter_with_the_last_priority() -> Result<()> {
    needs_root!();
    let last = Foreign(Ingress, Place::Filter(65_535), Does::Nothing);
    // Nobody gets it once ours has it; and ours does not where somebody has it.
    let mut case = Case::with(CLSACT, &[last])?;
    case.expect(&hooked())?;
    case.clear()
}

#[test]
fn k377_filters_in_other_chains() -> Result<()> {
    needs_root!();
    let mut case = Case::start(CLSACT)?;
    // A copy of each frame leaves by u0, where nobody heeds it; what counts is what is done next.
    let filter = |chain: u32, then: &str| {
        format!(
            "tc filter add dev v0 ingress chain {chain} prio 1 protocol arp u32 match u32 0 0 \
             action mirred egress mirror dev u0 {then}"
        )
    };
    let remove = |chain: u32| format!("tc filter del dev v0 ingress chain {chain} prio 1");
    case.run(&["tc qdisc replace dev v0 clsact"])?;
    case.check_commands(&[&filter(0, "continue")], &[&remove(0)], &fast())?;
    case.check_commands(&[&filter(5, "drop")], &[&remove(5)], &fast()).context("nobody gets there")?;
    for (then, expected) in [("continue", kernel()), ("drop", nobody()), ("ok", kernel())] {
        let make = [filter(5, then), filter(0, "goto chain 5")];
        let unmake = [remove(0), remove(5)];
        let [make, unmake] = [&make, &unmake].map(|commands| commands.each_ref().map(String::as_str));
        case.check_commands(&make, &unmake, &expected)?;
    }
    Ok(())
}

#[test]
fn k378_xdp_on_socket_buffers_in_the_pod() -> Result<()> {
    needs_root!();
    needs_kernel!(6, 6, "the mark of a redirected frame");
    for hook in tc_hooks() {
        let mut case = Case::start(hook)?;
        let mut programs = Vec::new();
        case.parity.both(|lab| {
            // With GRO, as the lab has it for XDP in driver mode, replies are redirected frames from the beginning.
            lab.host("p0").namespace().exec("ethtool -K eth0 gro off")?;
            programs.push(drop_arp_by_xdp(lab.host("p0").namespace(), "eth0")?);
            Ok(())
        })?;
        case.expect(&Answerer::nobody(LOST))?;
        // The known exception (docs/semantics.md): the kernel shows no redirected frame to such a program.
        case.put(&[on_egress(Does::Nothing)])?;
        case.notice()?;
        let heard = |lab: &Lab| Ok::<_, anyhow::Error>(lab.host("p0").ask(&lab.host("p0").who_has(L))?.len());
        ensure!(heard(case.parity.alone())? == 0 && heard(case.parity.fast())? == 1, "{hook:?}");
    }
    Ok(())
}
