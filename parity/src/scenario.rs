//! A scenario: a configuration, frames, changes to it while the agent runs, more frames, and what undoes it all.

use std::collections::BTreeMap;

use crate::pair::{Frame, ScriptStep};

use crate::plan::Plan;
use crate::rng::Rng;
use crate::{frames, mutations, shapes};

/// A scenario.
pub(crate) struct Scenario {
    /// Its number in the run.
    pub(crate) number: u64,
    /// Configuration and the frames that follow it.
    pub(crate) phases: Vec<(Vec<ScriptStep>, Vec<Frame>)>,
    /// What undoes it.
    pub(crate) undo: Vec<ScriptStep>,
    /// How often each kind of configuration occurs.
    pub(crate) features: BTreeMap<&'static str, usize>,
}

/// Scenarios that the same pair, and the same agent, go through. What a scenario leaves behind in a namespace for good (that
/// there has been a rule, or a local route of somebody's) is there for the later ones.
pub(crate) const GENERATION: u64 = 20;

/// One generation in so many is without routing rules; not the first, which may be the only one.
const WITHOUT_RULES: u64 = 4;

impl Scenario {
    /// Scenario `number` of the run with `seed`, with about `frames` frames; with VRFs, if the kernel has them.
    pub(crate) fn draw(seed: u64, number: u64, frames: usize, vrfs: bool) -> Scenario {
        let mut plan = Plan::new(Rng::of_scenario(seed, number));
        let rules = number / GENERATION % WITHOUT_RULES != 1;
        shapes::draw(&mut plan);
        let many = *plan.rng.weighted(&[(2, 0), (4, 3), (4, 8), (2, 20)]);
        for _ in 0..plan.rng.between(0, many) {
            mutations::draw(&mut plan);
        }
        if rules {
            let many = *plan.rng.weighted(&[(1, 0), (4, 2), (4, 6), (2, 12)]);
            for _ in 0..plan.rng.between(0, many) {
                mutations::draw_rules(&mut plan, vrfs);
            }
        }
        plan.sort_steps();
        let changes = plan.rng.between(1, 3);
        let each = frames / (changes + 1);
        let mut phases = vec![(plan.take_steps(), frames::draw(&mut plan, each))];
        for _ in 0..changes {
            for _ in 0..plan.rng.between(1, 4) {
                if rules && plan.rng.chance(50) {
                    mutations::draw_rules(&mut plan, vrfs);
                } else {
                    mutations::draw(&mut plan);
                }
            }
            phases.push((plan.take_steps(), frames::draw(&mut plan, each)));
        }
        Scenario { number, phases, undo: plan.take_undo(), features: plan.features }
    }

    /// How many frames the scenario has.
    pub(crate) fn frames(&self) -> usize {
        self.phases.iter().map(|(_, frames)| frames.len()).sum()
    }
}
