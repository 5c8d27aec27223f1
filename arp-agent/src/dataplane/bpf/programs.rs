//! The programs of the object: each is loaded when it is first needed, and can be run on a frame.

use super::Bpf;
use crate::dataplane::HookKind;
use crate::dataplane::refusal;
use anyhow::{Context as _, anyhow};
use arp_common::ArpFrame;
use arp_common::deviation::names as by_policy;
use arp_common::maps::names;
use arp_common::shadow::names as shadow;
use arp_common::trace::names as traced;
use aya::maps::{MapData, ProgramArray};
use aya::programs::{
    Program, ProgramFd, SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions, TestRunResult, Xdp,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use zerocopy::transmute;

/// What the loaded program did with a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct ProgramRun {
    /// XDP_PASS, XDP_TX … or TC_ACT_*.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// TC_ACT_UNSPEC (include/uapi/linux/pkt_cls.h): the frame is left to whoever comes next.
pub const TC_ACT_UNSPEC: u32 = u32::MAX;
/// TC_ACT_SHOT: the frame is dropped.
pub const TC_ACT_SHOT: u32 = 2;
/// TC_ACT_REDIRECT.
pub const TC_ACT_REDIRECT: u32 = 7;
/// XDP_PASS (include/uapi/linux/bpf.h).
pub const XDP_PASS: u32 = 2;
/// XDP_TX.
pub const XDP_TX: u32 = 3;
/// XDP_REDIRECT.
pub const XDP_REDIRECT: u32 = 4;

/// The actions with which the program of a hook passes and replies.
pub fn actions(how: HookKind) -> (u32, u32) {
    match how {
        HookKind::XdpSkb | HookKind::XdpDriver => (XDP_PASS, XDP_TX),
        HookKind::XdpVeth => (XDP_PASS, XDP_REDIRECT),
        HookKind::Tcx | HookKind::Clsact => (TC_ACT_UNSPEC, TC_ACT_REDIRECT),
    }
}

/// In which manner the programs answer: there is a set of them for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As the kernel would, and never else.
    #[default]
    AsTheKernel,
    /// The same, and what policies answer besides.
    ByPolicy,
    /// Not at all: what would be done is noted.
    Shadow,
}

impl Manner {
    /// The program for a hook. Where the kernel knows frames in several buffers (5.18), it is the one that takes them as
    /// they are. `is_traced`: the one that also tells of each frame.
    fn program(self, is_traced: bool, how: HookKind, knows_frags: bool) -> &'static str {
        let (xdp, xdp_frags, xdp_veth, tc) = match (self, is_traced) {
            (Manner::AsTheKernel, false) => {
                (names::XDP_PROGRAM, names::XDP_FRAGS_PROGRAM, names::XDP_VETH_PROGRAM, names::TC_PROGRAM)
            }
            (Manner::AsTheKernel, true) => (traced::XDP, traced::XDP_FRAGS, traced::XDP_VETH, traced::TC),
            (Manner::ByPolicy, false) => (
                by_policy::XDP_PROGRAM,
                by_policy::XDP_FRAGS_PROGRAM,
                by_policy::XDP_VETH_PROGRAM,
                by_policy::TC_PROGRAM,
            ),
            (Manner::ByPolicy, true) => {
                (traced::XDP_POLICY, traced::XDP_FRAGS_POLICY, traced::XDP_VETH_POLICY, traced::TC_POLICY)
            }
            (Manner::Shadow, false) => {
                (shadow::XDP_PROGRAM, shadow::XDP_FRAGS_PROGRAM, shadow::XDP_VETH_PROGRAM, shadow::TC_PROGRAM)
            }
            (Manner::Shadow, true) => {
                (traced::XDP_SHADOW, traced::XDP_FRAGS_SHADOW, traced::XDP_VETH_SHADOW, traced::TC_SHADOW)
            }
        };
        match how {
            HookKind::XdpSkb | HookKind::XdpDriver if knows_frags => xdp_frags,
            HookKind::XdpSkb | HookKind::XdpDriver => xdp,
            HookKind::XdpVeth => xdp_veth,
            HookKind::Tcx | HookKind::Clsact => tc,
        }
    }
}

/// What is attached for a hook: a stub, whose jump leads to the program proper.
#[derive(Clone, Debug)]
pub struct EntryProgram {
    /// The stub.
    pub program: Arc<ProgramFd>,
    /// Its identifier.
    pub id: u32,
}

/// The stubs that are loaded, and the arrays that they jump through. The kernel empties an array when the last of its
/// descriptors is closed, so no other process may ever have one, and nothing may pin it.
#[derive(Default)]
pub(super) struct Stubs {
    arrays: BTreeMap<&'static str, ProgramArray<MapData>>,
    entries: BTreeMap<&'static str, EntryProgram>,
}

impl Bpf {
    /// What is attached for a hook, with its jump in place.
    ///
    /// # Errors
    /// The verifier refuses.
    pub fn entry(&mut self, how: HookKind) -> anyhow::Result<EntryProgram> {
        let (stub, array) = stub_and_jump(how, self.knows_frags());
        if let Some(entry) = self.stubs.entries.get(stub) {
            return Ok(entry.clone());
        }
        let proper = self.proper(how)?;
        let program = self.program(stub)?;
        let refused = |error| refusal::of_program(stub, &error);
        let info = match program {
            Program::Xdp(xdp) => xdp.load().map_err(refused).and_then(|()| Ok(xdp.info()?))?,
            Program::SchedClassifier(tc) => tc.load().map_err(refused).and_then(|()| Ok(tc.info()?))?,
            _ => return Err(anyhow!("the eBPF object has another kind of program {stub}")),
        };
        let entry = EntryProgram { program: Arc::new(program.fd()?.try_clone()?), id: info.id() };
        if !self.stubs.arrays.contains_key(array) {
            let map = self.ebpf_mut().take_map(array).ok_or_else(|| anyhow!("the eBPF object has no map {array}"))?;
            self.stubs.arrays.insert(array, ProgramArray::try_from(map)?);
        }
        let jump = self.stubs.arrays.get_mut(array).ok_or_else(|| anyhow!("no array {array}"))?;
        jump.set(0, &proper, 0).with_context(|| format!("setting the jump of the program {stub} failed"))?;
        self.stubs.entries.insert(stub, entry.clone());
        Ok(entry)
    }

    /// The program that a hook's stub jumps to.
    fn proper(&mut self, how: HookKind) -> anyhow::Result<ProgramFd> {
        let proper = if how.is_xdp() { self.xdp_for(how)?.fd() } else { self.tc()?.fd() };
        Ok(proper?.try_clone()?)
    }

    /// Has all stubs jump to the programs that tell of each frame, or back to those that do not, and unloads the others.
    /// No frame is missed: the kernel replaces a jump at once.
    ///
    /// # Errors
    /// The verifier refuses; then no jump has changed. Or the kernel does not change one.
    pub(super) fn set_traced(&mut self, is_traced: bool) -> anyhow::Result<()> {
        if self.is_traced == is_traced {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.is_traced, is_traced);
        let knows_frags = self.knows_frags();
        let hooks = [HookKind::XdpSkb, HookKind::XdpVeth, HookKind::Tcx];
        let in_use: Vec<HookKind> = hooks
            .into_iter()
            .filter(|&how| self.stubs.entries.contains_key(stub_and_jump(how, knows_frags).0))
            .collect();
        // All of them are there before one is put in place.
        let ready: anyhow::Result<Vec<ProgramFd>> = in_use.iter().map(|&how| self.proper(how)).collect();
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => {
                self.is_traced = before;
                return Err(error);
            }
        };
        for (&how, program) in in_use.iter().zip(&ready) {
            let (stub, array) = stub_and_jump(how, knows_frags);
            let jump = self.stubs.arrays.get_mut(array).with_context(|| format!("no array {array}"))?;
            jump.set(0, program, 0).with_context(|| format!("setting the jump of the program {stub} failed"))?;
        }
        if before {
            for how in hooks {
                match self.program(self.manner.program(true, how, knows_frags))? {
                    Program::Xdp(program) if program.fd().is_ok() => program.unload()?,
                    Program::SchedClassifier(program) if program.fd().is_ok() => program.unload()?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The identifier of the tc stub, if it is loaded.
    pub fn tc_id(&self) -> Option<u32> {
        self.stubs.entries.get(names::TC_STUB).map(|entry| entry.id)
    }

    /// The XDP program for a hook. Where the kernel knows frames in several buffers (5.18), it is the one that takes
    /// them as they are.
    ///
    /// # Errors
    /// The verifier refuses, or the hook is not XDP.
    pub fn xdp_for(&mut self, how: HookKind) -> anyhow::Result<&mut Xdp> {
        if !how.is_xdp() {
            return Err(anyhow!("{how:?} is not XDP"));
        }
        let name = self.manner.program(self.is_traced, how, self.knows_frags());
        let program: &mut Xdp = self.program(name)?.try_into()?;
        if program.fd().is_err() {
            program.load().map_err(|error| refusal::of_program(name, &error))?;
        }
        Ok(program)
    }

    /// The XDP program for socket buffers.
    ///
    /// # Errors
    /// The verifier refuses.
    pub fn xdp(&mut self) -> anyhow::Result<&mut Xdp> {
        self.xdp_for(HookKind::XdpSkb)
    }

    /// The tc program.
    ///
    /// # Errors
    /// The verifier refuses.
    pub fn tc(&mut self) -> anyhow::Result<&mut SchedClassifier> {
        let name = self.manner.program(self.is_traced, HookKind::Tcx, self.knows_frags());
        let program: &mut SchedClassifier = self.program(name)?.try_into()?;
        if program.fd().is_err() {
            program.load().map_err(|error| refusal::of_program(name, &error))?;
        }
        Ok(program)
    }

    /// Runs what is attached for a hook on a frame, as if it had come in on `ingress` (BPF_PROG_TEST_RUN; the context needs
    /// Linux 5.15). The program counts the frame like any other.
    ///
    /// # Errors
    /// The kernel refuses: the interface is not in this namespace, or the frame is shorter than 14 bytes.
    pub fn run_on(&mut self, how: HookKind, ingress: u32, frame: &[u8]) -> anyhow::Result<ProgramRun> {
        let mut out = vec![0; frame.len().max(ArpFrame::LEN)];
        self.entry(how)?;
        let result = match self.program(stub_and_jump(how, self.knows_frags()).0)? {
            Program::Xdp(stub) => stub.test_run(options(frame, &mut out, &xdp_context(frame, ingress))),
            Program::SchedClassifier(stub) => stub.test_run(options(frame, &mut out, &skb_context(ingress))),
            other => return Err(anyhow!("{other:?} is neither XDP nor tc")),
        };
        let TestRunResult { return_value, data_size_out, .. } =
            result.context("running the loaded program on a frame failed")?;
        out.truncate(data_size_out as usize);
        Ok(ProgramRun { action: return_value, frame: out })
    }

    /// Sends a frame out of an interface, `count` times, the way that replies of a hook go.
    ///
    /// # Errors
    /// The verifier or the interface refuses.
    pub fn send_probes(&mut self, how: HookKind, ifindex: u32, frame: &[u8], count: u32) -> anyhow::Result<()> {
        let name = if how == HookKind::XdpVeth { names::XDP_PROBE } else { names::TC_PROBE };
        let options = TestRunOptions { data_in: Some(frame), repeat: count, ..TestRunOptions::default() };
        let refused = || format!("running the program {name} failed");
        if how == HookKind::XdpVeth {
            let program: &mut Xdp = self.program(name)?.try_into()?;
            if program.fd().is_err() {
                program.load().map_err(|error| refusal::of_program(name, &error))?;
            }
            // Live: the frames really go where the program sends them.
            let context = xdp_context(frame, ifindex);
            let attrs = TestRunAttrs::new().xdp_live_frames(count);
            program.test_run(TestRunOptions { ctx_in: Some(&context), attrs, ..options }).with_context(refused)?;
        } else {
            let program: &mut SchedClassifier = self.program(name)?.try_into()?;
            if program.fd().is_err() {
                program.load().map_err(|error| refusal::of_program(name, &error))?;
            }
            let context = skb_context(ifindex);
            program.test_run(TestRunOptions { ctx_in: Some(&context), ..options }).with_context(refused)?;
        }
        Ok(())
    }

    /// [`Bpf::run_on`] the XDP program.
    ///
    /// # Errors
    /// As there.
    pub fn run(&mut self, ingress: u32, frame: &[u8]) -> anyhow::Result<ProgramRun> {
        self.run_on(HookKind::XdpSkb, ingress, frame)
    }
}

/// Runs a tc program on a frame, as if it had come in on `ingress`.
pub(super) fn run_tc(program: &mut SchedClassifier, ingress: u32, frame: &[u8]) -> anyhow::Result<ProgramRun> {
    let mut out = vec![0; frame.len().max(ArpFrame::LEN)];
    let result = program.test_run(options(frame, &mut out, &skb_context(ingress)));
    let TestRunResult { return_value, data_size_out, .. } = result.context("running a tc program on a frame failed")?;
    out.truncate(data_size_out as usize);
    Ok(ProgramRun { action: return_value, frame: out })
}

/// The stub of a hook, and the array that it jumps through.
fn stub_and_jump(how: HookKind, knows_frags: bool) -> (&'static str, &'static str) {
    match how {
        HookKind::XdpSkb | HookKind::XdpDriver if knows_frags => (names::XDP_FRAGS_STUB, names::JUMP_XDP_FRAGS),
        HookKind::XdpSkb | HookKind::XdpDriver => (names::XDP_STUB, names::JUMP_XDP),
        HookKind::XdpVeth => (names::XDP_VETH_STUB, names::JUMP_XDP_VETH),
        HookKind::Tcx | HookKind::Clsact => (names::TC_STUB, names::JUMP_TC),
    }
}

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
fn xdp_context(frame: &[u8], ingress: u32) -> [u8; 24] {
    transmute!([0, frame.len() as u32, 0, ingress, 0, 0])
}

/// `struct __sk_buff` as far as `ifindex`, the only field here that is not 0.
fn skb_context(ifindex: u32) -> [u8; 44] {
    transmute!([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ifindex])
}

fn options<'a>(frame: &'a [u8], out: &'a mut [u8], context: &'a [u8]) -> TestRunOptions<'a> {
    TestRunOptions { data_in: Some(frame), data_out: Some(out), ctx_in: Some(context), ..TestRunOptions::default() }
}
