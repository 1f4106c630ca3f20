//! Later.
use meter_tests::{Result, sandbox::Sandbox};
use super::Story;
use crate::{checks::Checks, plan::Plan, screen::Screen};
pub(super) const STORY: Story = Story { plan: Plan { name: "caasify", shipped: include_str!("../../../../../config/plans/caasify.toml"), changes: &[] }, play };
fn play(_: &Sandbox, _: &mut Screen, _: &mut Checks) -> Result<()> { Ok(()) }
