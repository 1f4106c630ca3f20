//! `attach`: for hypervisors' hooks. It returns when the interface is metered and what stands
//! against its machine stands, with the daemon alive or dead, and within a bounded time.

use std::{
    io::Read,
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{
    Context, Exit, Failure,
    changes::How,
    client::{self, Client},
    out::{plain, print, print_json},
    place, service,
};
use crate::{
    api::Problem,
    config::{self, Hypervisor},
    daemon::{self, Wanted},
    engine::quantity,
    host::{
        clock,
        hypervisor::{self, Proxmox},
        links::Links,
    },
    ledger::LedgerError,
};

/// Between one attempt and the next, while a daemon starts or ends.
const AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which interface, by its name on the node
    #[arg(value_name = "IFACE", required_unless_present_any = ["libvirt", "proxmox"])]
    interface: Option<String>,
    /// Whose it is [default: as the configuration says]
    #[arg(long, value_name = "ID", requires = "interface", value_parser = machine)]
    machine: Option<String>,
    /// Every interface of the libvirt domain whose XML is in FILE, or comes by `-`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["interface", "proxmox"])]
    libvirt: Option<PathBuf>,
    /// Every interface of a Proxmox VE guest
    #[arg(long, value_name = "VMID", conflicts_with = "interface")]
    proxmox: Option<u32>,
    /// Give up after this long: a guest's start waits for it
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = patience)]
    timeout: Duration,
    #[command(flatten)]
    how: How,
}

fn machine(text: &str) -> Result<String, String> {
    config::machine_id(text).map(|id| id.to_string())
}

fn patience(text: &str) -> Result<Duration, String> {
    let patience = quantity::duration(text).map_err(|wrong| wrong.to_string())?;
    Duration::try_from(patience).map_err(|_| "a time to wait is not negative".to_owned())
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let deadline = clock::now().monotonic + args.timeout;
    let wanted = wanted(args)?;
    if wanted.is_empty() {
        return tell(&args.how, Vec::new());
    }
    loop {
        match by_daemon(args, context, &wanted, deadline) {
            Err(failure) if failure.exit == Exit::UNAVAILABLE => {}
            Err(failure) => return Err(failure),
            Ok(attached) => return tell(&args.how, attached),
        }
        match without_daemon(args, context, &wanted, deadline)? {
            Some(attached) => return tell(&args.how, attached),
            // A daemon that starts or ends, or another hook: soon the one or the other works.
            None => Client::new(&context.config)?.pause(AGAIN),
        }
    }
}

fn wanted(args: &Args) -> Result<Vec<Wanted>, Failure> {
    let one = |interface: String| Wanted {
        interface,
        machine: args.machine.as_deref().map(Into::into),
        guest: None,
        reason: args.how.reason().map(str::to_owned),
    };
    if let Some(interface) = &args.interface {
        return Ok(vec![one(interface.clone())]);
    }
    if let Some(vmid) = args.proxmox {
        let vmid = vmid.to_string();
        let ours = |name: &String| Proxmox::vmid(name) == Some(&vmid);
        return Ok(interfaces()?.into_iter().filter(ours).map(one).collect());
    }
    let domain = args.libvirt.as_deref().map(domain).transpose()?;
    let Some(domain) = domain else {
        return Ok(Vec::new());
    };
    let guest = config::Guest {
        hypervisor: Hypervisor::Libvirt,
        id: domain.guest.id,
        name: domain.guest.name,
    };
    let targets = domain.targets.into_iter();
    Ok(targets
        .map(|target| Wanted {
            guest: Some(guest.clone()),
            ..one(target.name)
        })
        .collect())
}

/// A domain's definition as libvirt hands it to its hooks.
fn domain(file: &std::path::Path) -> Result<hypervisor::Domain, Failure> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(file).map(|read| text = read),
    };
    let refuse = |why: String| {
        let message = format!(
            "cannot read a libvirt domain from {}: {why}",
            file.display()
        );
        Failure::new(Exit::NO_INPUT, message)
    };
    read.map_err(|error| refuse(error.to_string()))?;
    hypervisor::domain(&text).map_err(refuse)
}

/// By netlink: /sys/class/net shows the namespace in which it was mounted.
fn interfaces() -> Result<Vec<String>, Failure> {
    let refuse = |error: String| Failure::new(Exit::SYSTEM, error);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| refuse(format!("cannot start to ask the kernel: {error}")))?;
    let links = runtime.block_on(async { Links::open()?.dump().await });
    let links = links.map_err(|error| refuse(error.to_string()))?;
    Ok(links.into_iter().map(|link| link.name).collect())
}

fn left(deadline: Duration) -> Duration {
    deadline.saturating_sub(clock::now().monotonic)
}

/// What became of each: what to show, and the exit status of those that failed.
type Outcome = (Value, Option<Failure>);

/// Fails where no daemon attends, so that another way can be tried.
fn by_daemon(
    args: &Args,
    context: &Context,
    wanted: &[Wanted],
    deadline: Duration,
) -> Result<Vec<Outcome>, Failure> {
    let client = Client::new(&context.config)?;
    let mut all = Vec::new();
    for one in wanted {
        let mut body = Map::new();
        body.insert("interface".into(), one.interface.as_str().into());
        if let Some(machine) = &one.machine {
            body.insert("machine".into(), json!(machine));
        }
        if let Some(guest) = &one.guest {
            body.insert("libvirt".into(), guest.id.as_str().into());
            body.insert("name".into(), guest.name.as_str().into());
        }
        if let Some(reason) = &one.reason {
            body.insert("reason".into(), reason.as_str().into());
        }
        if args.how.dry_run() {
            body.insert("dry_run".into(), true.into());
        }
        let patience = left(deadline);
        let answer = client.post_within(patience, "/v1/attach", &Value::Object(body));
        all.push(match answer {
            Ok(answer) => shown(answer, "daemon"),
            Err(failure) if failure.exit == Exit::REFUSED => failed(&one.interface, failure),
            Err(failure) => return Err(failure),
        });
    }
    Ok(all)
}

/// None while somebody else has the state directory, and there is time left.
fn without_daemon(
    args: &Args,
    context: &Context,
    wanted: &[Wanted],
    deadline: Duration,
) -> Result<Option<Vec<Outcome>>, Failure> {
    service::log_to_stderr_once("warn");
    let (tell, told) = mpsc::channel();
    let (config, dry_run) = (context.config.clone(), args.how.dry_run());
    let asked = wanted.to_vec();
    // Not waited for past the deadline: what it has not done by then, the daemon's next start
    // does, as after any other end in the middle.
    std::thread::spawn(move || {
        let _nobody_waits = tell.send(daemon::attach(&config, &asked, dry_run));
    });
    let late = || {
        let socket = place::socket(&context.config).unwrap_or_default();
        Failure::new(
            Exit::TRY_AGAIN,
            format!(
                "not attached within {:?}: neither by the daemon (at {}) nor without it; the \
                 daemon's next start does it",
                args.timeout,
                socket.display()
            ),
        )
    };
    match told.recv_timeout(left(deadline)) {
        Err(RecvTimeoutError::Timeout) => Err(late()),
        Err(RecvTimeoutError::Disconnected) => Err(Failure::new(
            Exit::SOFTWARE,
            "attaching without the daemon broke off",
        )),
        Ok(Err(daemon::Failure::Ledger(LedgerError::Held { .. }))) => {
            match left(deadline) > AGAIN {
                true => Ok(None),
                false => Err(late()),
            }
        }
        Ok(Err(failure)) => Err(failure.into()),
        Ok(Ok(attached)) => Ok(Some(
            wanted
                .iter()
                .zip(attached)
                .map(|(one, outcome)| match outcome {
                    Ok(attached) => shown(json!(attached), "command"),
                    Err(Problem { status, detail, .. }) => {
                        failed(&one.interface, Failure::new(client::exit(status), detail))
                    }
                })
                .collect(),
        )),
    }
}

fn shown(mut attached: Value, by: &str) -> Outcome {
    if let Value::Object(fields) = &mut attached {
        fields.insert("by".into(), by.into());
    }
    let text = |key: &str| {
        attached
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let truth = |key: &str| attached.get(key).and_then(Value::as_bool) == Some(true);
    let failure = (truth("metered") && !truth("stands")).then(|| {
        let message = format!(
            "{} is metered for {}, but what is in force does not stand on it ({}); `meterd events` \
             and the log say why",
            text("interface"),
            text("machine"),
            text("enforcement"),
        );
        Failure::new(Exit::REFUSED, message)
    });
    (attached, failure)
}

fn failed(interface: &str, failure: Failure) -> Outcome {
    let message = format!("{interface}: {}", failure.message);
    let shown = json!({"interface": interface, "metered": false, "error": failure.message});
    (shown, Some(Failure::new(failure.exit, message)))
}

/// Tells all of it, and ends with the first failure.
fn tell(how: &How, outcomes: Vec<Outcome>) -> Result<(), Failure> {
    let (shown, failures): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
    let failures: Vec<Failure> = failures.into_iter().flatten().collect();
    if how.json() {
        print_json(&json!(shown))?;
    } else if shown.is_empty() {
        print("There is no such interface: nothing to attach.\n")?;
    } else {
        let lines: String = shown
            .iter()
            .filter_map(|one| line(one, how.dry_run()))
            .collect();
        print(&lines)?;
    }
    let Some(first) = failures.first() else {
        return Ok(());
    };
    let messages: Vec<&str> = failures.iter().map(|failure| &*failure.message).collect();
    Err(Failure::new(first.exit, messages.join("\n")))
}

fn line(attached: &Value, dry_run: bool) -> Option<String> {
    if attached.get("error").is_some() {
        return None;
    }
    let text = |key: &str| {
        plain(
            attached
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default(),
        )
    };
    let (interface, machine) = (text("interface"), text("machine"));
    let force = text("enforcement");
    if dry_run {
        return Some(format!(
            "Not done, only shown: {interface} would be metered for {machine} (in force: {force}).\n"
        ));
    }
    let by = match &*text("by") {
        "daemon" => "by the daemon",
        _ => "without the daemon, whose next start takes it over",
    };
    Some(format!(
        "{interface} is metered for {machine}, {by}; in force: {force}.\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_did_for_whom_and_what_is_in_force() {
        let attached = |stands| {
            json!({"interface": "vnet7", "ifindex": 9, "machine": "web1", "metered": true,
                   "enforcement": "suspended", "stands": stands})
        };
        let (good, failure) = shown(attached(true), "daemon");
        assert_eq!(failure, None);
        assert_eq!(
            line(&good, false).unwrap(),
            "vnet7 is metered for web1, by the daemon; in force: suspended.\n"
        );
        let (bad, failure) = shown(attached(false), "command");
        assert_eq!(failure.unwrap().exit, Exit::REFUSED);
        assert!(line(&bad, false).unwrap().contains("without the daemon"));
        let (missing, failure) = failed("vnet9", Failure::new(Exit::REFUSED, "gone"));
        assert_eq!(line(&missing, false), None);
        assert_eq!(failure.unwrap().message, "vnet9: gone");
    }

    #[test]
    fn a_time_to_wait_is_a_duration() {
        assert_eq!(patience("5s"), Ok(Duration::from_secs(5)));
        patience("5").unwrap_err();
        patience("-5s").unwrap_err();
        machine("web/1").unwrap_err();
    }
}
