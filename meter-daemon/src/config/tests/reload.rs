//! What a reload says it changed.

use super::{super::Config, good};

const PLAN: &str = "allowance = \"1 TB\"\n[[rule]]\nused = \"80%\"\nnotify = true\n";
const MACHINE: &str = "[[machine]]\nid = \"a\"\ninterfaces = [\"tap1\"]\nplan = \"p\"\n";

fn changes(old: &Config, files: &[(&str, &str)]) -> String {
    old.difference(&good(files)).join("\n")
}

#[test]
fn the_same_files_change_nothing() {
    let files = [("plans/p.toml", PLAN), ("machines/a.toml", MACHINE)];
    assert_eq!(changes(&good(&files), &files), "");
    assert_eq!(good(&files), good(&files));
}

#[test]
fn every_change_is_a_sentence() {
    let old = good(&[("plans/p.toml", PLAN), ("machines/a.toml", MACHINE)]);
    let new = changes(
        &old,
        &[
            (
                "meterd.toml",
                "poll-interval = \"30s\"\nstate-directory = \"/srv/meterd\"\ndry-run = true\n\
                 exempt = [\"10.0.0.0/8\"]\n[metrics]\nlisten = \"\"\n",
            ),
            (
                "plans/p.toml",
                "allowance = \"2 TB\"\nenforce = false\n[[rule]]\nused = \"80%\"\nnotify = true\n\
                 flag = true\n[[rule]]\nused = \"105%\"\nthrottle = \"64 kbit/s\"\n",
            ),
            ("plans/q.toml", "allowance = \"1 TB\"\n"),
            (
                "machines/a.toml",
                "[[machine]]\nid = \"a\"\nmacs = [\"52:54:00:12:34:56\"]\nplan = \"q\"\n\
                 auto-unsuspend = false\n[[account]]\nid = \"x\"\n",
            ),
        ],
    );
    insta::assert_snapshot!(new, @r#"
    state-directory: /var/lib/meterd -> /srv/meterd (from the daemon's next start)
    poll-interval: 60s -> 30s
    dry-run: false -> true
    exempt: none -> 10.0.0.0/8
    metrics.listen: 127.0.0.1:9750 -> off
    plan p changed: allowance: 1 TB -> 2 TB; rule `used 80%` changed; new rule `used 105%`; enforce: true -> false
    plan q is new
    machine a changed: interfaces: tap1 -> 52:54:00:12:34:56; plan: p -> q; auto-unsuspend: none -> false
    account x is new
    "#);
}

#[test]
fn what_is_gone_is_told_and_so_is_another_order_of_rules() {
    let rules = |first: &str, second: &str| {
        format!(
            "allowance = \"1 TB\"\n[[rule]]\nused = \"{first}\"\nnotify = true\n\
             [[rule]]\nused = \"{second}\"\nnotify = true\n"
        )
    };
    let (old, new) = (rules("80%", "90%"), rules("90%", "80%"));
    let old = good(&[("plans/p.toml", &old), ("machines/a.toml", MACHINE)]);
    insta::assert_snapshot!(changes(&old, &[("plans/p.toml", &new)]), @r#"
    [[discover]] changed
    plan p changed: the order of rules changed
    machine a is gone
    "#);
}
