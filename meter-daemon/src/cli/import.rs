//! `import` and `forget`: a machine's history comes in from elsewhere, or goes.

mod vnstat;

use std::{fs, path::PathBuf};

use clap::ValueEnum;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{
    Context, Exit, Failure, books,
    changes::{How, change, command, outcome},
    out::{print, print_json},
    simulate::input,
};
use crate::{daemon, engine::units::MachineId, ledger::SeedRow};

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// Whose usage it is
    machine: String,
    /// CSV with the header `time,received,sent`, each row the bytes of the interval that ends at
    /// `time`; or what `vnstat --json` prints
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The interface, where vnStat knows several
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Where vnStat measured: in the guest, or on the host's end of its interface, which
    /// receives what the guest sends
    #[arg(long, value_name = "PLACE", value_enum)]
    seen_from: Option<SeenFrom>,
    /// The zone of vnStat's days, such as Europe/Vienna
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    time_zone: Option<TimeZone>,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SeenFrom {
    Guest,
    Host,
}

#[derive(Debug, clap::Args)]
pub(super) struct Forget {
    /// Whose history
    machine: String,
    /// Yes, delete it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    how: How,
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|error| error.to_string())
}

pub(super) fn import(args: &Import, context: &Context) -> Result<(), Failure> {
    let file = args.from.display();
    books::given(&args.from)?;
    let text = fs::read_to_string(&args.from)
        .map_err(|error| Failure::new(Exit::DATA, format!("cannot read {file}: {error}")))?;
    let wrong = |what: String| Failure::new(Exit::DATA, format!("{file}: {what}"));
    let rows = if text.trim_start().starts_with('{') {
        from_vnstat(args, &text).map_err(wrong)?
    } else {
        from_csv(&text).map_err(wrong)?
    };
    let name = args.from.file_name().unwrap_or_default().to_string_lossy();
    let body = json!({"rows": rows, "source": name});
    let to = ["v1", "machines", &args.machine, "import"];
    command(context, &to, body, &args.how)
}

fn from_csv(text: &str) -> Result<Vec<SeedRow>, String> {
    let history = input::parse_usage(text).map_err(|problems| {
        let lines = problems.iter().map(ToString::to_string);
        lines.collect::<Vec<_>>().join("\n")
    })?;
    let rows = history.rows.iter().map(|row| SeedRow {
        from: row.from,
        to: row.to,
        received: row.traffic.received,
        sent: row.traffic.sent,
    });
    Ok(rows.collect())
}

fn from_vnstat(args: &Import, text: &str) -> Result<Vec<SeedRow>, String> {
    let interface = vnstat::Interface::read(text, args.interface.as_deref())?;
    let seen_from = match args.seen_from {
        Some(place) => place,
        None if interface.is_hosts_end() => {
            return Err(format!(
                "{} looks like the host's end of a guest's interface, which receives what the guest \
                 sends; say --seen-from host, or --seen-from guest if it is the guest's own",
                interface.name
            ));
        }
        None => SeenFrom::Guest,
    };
    let mut rows = interface.rows(args.time_zone.as_ref())?;
    if seen_from == SeenFrom::Host {
        for row in &mut rows {
            std::mem::swap(&mut row.received, &mut row.sent);
        }
    }
    Ok(rows)
}

/// Through the daemon where it runs; without it where it is stopped, or cannot start because
/// of what it would forget.
pub(super) fn forget(args: &Forget, context: &Context) -> Result<(), Failure> {
    if !args.yes && !args.how.dry_run() {
        return Err(Failure::new(
            Exit::USAGE,
            format!(
                "this deletes what {} ever moved, its periods, bills and settings; events stay. Say \
                 --yes, or --dry-run to see what there is",
                args.machine
            ),
        ));
    }
    let to = ["v1", "machines", &args.machine, "forget"];
    let answer = match change(context, &to, json!({}), &args.how) {
        Err(failure) if failure.exit == Exit::UNAVAILABLE => without_daemon(args, context)?,
        answer => answer?,
    };
    if args.how.json() {
        return print_json(&answer);
    }
    print(&outcome(&answer))
}

fn without_daemon(args: &Forget, context: &Context) -> Result<Value, Failure> {
    let forgotten = daemon::forget(
        &context.config,
        &MachineId::from(args.machine.as_str()),
        &books::author(),
        args.how.reason(),
        args.how.dry_run(),
    )?;
    forgotten.map_err(|problem| Failure::new(Exit::REFUSED, problem.detail))
}
