//! What `simulate` runs on.

use std::{fs, path::PathBuf};

use crate::engine::{
    plan::{Allowance, Terms},
    units::{Bytes, MachineId},
};

use super::super::{Diagnostics, simulation};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn simulation(
        &self,
        plan: &str,
        machine: Option<&str>,
        config: Option<&str>,
    ) -> Result<(Terms, MachineId), Diagnostics> {
        let (machine, config) = (machine.map(|m| self.path(m)), config.map(|c| self.path(c)));
        simulation(&self.path(plan), machine.as_deref(), config.as_deref())
    }

    fn said(&self, plan: &str, machine: Option<&str>) -> String {
        let problems = self
            .simulation(plan, machine, None)
            .unwrap_err()
            .to_string();
        problems.replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn a_plan_alone_is_simulated_on_a_machine_called_like_it_in_the_plans_zone_or_utc() {
    let folder = Folder::new(&[
        ("a.toml", "allowance = \"1 TB\""),
        (
            "b.toml",
            "allowance = \"2 TB\"\nperiod = { starts = 1, time-zone = \"Asia/Tokyo\" }",
        ),
    ]);
    for (plan, name, zone) in [("a.toml", "a", "UTC"), ("b.toml", "b", "Asia/Tokyo")] {
        let (terms, id) = folder.simulation(plan, None, None).unwrap();
        assert_eq!(id.as_str(), name);
        let machine = terms.machines.get(name).unwrap();
        assert_eq!(machine.plan.as_ref().unwrap().name.as_str(), name);
        let found = machine.zone(machine.plan.as_deref());
        assert_eq!(found.iana_name(), Some(zone));
        // `set plan` finds the one beside it.
        assert_eq!(terms.plans.len(), 2);
    }
}

#[test]
fn the_machines_file_gives_its_own_terms_and_its_account() {
    let folder = Folder::new(&[
        (
            "p.toml",
            "allowance = \"1 TB\"\nperiod = { starts = \"renewal-day\" }",
        ),
        (
            "m.toml",
            "[[machine]]\nid = \"web1\"\nplan = \"another\"\naccount = \"acme\"\n\
             renewal-day = 31\nallowance = \"2 TB\"\n\
             [[account]]\nid = \"acme\"\nautopay = true\nbalance = \"50 EUR\"\npool = \"10 TB\"\n",
        ),
        ("broken.toml", "this is no plan"),
    ]);
    let (terms, id) = folder.simulation("p.toml", Some("m.toml"), None).unwrap();
    assert_eq!(id.as_str(), "web1");
    assert_eq!(terms.machines.len(), 1);
    let machine = terms.machines.get("web1").unwrap();
    assert_eq!(machine.plan.as_ref().unwrap().name.as_str(), "p");
    assert_eq!(
        machine.allowance,
        Some(Allowance::Limited(Bytes(2_000_000_000_000)))
    );
    assert_eq!(machine.renewal_day.unwrap().get(), 31);
    let account = terms.accounts.get("acme").unwrap();
    assert!(account.autopay);
    assert_eq!(account.opening_balance.unwrap().to_string(), "50.00 EUR");
    assert_eq!(account.pool, Some(Bytes(10_000_000_000_000)));
    assert_eq!(
        terms
            .plans
            .keys()
            .map(|name| name.as_str())
            .collect::<Vec<_>>(),
        ["p"]
    );
}

#[test]
fn a_configuration_gives_the_zone_and_further_accounts_and_plans() {
    let folder = Folder::new(&[
        ("p.toml", "allowance = \"1 TB\""),
        ("m.toml", "[[machine]]\nid = \"web1\"\naccount = \"acme\"\n"),
        (
            "etc/meterd.toml",
            "time-zone = \"Europe/Vienna\"\n[[account]]\nid = \"acme\"\n",
        ),
        ("etc/plans/q.toml", "allowance = \"2 TB\""),
        (
            "etc/machines/web1.toml",
            "[[machine]]\nid = \"web1\"\n[[machine]]\nid = \"web2\"\n",
        ),
    ]);
    let (terms, _) = folder
        .simulation("p.toml", Some("m.toml"), Some("etc/meterd.toml"))
        .unwrap();
    assert_eq!(terms.machines.len(), 1);
    let machine = terms.machines.get("web1").unwrap();
    let zone = machine.zone(machine.plan.as_deref()).iana_name();
    assert_eq!(zone, Some("Europe/Vienna"));
    assert!(terms.accounts.contains_key("acme"));
    assert!(terms.plans.contains_key("p") && terms.plans.contains_key("q"));
}

#[test]
fn what_cannot_be_simulated_is_told_at_once() {
    let folder = Folder::new(&[
        (
            "p.toml",
            "allowance = 1\n[price]\ncurrency = \"EUR\"\nextra = { per = \"1 GB\", price = \"1\" }\n",
        ),
        (
            "m.toml",
            "[[machine]]\nid = \"a\"\naccount = \"nobody\"\ncost-limit = \"1 USD\"\n\
             [[machine]]\nid = \"b\"\n",
        ),
        ("empty.toml", ""),
    ]);
    insta::assert_snapshot!(folder.said("p.toml", Some("m.toml")), @r#"
    error: there is no account `nobody`
     --> m.toml:3:11
      |
    3 | account = "nobody"
      |           ^^^^^^^^
      |
      = help: add to this file: [[account]] with id = "nobody"

    error: the plan `p` has no price of usage: nothing ever costs anything
     --> m.toml:4:14
      |
    4 | cost-limit = "1 USD"
      |              ^^^^^^^
      |
      = help: remove this limit, or write in plans/p.toml under [price]: usage = { per = "1 GB", price = "0.02" }

    error: this is in USD, the prices of the plan `p` are in EUR
     --> m.toml:4:14
      |
    4 | cost-limit = "1 USD"
      |              ^^^^^^^
      |
      = help: write: cost-limit = "1 EUR"

    error: one machine is simulated, and this is a second
     --> m.toml:6:6
      |
    6 | id = "b"
      |      ^^^
      |
      = help: put it into a file of its own

    error: an allowance is written in quotes, and `1` has no unit (B, kB, MB, GB, TB, PB; KiB, MiB, …)
     --> p.toml:1:13
      |
    1 | allowance = 1
      |             ^
      |
      = help: write: allowance = "1 GB"
    "#);
    insta::assert_snapshot!(folder.said("p.toml", Some("empty.toml")), @r#"
    error: this file has no [[machine]]
    --> empty.toml
     = help: write: [[machine]] and below it id = "web1"

    error: an allowance is written in quotes, and `1` has no unit (B, kB, MB, GB, TB, PB; KiB, MiB, …)
     --> p.toml:1:13
      |
    1 | allowance = 1
      |             ^
      |
      = help: write: allowance = "1 GB"
    "#);
    insta::assert_snapshot!(folder.said("missing.toml", None), @r#"
    error: cannot read this file: No such file or directory (os error 2)
    --> missing.toml
     = help: check the path
    "#);
}
