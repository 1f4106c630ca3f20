//! The program as it is typed: `meterd` itself, against a control socket with a loop that is
//! made up. What scripts rely on: exit statuses, standard output, standard error.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, also in a helper"
)]

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use meter_daemon::api::{
    self, Answer, Ask, Call, Limits, Problem, access::Access, metrics::Figures, socket,
};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::mpsc};

/// A daemon whose loop answers with what it is given; its own directory and configuration.
struct Daemon {
    _runtime: Runtime,
    directory: tempfile::TempDir,
}

impl Daemon {
    fn new(answer: impl Fn(&Ask) -> Answer + Send + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let directory = configured();
        let listener = {
            let _within = runtime.enter();
            socket::bind(directory.path(), &Access::default()).unwrap()
        };
        let (calls, mut called) = mpsc::channel::<Call>(8);
        runtime.spawn(async move {
            while let Some(call) = called.recv().await {
                let _ = call.answer.send(answer(&call.ask));
            }
        });
        runtime.spawn(api::serve(
            listener,
            calls,
            Access::default(),
            Limits::default(),
        ));
        Self {
            _runtime: runtime,
            directory,
        }
    }

    fn meterd(&self, arguments: &[&str]) -> Command {
        meterd(&self.directory, arguments)
    }
}

/// A directory with a configuration that names it as the runtime directory.
fn configured() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = format!("runtime-directory = {:?}\n", directory.path());
    std::fs::write(directory.path().join("meterd.toml"), text).unwrap();
    directory
}

fn meterd(directory: &tempfile::TempDir, arguments: &[&str]) -> Command {
    program_with(
        Path::new(env!("CARGO_BIN_EXE_meterd")),
        directory,
        arguments,
    )
}

#[expect(clippy::disallowed_methods, reason = "meterd itself is what is tested")]
fn program_with(program: &Path, directory: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg("--config")
        .arg(directory.path().join("meterd.toml"));
    command
}

fn ran(mut command: Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn status() -> Value {
    json!([{
        "machine": "web1", "account": "acme", "plan": "edis", "interfaces": ["tap101i0"],
        "state": "normal", "since": "2026-11-01T00:00:00Z", "rule": null,
        "period": {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z", "days_left": 11},
        "used": 5_000_000, "received": 4_000_000, "sent": 1_000_000, "exempt": 0,
        "allowance": 10_000_000, "remaining": 5_000_000, "ratio": 0.5, "forecast": null,
        "flagged": false, "cancellable": true, "rate_limit_bits_per_second": null,
        "cap_remaining": null, "next": null,
    }])
}

fn event(seq: u64) -> Value {
    json!({"seq": seq, "time": "2026-11-20T10:00:00Z", "machine": "web1", "event": "notice",
           "id": format!("n{seq}"), "message": format!("notice {seq}"), "rule": "used 80%",
           "used": 1, "allowance": 2, "state": "normal"})
}

#[test]
fn status_is_a_table_for_people_and_an_array_for_programs_of_one_machine_too() {
    let daemon = Daemon::new(|_| Answer::Json(status()));
    let (code, out, err) = ran(daemon.meterd(&["status"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("MACHINE") && out.contains("web1"), "{out}");
    assert!(!out.contains('\x1b'), "no colour in a pipe: {out:?}");
    for arguments in [&["status", "--json"][..], &["status", "web1", "--json"]] {
        let (code, out, _) = ran(daemon.meterd(arguments));
        assert_eq!(
            (code, serde_json::from_str::<Value>(&out).unwrap()),
            (0, status())
        );
    }
    let (_, card, _) = ran(daemon.meterd(&["status", "web1"]));
    assert!(
        card.contains("5 MB of 10 MB, 50 %") && card.contains("in 11 days"),
        "{card}"
    );
}

#[test]
fn a_refusal_is_exit_1_a_lack_of_rights_77_a_broken_configuration_on_reload_78() {
    let daemon = Daemon::new(|ask| {
        Answer::Problem(match ask {
            Ask::Command { .. } => Problem::new(409, "refused", "bill 7 is unpaid"),
            Ask::Reload { .. } => {
                Problem::new(422, "not valid", "error: unknown key\n --> meterd.toml:3:1")
            }
            Ask::Status { .. } => Problem::new(404, "unknown", "no machine `web9`"),
            Ask::Explain { .. } => Problem::new(503, "ending", "the daemon is ending"),
            _ => Problem::new(403, "not allowed", "eve may look but not change"),
        })
    });
    for (arguments, exit, message) in [
        (&["cancel", "web1"][..], 1, "error: bill 7 is unpaid\n"),
        (&["status", "web9"], 1, "error: no machine `web9`\n"),
        (&["explain", "web1"], 75, "error: the daemon is ending\n"),
        (&["detach"], 77, "error: eve may look but not change\n"),
        (
            &["reload"],
            78,
            "error: unknown key\n --> meterd.toml:3:1\n",
        ),
    ] {
        assert_eq!(
            ran(daemon.meterd(arguments)),
            (exit, String::new(), message.to_owned()),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_wrong_command_line_is_64_and_a_missing_configuration_78_and_no_daemon_69() {
    let directory = configured();
    let (code, out, err) = ran(meterd(&directory, &["top-up", "web1", "lots"]));
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(
        err.starts_with("error: ") && err.contains("is not a volume"),
        "{err}"
    );

    let (code, _, err) = ran(meterd(&directory, &["status"]));
    assert_eq!(code, 69);
    assert!(
        err.contains("meterd.sock") && err.contains("systemctl start meterd"),
        "{err}"
    );

    std::fs::remove_file(directory.path().join("meterd.toml")).unwrap();
    let (code, _, err) = ran(meterd(&directory, &["status"]));
    assert_eq!(code, 78);
    assert!(err.contains("meterd.toml"), "{err}");
}

#[test]
fn who_may_not_open_the_socket_is_told_who_may_with_77() {
    // Only root can become somebody else to try it.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::new(|_| Answer::Json(status()));
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(daemon.directory.path(), everybody).unwrap();
    // Where `nobody` may run it: the build's own folder may be closed to others.
    let program = daemon.directory.path().join("meterd");
    std::fs::copy(env!("CARGO_BIN_EXE_meterd"), &program).unwrap();
    let mut command = program_with(&program, &daemon.directory, &["status"]);
    command.uid(65_534).gid(65_534);
    let (code, _, err) = ran(command);
    assert_eq!(code, 77, "{err}");
    assert!(err.contains("group `meterd`"), "{err}");
}

#[test]
fn a_reader_who_has_seen_enough_is_not_an_error() {
    let daemon = Daemon::new(|_| Answer::Json((0..100_000).map(event).collect()));
    for arguments in [
        &["events"][..],
        &["events", "--json"],
        &["completions", "bash"],
    ] {
        let mut child = daemon
            .meterd(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::with_capacity(16, child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        drop(out);
        let mut err = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), err.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[test]
fn following_shows_what_was_and_then_each_event_once() {
    let daemon = Daemon::new(|ask| {
        let Ask::Events { after, .. } = ask else {
            return Answer::Json(json!([]));
        };
        Answer::Json(match after {
            None => json!([event(1), event(2)]),
            Some(2) => json!([event(3)]),
            Some(_) => json!([]),
        })
    });
    let mut child = daemon
        .meterd(&["events", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(3);
    let seen: Vec<u64> = lines
        .map(|line| {
            serde_json::from_str::<Value>(&line.unwrap()).unwrap()["seq"]
                .as_u64()
                .unwrap()
        })
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen, [1, 2, 3]);
}

#[test]
fn everything_since_an_instant_is_read_page_by_page() {
    let daemon = Daemon::new(|ask| {
        let Ask::Events {
            after,
            since: Some(_),
            limit,
            ..
        } = ask
        else {
            return Answer::Problem(Problem::new(500, "test", "since is missing"));
        };
        let first = after.map_or(0, |after| after + 1);
        let last = 25_000.min(first + *limit as u64);
        Answer::Json((first..last).map(event).collect())
    });
    let (code, out, err) = ran(daemon.meterd(&["events", "--since", "2026-11-01T00:00:00Z"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.lines().count(), 25_000);
}

#[test]
fn what_was_typed_reaches_the_daemon_and_what_came_of_it_is_told() {
    let daemon = Daemon::new(|ask| {
        let Ask::Command {
            actions,
            reason,
            key,
            dry_run,
        } = ask
        else {
            return Answer::Metrics(Box::<Figures>::default());
        };
        let said = format!("{actions:?} {reason:?} {key:?}");
        let event = json!({"time": "2026-11-20T10:00:00Z", "event": "told", "message": said});
        Answer::Json(json!({"dry_run": dry_run, "events": [event]}))
    });
    let (code, out, err) = ran(daemon.meterd(&[
        "top-up",
        "web1",
        "1.5 TB",
        "--from-pool",
        "--key",
        "k1",
        "--reason",
        "asked for",
        "--dry-run",
    ]));
    assert_eq!((code, err.as_str()), (0, ""));
    for part in [
        "Nothing was changed. What would happen:",
        "Bytes(1500000000000), from_pool: true",
        "Some(\"asked for\") Some(\"k1\")",
    ] {
        assert!(out.contains(part), "{out}");
    }
    let (_, out, _) = ran(daemon.meterd(&["set", "web1", "allowance=2TB", "cost-limit=none"]));
    assert!(
        out.contains("Allowance(Limited(Bytes(2000000000000)))"),
        "{out}"
    );
    assert!(out.contains("CostLimit(None)"), "{out}");
    let (_, out, _) = ran(daemon.meterd(&["lift", "--all", "--for", "24h"]));
    assert!(
        out.contains("Lift { machine: None, until: Some(For("),
        "{out}"
    );
}

#[test]
fn help_goes_to_standard_output() {
    let directory = configured();
    let (code, out, err) = ran(meterd(&directory, &["--help"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("top-up"), "{out}");
}
