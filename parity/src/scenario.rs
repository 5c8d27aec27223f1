//! A scenario: a configuration, frames, changes to it while the agent runs, more frames, and what undoes it all.

use std::collections::BTreeMap;

use crate::pair::{Frame, Step};

use crate::plan::Plan;
use crate::rng::Rng;
use crate::{frames, mutations, shapes};

/// A scenario.
pub(crate) struct Scenario {
    /// Its number in the run.
    pub(crate) number: u64,
    /// Configuration and the frames that follow it.
    pub(crate) phases: Vec<(Vec<Step>, Vec<Frame>)>,
    /// What undoes it.
    pub(crate) undo: Vec<Step>,
    /// How often each kind of configuration occurs.
    pub(crate) features: BTreeMap<&'static str, usize>,
}

impl Scenario {
    /// Scenario `number` of the run with `seed`, with about `frames` frames.
    pub(crate) fn draw(seed: u64, number: u64, frames: usize) -> Scenario {
        let mut plan = Plan::new(Rng::of_scenario(seed, number));
        shapes::draw(&mut plan);
        let many = *plan.rng.weighted(&[(2, 0), (4, 3), (4, 8), (2, 20)]);
        for _ in 0..plan.rng.between(0, many) {
            mutations::draw(&mut plan);
        }
        plan.sort_steps();
        let changes = plan.rng.between(1, 3);
        let each = frames / (changes + 1);
        let mut phases = vec![(plan.take_steps(), frames::draw(&mut plan, each))];
        for _ in 0..changes {
            for _ in 0..plan.rng.between(1, 4) {
                mutations::draw(&mut plan);
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
