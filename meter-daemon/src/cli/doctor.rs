//! `doctor`: what this node has and lacks. It works without the daemon, and says whether it
//! runs.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Context, Exit, Failure, Format,
    out::{self, Style, plain},
    place,
};
use crate::host::features;

/// Something that metering or enforcing needs, or that stands in its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Feature {
    name: String,
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

/// Shows it.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let pins = place::pin_directory(&context.config)?;
    let features: Vec<_> = features::features(&pins)
        .into_iter()
        .map(Feature::from)
        .collect();
    let daemon = daemon(context);
    if args.format.json {
        return out::print_json(&json!({"features": features, "daemon": daemon}));
    }
    let mut all = features;
    all.push(daemon);
    out::print(&list(&all, context.style))
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
}
