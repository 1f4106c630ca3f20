//! `doctor`: what this node has and lacks, and what others have put in the way. It works
//! without the daemon, and says whether it runs.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Context, Exit, Failure, Format,
    out::{self, Style, plain},
    place,
};
use crate::{
    daemon::{self, Surveyed},
    host::{conflicts, features, process},
};

/// Something that metering or enforcing needs, or that stands in its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Feature {
    name: String,
    /// Nothing goes without it.
    needed: bool,
    /// Whether all is well with it.
    present: bool,
    /// What was found.
    detail: String,
    /// What can be done where all is not well.
    remedy: Option<String>,
}

impl From<features::Feature> for Feature {
    fn from(found: features::Feature) -> Self {
        Self {
            name: found.name.to_owned(),
            needed: found.needed,
            present: found.present,
            detail: found.detail,
            remedy: (!found.present).then(|| found.remedy.to_owned()),
        }
    }
}

/// What is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    format: Format,
}

/// Shows it; ends with 71 where something is missing without which nothing goes, with 77 where
/// that is a privilege, and with 78 where the configuration is broken.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let pins = place::pin_directory(&context.config)?;
    let mut features: Vec<_> = features::features(&pins)
        .into_iter()
        .map(Feature::from)
        .collect();
    let attending = place::socket(&context.config)
        .ok()
        .and_then(|socket| process::attending(&socket).ok());
    if let Some(pid) = attending {
        let unit = process::features(pid, &pins).into_iter();
        features.extend(unit.map(Feature::from));
    }
    features.extend(passthrough());
    let (interfaces, broken) = match daemon::survey(&context.config) {
        Ok(interfaces) => (interfaces, None),
        Err(failure) => (Vec::new(), Some(Failure::from(failure))),
    };
    let daemon = daemon(context);
    if args.format.json {
        let interfaces: Vec<Value> = interfaces.iter().map(shown).collect();
        let all = json!({"features": features, "daemon": daemon, "interfaces": interfaces});
        out::print_json(&all)?;
    } else {
        let all = features.iter().cloned().chain([daemon]);
        let all: Vec<_> = all.chain(rows(&interfaces)).collect();
        out::print(&list(&all, context.style))?;
    }
    verdict(&features, broken)
}

/// Network cards that no host can meter.
fn passthrough() -> Option<Feature> {
    let cards = conflicts::passthrough();
    (!cards.is_empty()).then(|| Feature {
        name: "passthrough".to_owned(),
        needed: false,
        present: false,
        detail: format!(
            "guests have network cards of their own: {}",
            cards.join(", ")
        ),
        remedy: Some("what passes them the host never sees: it is not metered".to_owned()),
    })
}

fn verdict(features: &[Feature], broken: Option<Failure>) -> Result<(), Failure> {
    let missing: Vec<&Feature> = features
        .iter()
        .filter(|feature| feature.needed && !feature.present)
        .collect();
    let names: Vec<&str> = missing.iter().map(|feature| &*feature.name).collect();
    let message = format!("meterd cannot work here: see {} above", names.join(", "));
    match (missing.is_empty(), broken) {
        (false, _) if names.contains(&"capabilities") => {
            Err(Failure::new(Exit::NOT_ALLOWED, message))
        }
        (false, _) => Err(Failure::new(Exit::SYSTEM, message)),
        (true, Some(broken)) => Err(broken),
        (true, None) => Ok(()),
    }
}

fn shown(surveyed: &Surveyed) -> Value {
    let conflicts: Vec<Value> = surveyed
        .conflicts
        .iter()
        .map(|conflict| {
            json!({
                "found": conflict.found,
                "handling": conflict.handling,
                "hinders": conflict.hinders,
            })
        })
        .collect();
    json!({
        "interface": surveyed.interface,
        "machine": surveyed.machine,
        "conflicts": conflicts,
        "error": surveyed.unasked,
    })
}

/// The metered in short, what is in the way in full, the unmetered in one line.
fn rows(interfaces: &[Surveyed]) -> Vec<Feature> {
    let row = |name: &str, present, detail: String, remedy| Feature {
        name: name.to_owned(),
        needed: false,
        present,
        detail,
        remedy,
    };
    let mut rows = Vec::new();
    let (metered, unmetered): (Vec<&Surveyed>, Vec<&Surveyed>) = interfaces
        .iter()
        .partition(|surveyed| surveyed.machine.is_some());
    let quiet = |surveyed: &&&Surveyed| surveyed.conflicts.is_empty() && surveyed.unasked.is_none();
    let names = |of: &[&Surveyed]| {
        let names: Vec<&str> = of.iter().map(|one| &*one.interface).collect();
        match names.len() {
            0..=8 => names.join(", "),
            more => format!("{} and {} more", names[..8].join(", "), more - 8),
        }
    };
    let clear: Vec<&Surveyed> = metered.iter().filter(quiet).copied().collect();
    if !clear.is_empty() {
        let detail = format!("{} with nothing in the way: {}", clear.len(), names(&clear));
        rows.push(row("interfaces", true, detail, None));
    }
    for surveyed in metered.iter().filter(|surveyed| !quiet(surveyed)) {
        for conflict in &surveyed.conflicts {
            let (found, handling) = (conflict.found.clone(), &conflict.handling);
            rows.push(match conflict.hinders {
                true => row(&surveyed.interface, false, found, Some(handling.clone())),
                false => row(
                    &surveyed.interface,
                    true,
                    format!("{found}: {handling}"),
                    None,
                ),
            });
        }
        if let Some(error) = &surveyed.unasked {
            rows.push(row(&surveyed.interface, false, error.clone(), None));
        }
    }
    if !unmetered.is_empty() {
        let detail = format!(
            "{} taps and veths are nobody's: {}",
            unmetered.len(),
            names(&unmetered)
        );
        let remedy = "add a [[discover]] or [[machine]] that claims those that are guests'";
        rows.push(row("unmetered", false, detail, Some(remedy.to_owned())));
    }
    rows
}

fn daemon(context: &Context) -> Feature {
    let name = "daemon".to_owned();
    match context
        .daemon()
        .and_then(|daemon| daemon.get("/v1/machines"))
    {
        Ok(machines) => {
            let machines = machines.as_array().map_or(&[][..], Vec::as_slice);
            let interfaces = machines
                .iter()
                .filter_map(|machine| machine.get("interfaces"));
            let interfaces: usize = interfaces.filter_map(Value::as_array).map(Vec::len).sum();
            let count = |number, what| match number {
                1 => format!("1 {what}"),
                number => format!("{number} {what}s"),
            };
            let (machines, interfaces) = (
                count(machines.len(), "machine"),
                count(interfaces, "interface"),
            );
            let detail = format!("running, {machines} on {interfaces}");
            Feature {
                name,
                needed: false,
                present: true,
                detail,
                remedy: None,
            }
        }
        Err(failure) => {
            let detail = failure.message;
            let remedy = (failure.exit == Exit::UNAVAILABLE)
                .then(|| "what is attached already goes on counting without it".to_owned());
            Feature {
                name,
                needed: false,
                present: false,
                detail,
                remedy,
            }
        }
    }
}

fn list(features: &[Feature], style: Style) -> String {
    let width = features
        .iter()
        .map(|feature| feature.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for feature in features {
        let (mark, code) = if feature.present {
            ("ok", 32)
        } else {
            ("no", 31)
        };
        let mark = if style.colour {
            format!("\x1b[{code}m{mark}\x1b[0m")
        } else {
            mark.to_owned()
        };
        let (name, detail) = (plain(&feature.name), plain(&feature.detail));
        text.push_str(&format!("{mark}  {name:<width$}  {detail}\n"));
        if let (false, Some(remedy)) = (feature.present, &feature.remedy) {
            text.push_str(&format!("    {:<width$}  -> {}\n", "", plain(remedy)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_shown_with_its_remedy() {
        let feature = |name: &str, present, detail: &str| Feature {
            name: name.to_owned(),
            needed: false,
            present,
            detail: detail.to_owned(),
            remedy: Some("do something".to_owned()),
        };
        let features = [
            feature("tcx", true, "kernel 6.18"),
            feature("bpf filesystem", false, "not mounted"),
        ];
        insta::assert_snapshot!(list(&features, Style::default()), @r#"
        ok  tcx             kernel 6.18
        no  bpf filesystem  not mounted
                            -> do something
        "#);
    }
    #[test]
    fn what_is_missing_and_needed_decides_the_exit_status() {
        let feature = |name: &str, needed, present| Feature {
            name: name.to_owned(),
            needed,
            present,
            detail: String::new(),
            remedy: None,
        };
        let broken = || Some(Failure::new(Exit::CONFIG, "broken"));
        let exit = |features: &[Feature], broken| verdict(features, broken).err().map(|f| f.exit);
        let good = [feature("bpffs", true, true), feature("tcx", false, false)];
        assert_eq!(exit(&good, None), None);
        assert_eq!(exit(&good, broken()), Some(Exit::CONFIG));
        let no_bpffs = [feature("bpffs", true, false)];
        assert_eq!(exit(&no_bpffs, broken()), Some(Exit::SYSTEM));
        let nobody = [
            feature("capabilities", true, false),
            feature("bpffs", true, false),
        ];
        assert_eq!(exit(&nobody, None), Some(Exit::NOT_ALLOWED));
    }
}
