//! The demonstrations: the picture in the README, and one for each shipped plan. They are a
//! program of package `meter-tests`.

use crate::{
    build::{self, Profile},
    cargo, kernel,
    project::Project,
    root::Root,
    steps::Steps,
};

/// The plans that have one.
const PLANS: [&str; 5] = ["invapi", "edis", "caasify", "calendar-suspend", "cdn-limit"];

/// Which of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection(Vec<String>);

impl Selection {
    /// Reads nothing, `--plan NAME` or `--all`.
    pub(crate) fn read(arguments: &[&str]) -> Result<Self, String> {
        match arguments {
            [] | ["--all"] => {}
            ["--plan", name] if PLANS.contains(name) => {}
            ["--plan", name] => {
                let plans = PLANS.join(", ");
                return Err(format!(
                    "there is no demonstration of a plan `{name}`; there are {plans}"
                ));
            }
            _ => {
                return Err(format!(
                    "`demo` does not take `{}`: say nothing, --plan NAME, or --all",
                    arguments.join(" ")
                ));
            }
        }
        Ok(Self(arguments.iter().map(ToString::to_string).collect()))
    }
}

/// Builds what it needs as the caller and runs it as root.
pub(crate) fn run(
    project: &Project,
    steps: &mut Steps,
    selection: &Selection,
) -> Result<(), String> {
    // Before the build, which takes minutes the first time.
    let root = Root::find()?;
    kernel::check()?;
    let meterd = build::meterd(project, steps, Profile::Release)?;
    build::programs(project, steps, Profile::Release, &["demo"])?;
    steps.run("demo", || {
        let program = meterd.with_file_name("demo");
        let mut command = root.command(&program, &[("METERD", meterd.as_os_str())]);
        cargo::run(command.current_dir(&project.root).args(&selection.0))
            .map_err(|problem| format!("{problem}{}", kernel::lacking()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_plan_has_a_demonstration() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/plans");
        let mut shipped: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|file| {
                file.unwrap()
                    .path()
                    .file_stem()?
                    .to_str()
                    .map(str::to_owned)
            })
            .collect();
        shipped.sort();
        let mut shown = PLANS.to_vec();
        shown.sort_unstable();
        assert_eq!(shipped, shown);
    }

    #[test]
    fn a_mistyped_plan_is_refused_before_anything_is_built() {
        for good in [&[][..], &["--all"], &["--plan", "edis"]] {
            assert!(Selection::read(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["--plan"][..],
            &["--plan", "eddis"],
            &["edis"],
            &["--all", "edis"],
        ] {
            assert!(Selection::read(bad).is_err(), "{bad:?}");
        }
    }
}
