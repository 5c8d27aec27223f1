//! Frames sent to a pair, and what is wrong with what came of them: a difference between the two nodes, or silence where
//! the oracle is sure of an answer.

use std::fmt;

use anyhow::Result;

use crate::explained::{self, Explained};
use crate::oracle::{self, Expectation};
use crate::pair::{Divergence, Frame, FrameBatch, Pair, ScriptStep};
use crate::state::NodeState;
use lab::packet::hex;

/// Something that must not be.
#[derive(Clone, Debug)]
pub(crate) enum Finding {
    /// The two nodes differ.
    Difference(Divergence),
    /// `explain` says of this frame what the kernel alone did not do: what it says.
    Explained(Frame, String),
    /// The kernel alone does not answer these frames, and the oracle says that it does: the oracle is wrong, or §10 is.
    Silence(Vec<Frame>),
}

impl Finding {
    /// What it is called.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Finding::Difference(_) => "DIVERGENCE",
            Finding::Silence(_) => "SILENCE",
            Finding::Explained(..) => "EXPLAINED WRONGLY",
        }
    }

    /// The frames after which it showed.
    pub(crate) fn frames(&self) -> &[Frame] {
        match self {
            Finding::Difference(divergence) => &divergence.frames,
            Finding::Silence(frames) => frames,
            Finding::Explained(frame, _) => std::slice::from_ref(frame),
        }
    }

    /// Whether the kernel cleared the neighbour table of the whole machine meanwhile.
    pub(crate) fn collected(&self) -> bool {
        matches!(self, Finding::Difference(Divergence { collected: true, .. }))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Difference(divergence) => divergence.fmt(f),
            Finding::Silence(frames) => write!(f, "the kernel is silent where §10 answers: {} frames", frames.len()),
            Finding::Explained(frame, said) => write!(f, "v{} {}: {said}", frame.port, hex(&frame.bytes)),
        }
    }
}

/// What the oracle knows after a configuration; nothing once there was a filter, which it does not know.
pub(crate) fn state(pair: &Pair, steps: &[ScriptStep], filtered: &mut bool) -> Result<Option<NodeState>> {
    *filtered |= steps.iter().any(|step| matches!(step, ScriptStep::Nft(_)));
    if *filtered { Ok(None) } else { NodeState::read(pair.node()).map(Some) }
}

/// Sends frames, and hands each batch over with what the oracle says of its frames, and `explain` of those of the first
/// batch.
pub(crate) fn exchange(
    pair: &mut Pair,
    frames: &[Frame],
    state: Option<&NodeState>,
    mut each: impl FnMut(&FrameBatch<'_>, &[Option<Expectation>], &Explained),
) -> Result<Option<Finding>> {
    let first = pair.ifindex(0);
    let node = pair.node().clone();
    let mut silent = Vec::new();
    let (mut is_first, mut wrong, mut failed) = (true, None, None);
    let divergence = pair.exchange(frames, |batch| {
        let verdict = |frame: &Frame| {
            state.map(|state| oracle::verdict(state, batch.neighbours, first + u32::from(frame.port), frame))
        };
        let verdicts: Vec<_> = batch.seen.iter().map(|seen| verdict(seen.frame)).collect();
        let of_frames = batch.seen.iter().zip(&verdicts);
        // A full neighbour table silences every node of the machine.
        let arrived = of_frames.filter(|(seen, _)| seen.taken.is_some() && !seen.answered && !batch.collected);
        silent.extend(arrived.filter(|(_, verdict)| **verdict == Some(Ok(()))).map(|(seen, _)| seen.frame.clone()));
        let mut explained = Explained::default();
        if std::mem::take(&mut is_first) && !batch.collected {
            match explained::explain(&node, batch.seen) {
                Ok(said) => explained = said,
                Err(error) => failed = Some(error),
            }
            wrong = explained.wrong.take();
        }
        each(batch, &verdicts, &explained);
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(match divergence {
        Some(divergence) => Some(Finding::Difference(divergence)),
        None if !silent.is_empty() => Some(Finding::Silence(silent)),
        None => wrong.map(|(frame, said)| Finding::Explained(frame, said)),
    })
}

/// Does steps and sends frames in their order, up to the first finding.
pub(crate) fn play(pair: &mut Pair, steps: &[ScriptStep]) -> Result<Option<Finding>> {
    let mut filtered = false;
    let mut known = state(pair, &[], &mut filtered)?;
    for part in steps.chunk_by(|one, other| one.frame().is_some() == other.frame().is_some()) {
        let frames: Vec<Frame> = part.iter().filter_map(ScriptStep::frame).cloned().collect();
        if frames.is_empty() {
            pair.apply(part)?;
            known = state(pair, part, &mut filtered)?;
        } else if let Some(finding) = exchange(pair, &frames, known.as_ref(), |_, _, _| {})? {
            return Ok(Some(finding));
        }
    }
    Ok(None)
}
