//! The benchmarks' own eBPF programs: see bench-ebpf.

use std::time::{Duration, Instant};

use lab::Namespace;

use anyhow::{Context as _, Result, anyhow, ensure};
use arp_common::ArpFrame;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, MapData, PerCpuArray, ProgramArray};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::xdp::XdpMode;
use aya::programs::{
    Program, ProgramFd, SchedClassifier, TcAttachType, TestRun, TestRunAttrs, TestRunOptions, TestRunResult, Xdp,
};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};

/// The object, as `build.rs` made it; empty in a debug build.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-ebpf"));

/// How many targets there are to choose from.
pub(crate) const CHOICES: usize = 1 << 20;
/// Live frames that are sent at once: what NAPI takes at once.
const LIVE_BATCH: u32 = 64;

/// Loaded programs and maps; unloaded when dropped.
pub(crate) struct LoadedPrograms {
    ebpf: Ebpf,
    request: Array<MapData, [u32; 12]>,
    targets: Array<MapData, [u32; 2]>,
    discarded: PerCpuArray<MapData, u64>,
    next: ProgramArray<MapData>,
    routes: LpmTrie<MapData, [u8; 4], u32>,
}

/// Which targets the requests have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Targets {
    /// Always the first.
    Same,
    /// All of them, one after the other.
    All,
}

/// How a tc program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tc {
    Clsact,
    Tcx,
}

/// The result of many runs of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    /// CPU time of one run, in ns.
    pub(crate) ns: f64,
    /// What the last one returned.
    pub(crate) action: u32,
}

impl LoadedPrograms {
    /// Without the memory of the program `wall`.
    pub(crate) fn load() -> Result<Self> {
        Self::load_with_blocks(1)
    }

    /// With so many KiB of memory for the program `wall`.
    pub(crate) fn load_with_blocks(blocks: u32) -> Result<Self> {
        ensure!(!OBJECT.is_empty(), "the benchmarks' eBPF programs are in release builds only: use cargo xtask bench");
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("BLOCKS", blocks)
            .load(OBJECT)
            .context("loading the benchmarks' eBPF object")?;
        for (name, program) in ebpf.programs_mut() {
            let loaded = match program {
                Program::SchedClassifier(program) => program.load(),
                program => <&mut Xdp>::try_from(program)?.load(),
            };
            loaded.with_context(|| format!("the kernel's verifier refused the benchmarks' program {name}"))?;
        }
        let mut take =
            |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the benchmarks' eBPF object has no map {name}"));
        Ok(LoadedPrograms {
            request: Array::try_from(take("REQUEST")?)?,
            targets: Array::try_from(take("TARGETS")?)?,
            discarded: PerCpuArray::try_from(take("DISCARDED")?)?,
            next: ProgramArray::try_from(take("NEXT")?)?,
            routes: LpmTrie::try_from(take("ROUTES")?)?,
            ebpf,
        })
    }

    /// The program of that name.
    pub(crate) fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// The tc program of that name.
    pub(crate) fn tc(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// Sets the request that `feed` writes. Its target is one of `targets`, which are repeated as often as needed.
    pub(crate) fn set_request(&mut self, frame: &ArpFrame, targets: &[[u8; 4]]) -> Result<()> {
        ensure!(!targets.is_empty(), "a request needs a target");
        let targets: Vec<[u8; 4]> = targets.iter().copied().cycle().take(CHOICES).collect();
        for (index, pair) in targets.chunks_exact(2).enumerate() {
            self.targets
                .set(index as u32, [pair[0], pair[1]].map(u32::from_ne_bytes), 0)
                .context("writing a target")?;
        }
        self.set_frame(frame)
    }

    /// Sets the request that `feed` writes, always with the same target.
    pub(crate) fn set_frame(&mut self, frame: &ArpFrame) -> Result<()> {
        let mut words = [0; 12];
        for (word, bytes) in words.iter_mut().zip(frame.to_bytes().chunks(4)) {
            let mut whole = [0; 4];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u32::from_ne_bytes(whole);
        }
        let second = self.targets.get(&0, 0)?[1];
        self.targets.set(0, [u32::from_ne_bytes(frame.arp.tpa), second], 0).context("writing a target")?;
        self.request.set(0, words, 0).context("writing the request")
    }

    /// Attaches one of these programs to an interface; it is detached when `self` is dropped.
    pub(crate) fn attach(&mut self, name: &str, on: &Namespace, interface: &str, mode: XdpMode) -> Result<()> {
        let program = self.xdp(name)?;
        let attached = on.run(|| program.attach(interface, mode))?;
        attached.with_context(|| format!("attaching {name} to {interface}"))?;
        Ok(())
    }

    /// The same with a tc program, on ingress; by clsact the filter is for every protocol.
    pub(crate) fn attach_tc(&mut self, name: &str, on: &Namespace, interface: &str, by: Tc) -> Result<()> {
        let program = self.tc(name)?;
        let attached = on.run(|| -> Result<()> {
            let options = match by {
                Tc::Clsact => {
                    qdisc_add_clsact(interface).context("adding a clsact")?;
                    TcAttachOptions::Netlink(NlOptions::default())
                }
                Tc::Tcx => TcAttachOptions::TcxOrder(LinkOrder::last()),
            };
            program.attach_with_options(interface, TcAttachType::Ingress, options)?;
            Ok(())
        })?;
        attached.with_context(|| format!("attaching {name} to {interface}"))
    }

    /// Chooses among the targets.
    pub(crate) fn choose(&mut self, targets: Targets) -> Result<()> {
        let mut request = self.request.get(&0, 0)?;
        request[11] = if targets == Targets::Same { 0 } else { u32::MAX };
        self.request.set(0, request, 0).context("choosing the targets")
    }

    /// Adds routes to hosts for the program `lpm`.
    pub(crate) fn add_route(&mut self, addr: [u8; 4], len: u32) -> Result<()> {
        self.routes.insert(&Key::new(len, addr), 1, 0).context("adding a route to the LPM trie")
    }

    /// How many frames `discard` dropped.
    pub(crate) fn discarded(&self) -> Result<u64> {
        Ok(self.discarded.get(&0, 0)?.iter().sum())
    }

    /// Runs one of these programs `repeat` times on requests.
    pub(crate) fn feed_own(&mut self, name: &str, ingress: u32, repeat: u32) -> Result<Runs> {
        let fd = self.xdp(name)?.fd()?.try_clone()?;
        self.feed(&fd, ingress, repeat)
    }

    /// Places a program behind `feed`, for [`LoadedPrograms::run_placed`].
    pub(crate) fn place(&mut self, program: &ProgramFd) -> Result<()> {
        self.next.set(0, program, 0).context("placing a program behind `feed`")
    }

    /// Runs the placed program on one request, and gives what it returned. (To place it anew each time would make the
    /// kernel rewrite code, and stop every core for that.)
    pub(crate) fn run_placed(&mut self, ingress: u32) -> Result<u32> {
        Ok(run(self.xdp("feed")?, ingress, &[0; ArpFrame::LEN], 1)?.action)
    }

    /// Runs a program `repeat` times, each time on a fresh request, which the program `feed` writes for it.
    pub(crate) fn feed(&mut self, program: &ProgramFd, ingress: u32, repeat: u32) -> Result<Runs> {
        self.next.set(0, program, 0).context("placing a program behind `feed`")?;
        run(self.xdp("feed")?, ingress, &[0; ArpFrame::LEN], repeat)
    }
}

/// Runs a program `repeat` times on one frame (BPF_PROG_TEST_RUN). From the second run on, the frame is what the
/// program has made of it.
pub(crate) fn run(program: &Xdp, ingress: u32, frame: &[u8], repeat: u32) -> Result<Runs> {
    run_in(program, Some(&xdp_md(ingress, frame.len())), frame, repeat)
}

/// The same with a tc program, on a frame that came in on `lo`.
pub(crate) fn run_tc(program: &SchedClassifier, frame: &[u8], repeat: u32) -> Result<Runs> {
    run_in(program, None, frame, repeat)
}

fn run_in(
    program: &impl for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
    context: Option<&[u8]>,
    frame: &[u8],
    repeat: u32,
) -> Result<Runs> {
    let mut out = vec![0; frame.len()];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: context,
        repeat,
        ..TestRunOptions::default()
    };
    // The kernel's own figure is whole nanoseconds, and counts what else ran on the core meanwhile.
    let before = cpu_time()?;
    let result = program.test_run(options).context("running a program")?;
    let taken = cpu_time()? - before;
    Ok(Runs { ns: taken.as_secs_f64() * 1e9 / f64::from(repeat), action: result.return_value })
}

/// Runs a program on `frames` live frames of an interface in this thread's namespace: what it sends is really sent.
/// Gives how long that took.
pub(crate) fn live(program: &Xdp, interface: &str, frames: u32) -> Result<Duration> {
    let ingress = if_nametoindex(interface).with_context(|| format!("asking for the index of {interface}"))?;
    let frame = [0; ArpFrame::LEN];
    let options = TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&xdp_md(ingress, frame.len())),
        repeat: frames,
        attrs: TestRunAttrs::new().xdp_live_frames(LIVE_BATCH),
        ..TestRunOptions::default()
    };
    let begin = Instant::now();
    program.test_run(options).context("sending live frames")?;
    Ok(begin.elapsed())
}

/// A context for a frame that came in on `ingress`.
fn xdp_md(ingress: u32, length: usize) -> Vec<u8> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    [0, length as u32, 0, ingress, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

/// The CPU time of this thread so far.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the thread's CPU time")?.into())
}
