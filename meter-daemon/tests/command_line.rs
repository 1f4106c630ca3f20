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
        "direction": "sum", "used": 5_000_000, "received": 4_000_000, "sent": 1_000_000, "exempt": 0,
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

/// A ledger with three closed periods of one machine and one of another; its configuration.
fn ledger_with_closed_periods() -> tempfile::TempDir {
    use meter_daemon::{
        engine::{
            record::{MachineChange, Running},
            units::{Bytes, Traffic},
        },
        ledger::{Batch, Ledger},
    };
    let directory = configured();
    let file = directory.path().join("meterd.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("state-directory = 'state'\n{text}")).unwrap();
    let (mut ledger, _) = Ledger::open(&directory.path().join("state")).unwrap();
    let at = |month: u64| format!("2026-{month:02}-01T00:00:00Z").parse().unwrap();
    for (machine, month) in [("web1", 3), ("web1", 4), ("db1", 4), ("web1", 5)] {
        let running = |month, sent| Running {
            period_start: at(month),
            period_end: at(month + 1),
            traffic: Traffic {
                received: Bytes(u64::MAX - month),
                sent: Bytes(sent),
                exempt: Bytes(0),
            },
            measured_to: at(month + 1),
        };
        let mut batch = Batch::empty(at(month + 1));
        batch.changes.closed = vec![(machine.into(), running(month, month))];
        batch.changes.machines = vec![MachineChange {
            machine: machine.into(),
            state: Some("{}".into()),
            running: Running {
                traffic: Traffic::ZERO,
                ..running(month + 1, 0)
            },
        }];
        ledger.record(&batch).unwrap();
    }
    directory
}

#[test]
fn a_closed_periods_statement_is_the_same_bytes_whenever_it_is_exported() {
    let directory = ledger_with_closed_periods();
    let (code, all, err) = ran(meterd(&directory, &["export"]));
    assert_eq!((code, err.as_str()), (0, ""));
    let parsed: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(parsed.as_array().unwrap().len(), 4);
    assert_eq!(ran(meterd(&directory, &["export", "--json"])).1, all);
    let file = directory.path().join("statements.csv");
    let shown = file.to_str().unwrap();
    let (code, csv, _) = ran(meterd(&directory, &["export", "web1", "--csv"]));
    assert_eq!((code, csv.lines().count()), (0, 4));
    let written = ran(meterd(
        &directory,
        &["export", "web1", "--csv", "--output", shown],
    ));
    assert_eq!((written.0, written.1.as_str()), (0, ""));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), csv);
    let may = ["export", "web1", "--from", "2026-05-01T00:00:00Z"];
    let (_, may, _) = ran(meterd(&directory, &may));
    let may: Value = serde_json::from_str(&may).unwrap();
    assert_eq!(may[0], parsed[3], "db1 and two of web1 stand before it");
}

#[test]
fn statements_are_verified_with_the_published_key_and_a_changed_byte_is_exit_65() {
    let directory = ledger_with_closed_periods();
    let (_, key, _) = ran(meterd(&directory, &["export", "--public-key"]));
    let key_file = directory.path().join("key.pub");
    std::fs::write(&key_file, &key).unwrap();
    let file = directory.path().join("statements");
    let shown = file.to_str().unwrap();
    for form in ["--csv", "--json"] {
        let (_, text, _) = ran(meterd(&directory, &["export", form]));
        std::fs::write(&file, &text).unwrap();
        for key in [key.trim(), key_file.to_str().unwrap()] {
            let verify = ["verify", shown, "--public-key", key];
            let (code, out, err) = ran(meterd(&directory, &verify));
            assert_eq!((code, err.as_str()), (0, ""), "{form}");
            assert!(
                out.contains("4 statements") && out.contains("web1: 1 to 3"),
                "{out}"
            );
        }
        std::fs::write(
            &file,
            text.replace("18446744073709551611", "18446744073709551612"),
        )
        .unwrap();
        let verify = ["verify", shown, "--public-key", key.trim()];
        let (code, _, err) = ran(meterd(&directory, &verify));
        assert_eq!(code, 65);
        assert!(
            err.contains("was changed") && err.contains("1 of db1"),
            "{err}"
        );
    }
    let (code, _, err) = ran(meterd(&directory, &["verify", shown]));
    assert_eq!(code, 64);
    assert!(err.contains("--public-key"), "{err}");
}

/// By somebody else's program: `docs/statements.md` is all that it knows.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "openssl is the independent verifier"
)]
fn openssl_finds_the_signatures_good_that_the_document_describes() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: there is no openssl");
        return;
    }
    let directory = ledger_with_closed_periods();
    let (_, key, _) = ran(meterd(&directory, &["export", "--public-key"]));
    let (_, all, _) = ran(meterd(&directory, &["export"]));
    let all: Value = serde_json::from_str(&all).unwrap();
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = hex.trim().as_bytes().chunks(2);
        let pair = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(pair).collect()
    };
    let place = |name: &str| directory.path().join(name);
    let public = [bytes("302a300506032b6570032100"), bytes(&key)].concat();
    std::fs::write(place("key.der"), public).unwrap();
    let mut previous = std::collections::BTreeMap::new();
    for statement in all.as_array().unwrap() {
        let mut text = "meterd statement 1\n".to_owned();
        for field in [
            "ledger", "machine", "sequence", "start", "end", "received", "sent", "exempt",
            "previous",
        ] {
            let value = &statement[field];
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            text += &format!("{field} {value}\n");
        }
        std::fs::write(place("text"), &text).unwrap();
        let signature = bytes(statement["signature"].as_str().unwrap());
        std::fs::write(place("signature"), signature).unwrap();
        let openssl = |arguments: &[&str]| {
            let mut command = Command::new("openssl");
            command.current_dir(directory.path()).args(arguments);
            ran(command)
        };
        let verify = [
            "pkeyutl",
            "-verify",
            "-pubin",
            "-keyform",
            "DER",
            "-inkey",
            "key.der",
            "-rawin",
            "-in",
            "text",
            "-sigfile",
            "signature",
        ];
        let (code, out, err) = openssl(&verify);
        assert_eq!(code, 0, "{out}{err}");
        let (_, hash, _) = openssl(&["dgst", "-sha256", "-r", "text"]);
        assert_eq!(hash.split(' ').next(), statement["hash"].as_str());
        let machine = statement["machine"].as_str().unwrap();
        let before = previous.insert(machine, statement["hash"].clone());
        assert_eq!(
            statement["previous"],
            before.unwrap_or_else(|| "0".repeat(64).into())
        );
        std::fs::write(place("text"), text.replace("sent", "Sent")).unwrap();
        assert_ne!(openssl(&verify).0, 0, "another text is not signed");
    }
    assert_eq!(previous.len(), 2);
}

#[test]
fn a_ledger_that_does_not_add_up_is_exit_65_and_the_row_is_named() {
    let directory = ledger_with_closed_periods();
    let (code, out, _) = ran(meterd(&directory, &["verify", "--json"]));
    assert_eq!(
        code, 65,
        "its periods were made up, and have no days: {out}"
    );
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["ok"], false);
    assert_eq!(told["difference"]["machine"], "web1");
    assert_eq!(told["difference"]["resolution"], "period");
    assert_eq!(told["difference"]["start"], "2026-03-01T00:00:00Z");
    assert_eq!(told["difference"]["row"]["sent"], 3);
    assert_eq!(told["difference"]["parts"]["sent"], 0);
    let (code, _, err) = ran(meterd(&directory, &["verify"]));
    assert_eq!(code, 65);
    assert!(err.contains("the period of web1 from 2026-03-01"), "{err}");
}
