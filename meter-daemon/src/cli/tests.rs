//! What can be typed, and what comes of it.

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    // Split at blanks; `_` stands for a blank within an argument.
    Cli::try_parse_from(line.split(' ').map(|word| word.replace('_', " ")))
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_manual_is_understood() {
    for line in [
        "meterd run",
        "meterd check",
        "meterd check --json",
        "meterd status",
        "meterd status web1 --json",
        "meterd usage web1",
        "meterd usage web1 --by minute --json",
        "meterd usage web1 --by period --from 2026-11-01 --to 2026-12-01T00:00:00+01:00",
        "meterd explain web1 --json",
        "meterd events",
        "meterd events web1 --follow --since 2h",
        "meterd events --since 2026-11-01T00:00:00Z --json",
        "meterd offer web1 --json",
        "meterd top-up web1 1_TB",
        "meterd top-up web1 1.5TiB --from-pool --key k1 --reason because --dry-run --json",
        "meterd set web1 plan=edis allowance=2_TB renewal-day=31 cost-limit=10_USD auto-unsuspend=on",
        "meterd set web1 cost-limit=none --reason x",
        "meterd set web1 allowance=unlimited auto-unsuspend=off",
        "meterd unset web1 allowance --key k",
        "meterd suspend web1 --reason abuse",
        "meterd suspend web1 --for 24h",
        "meterd lift web1 --until 2026-12-01",
        "meterd lift web1 --for 5d --dry-run",
        "meterd lift --all --reason outage",
        "meterd confirm --key k",
        "meterd cancel web1 --dry-run",
        "meterd invoices",
        "meterd invoices acme --json",
        "meterd pay 2026-7 --key k",
        "meterd balance acme",
        "meterd balance acme --add 50_EUR --reason transfer",
        "meterd balance acme --add -2.50",
        "meterd verify",
        "meterd verify --json",
        "meterd verify statements.json --public-key statements.pub",
        "meterd backup /backup/ledger.db --replace --json",
        "meterd restore /backup/ledger.db --reason disk --key k",
        "meterd restore /backup/ledger.db --dry-run",
        "meterd export",
        "meterd export web1 --from 2026-01-01 --csv --output statements.csv",
        "meterd export --public-key",
        "meterd import web1 --from usage.csv --key k",
        "meterd import web1 --from vnstat.json --interface eth0 --seen-from guest --time-zone UTC",
        "meterd forget web1 --yes --reason cancelled",
        "meterd reload --dry-run --json",
        "meterd detach --dry-run",
        "meterd attach vnet7 --machine web1 --timeout 2s --json",
        "meterd attach --libvirt - --dry-run",
        "meterd attach --proxmox 101 --reason hook",
        "meterd doctor --json",
        "meterd completions bash",
        "meterd completions fish",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn config_is_taken_before_and_after_a_commands_arguments_and_has_a_default() {
    for line in [
        "meterd --config /x.toml status web1",
        "meterd status --config /x.toml web1",
        "meterd status web1 --config /x.toml",
        "meterd status web1 --config=/x.toml",
        "meterd --config /x.toml run",
        "meterd run --config /x.toml",
    ] {
        assert_eq!(
            parse(line).unwrap().config,
            Some(PathBuf::from("/x.toml")),
            "{line}"
        );
    }
    assert_eq!(parse("meterd run").unwrap().config, None);
}

#[test]
fn every_command_that_changes_takes_key_reason_and_dry_run_and_every_one_that_prints_json() {
    let changes = [
        "top-up", "set", "unset", "suspend", "lift", "confirm", "cancel", "pay", "balance",
        "reload", "attach", "detach", "restore", "import", "forget",
    ];
    for command in Cli::command().get_subcommands() {
        let takes = |option: &str| {
            command
                .get_arguments()
                .any(|arg| arg.get_long() == Some(option))
        };
        let name = command.get_name();
        for option in ["key", "reason", "dry-run"] {
            assert_eq!(takes(option), changes.contains(&name), "{name} --{option}");
        }
        assert_eq!(
            takes("json"),
            !["run", "completions"].contains(&name),
            "{name} --json"
        );
    }
}

#[test]
fn slips_are_usage_errors_that_say_what_to_write() {
    for (line, hint) in [
        ("meterd", "Usage"),
        ("meterd frobnicate", "frobnicate"),
        ("meterd usage", "MACHINE"),
        (
            "meterd usage web1 --by fortnight",
            "minute, hour, day, month, period",
        ),
        ("meterd usage web1 --from tomorrow", "2026-12-01"),
        ("meterd top-up web1", "VOLUME"),
        ("meterd top-up web1 1_Tb", "counts bits"),
        ("meterd top-up web1 -1_TB", "unexpected argument"),
        ("meterd set web1", "KEY=VALUE"),
        ("meterd set web1 allowance", "KEY=VALUE"),
        ("meterd set web1 colour=red", "renewal-day"),
        ("meterd set web1 renewal-day=32", "1 to 31"),
        ("meterd set web1 cost-limit=10", "10 USD"),
        ("meterd unset web1 colour", "renewal-day"),
        ("meterd lift", "MACHINE"),
        ("meterd import web1", "--from"),
        (
            "meterd import web1 --from x --time-zone Nowhere/City",
            "Nowhere/City",
        ),
        ("meterd export --public-key web1", "cannot be used with"),
        ("meterd export --csv --json", "cannot be used with"),
        ("meterd lift web1 --all", "cannot be used with"),
        (
            "meterd lift web1 --for 1h --until 2026-12-01",
            "cannot be used with",
        ),
        ("meterd suspend web1 --for soon", "24h"),
        ("meterd completions tcsh-ish", "bash"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.to_string().contains(hint), "{line}: {error}");
        assert!(error.use_stderr(), "{line}");
    }
}

#[test]
fn help_and_version_are_answers() {
    for line in [
        "meterd --help",
        "meterd -h",
        "meterd status --help",
        "meterd --version",
    ] {
        let error = parse(line).unwrap_err();
        assert!(!error.use_stderr(), "{line}");
    }
}
