//! One file a plan: what its provider publishes, played on real interfaces.

mod caasify;
mod calendar_suspend;
mod cdn_limit;
mod edis;
mod invapi;

use meter_tests::{Result, sandbox::Sandbox};

use crate::{checks::Checks, plan::Plan, screen::Screen};

/// A plan, and the play about it.
pub(crate) struct Story {
    pub(crate) plan: Plan,
    pub(crate) play: Play,
}

/// Sets its stage in the sandbox, plays, notes what it checks, and clears the stage.
pub(crate) type Play = fn(&Sandbox, &mut Screen, &mut Checks) -> Result<()>;

/// In the order of the five systems.
pub(crate) const ALL: [&Story; 5] = [
    &invapi::STORY,
    &edis::STORY,
    &caasify::STORY,
    &calendar_suspend::STORY,
    &cdn_limit::STORY,
];

/// What is played when nobody asks for a plan.
pub(crate) const PICTURE: (&Story, Play) = (&edis::STORY, edis::picture);
