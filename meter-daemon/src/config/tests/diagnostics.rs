//! Every combination that makes no sense is named, with its place and its remedy.

use insta::assert_snapshot;

use super::{checked, good, said, said_of_plan};

/// A plan of one rule, with what stands above it.
fn with_rule(above: &str, rule: &str) -> String {
    format!(
        r#"
        allowance = "1 TB"
        {above}
        [[rule]]
        {rule}
    "#
    )
}

#[test]
fn an_unknown_key_is_named_with_the_one_that_was_meant() {
    assert_snapshot!(said(&[("meterd.toml", r#"
        poll_interval = "60s"
        colour = "red"
    "#)]), @r#"
    error: unknown key `poll_interval` in meterd.toml
     --> meterd.toml:1:1
      |
    1 | poll_interval = "60s"
      | ^^^^^^^^^^^^^
      |
      = help: did you mean `poll-interval`?

    error: unknown key `colour` in meterd.toml
     --> meterd.toml:2:1
      |
    2 | colour = "red"
      | ^^^^^^
      |
      = help: remove it; meterd.toml knows state-directory, runtime-directory, pin-directory, poll-interval, time-zone, count-bytes, dry-run, attach, max-interfaces, exempt, metrics, smtp, webhook, circuit-breaker, retention, discover, machine, account
    "#);
}

#[test]
fn a_key_that_slid_under_a_header_is_sent_back_to_the_top() {
    assert_snapshot!(said(&[("meterd.toml", r#"
        [metrics]
        listen = ""
        dry-run = true
    "#)]), @r#"
    error: unknown key `dry-run` in [metrics]
     --> meterd.toml:3:1
      |
    3 | dry-run = true
      | ^^^^^^^
      |
      = help: `dry-run` belongs at the top of the file: move it above the first header
    "#);
}

#[test]
fn a_value_of_the_wrong_type_shows_the_right_one() {
    assert_snapshot!(said(&[(
        "meterd.toml",
        r#"
        dry-run = "yes"
        poll-interval = true
        max-interfaces = "100"
        exempt = "10.0.0.0/8"
        metrics = []
    "#,
    )]), @r#"
    error: `dry-run` is true or false, without quotes; this is a string
     --> meterd.toml:1:11
      |
    1 | dry-run = "yes"
      |           ^^^^^
      |
      = help: write: dry-run = true

    error: the time between two readings is written as a string, not true or false
     --> meterd.toml:2:17
      |
    2 | poll-interval = true
      |                 ^^^^
      |
      = help: write: poll-interval = "60s"

    error: `max-interfaces` is a whole number from 1 to 65536, without quotes; this is a string
     --> meterd.toml:3:18
      |
    3 | max-interfaces = "100"
      |                  ^^^^^
      |
      = help: write: max-interfaces = 100

    error: `exempt` is a list; this is a string
     --> meterd.toml:4:10
      |
    4 | exempt = "10.0.0.0/8"
      |          ^^^^^^^^^^^^
      |
      = help: write: exempt = ["10.0.0.0/8"]

    error: there is one [metrics], not a list of them
     --> meterd.toml:5:11
      |
    5 | metrics = []
      |           ^^
      |
      = help: write one [metrics] header
    "#);
}

#[test]
fn a_quantity_that_is_none_says_what_to_write() {
    assert_snapshot!(said_of_plan(r#"
        allowance = "1 XB"
        [[rule]]
        used = "105%"
        throttle = "64 kbps"
    "#), @r#"
    error: `XB` is not a unit of volume (B, kB, MB, GB, TB, PB; KiB, MiB, GiB, TiB)
     --> plans/p.toml:1:13
      |
    1 | allowance = "1 XB"
      |             ^^^^^^
      |
      = help: write: allowance = "1 GB"

    error: `kbps` is not a unit of rate (bit/s, kbit/s, Mbit/s, Gbit/s)
     --> plans/p.toml:4:12
      |
    4 | throttle = "64 kbps"
      |            ^^^^^^^^^
      |
      = help: write: throttle = "64 kbit/s"
    "#);
}

#[test]
fn a_forgotten_unit_and_forgotten_quotes_are_both_named() {
    assert_snapshot!(said_of_plan(r#"
        allowance = 1000
        [[rule]]
        used = 80
        notify = true
        [[rule]]
        used = "90"
        notify = true
    "#), @r#"
    error: an allowance is written in quotes, and `1000` has no unit (B, kB, MB, GB, TB, PB; KiB, MiB, …)
     --> plans/p.toml:1:13
      |
    1 | allowance = 1000
      |             ^^^^
      |
      = help: write: allowance = "1000 GB"

    error: a percentage of the allowance or a volume is written in quotes, and `80` has neither a percent sign nor a unit
     --> plans/p.toml:3:8
      |
    3 | used = 80
      |        ^^
      |
      = help: write: used = "80%"

    error: `90` has neither a percent sign nor a unit
     --> plans/p.toml:6:8
      |
    6 | used = "90"
      |        ^^^^
      |
      = help: write: used = "90%"
    "#);
}

#[test]
fn several_problems_in_several_files_are_told_at_once() {
    assert_snapshot!(said(&[
        ("meterd.toml", r#"
        poll-interval = "2h"
        [[discover]]
        interface = '^tap'
        plan = "edsi"
    "#),
        ("plans/edis.toml", r#"
        allowance = "1 TB"
        direction = "both"
    "#),
        ("machines/web1.toml", r#"
        [[machine]]
        id = "web 1"
        renewal-day = 32
    "#),
    ]), @r#"
    error: `web 1` cannot be a machine's id: letters, digits and . _ : -, at most 128, since it stands in URLs and metrics
     --> machines/web1.toml:2:6
      |
    2 | id = "web 1"
      |      ^^^^^^^
      |
      = help: write: id = "web-1"

    error: `renewal-day` is a whole number from 1 to 31
     --> machines/web1.toml:3:15
      |
    3 | renewal-day = 32
      |               ^^
      |
      = help: write: renewal-day = 31

    error: readings are at most an hour apart
     --> meterd.toml:1:17
      |
    1 | poll-interval = "2h"
      |                 ^^^^
      |
      = help: write: poll-interval = "1h"

    error: there is no plan `edsi`
     --> meterd.toml:4:8
      |
    4 | plan = "edsi"
      |        ^^^^^^
      |
      = help: did you mean "edis"?

    error: `direction` cannot be `both`
     --> plans/edis.toml:2:13
      |
    2 | direction = "both"
      |             ^^^^^^
      |
      = help: write: direction = "sum" (it is one of sum, received, sent, larger)
    "#);
}

#[test]
fn a_plan_or_account_that_does_not_exist_is_named_with_the_nearest() {
    assert_snapshot!(said(&[
        ("meterd.toml", r#"
        [[machine]]
        id = "web1"
        plan = "eddis"
        account = "acne"
        [[machine]]
        id = "web2"
        plan = "gold"
        account = "nobody"
        [[account]]
        id = "acme"
    "#),
        ("plans/edis.toml", r#"
        allowance = "1 TB"
    "#),
    ]), @r#"
    error: there is no plan `eddis`
     --> meterd.toml:3:8
      |
    3 | plan = "eddis"
      |        ^^^^^^^
      |
      = help: did you mean "edis"?

    error: there is no account `acne`
     --> meterd.toml:4:11
      |
    4 | account = "acne"
      |           ^^^^^^
      |
      = help: did you mean "acme"?

    error: there is no plan `gold`
     --> meterd.toml:7:8
      |
    7 | plan = "gold"
      |        ^^^^^^
      |
      = help: create plans/gold.toml, or name one of edis

    error: there is no account `nobody`
     --> meterd.toml:8:11
      |
    8 | account = "nobody"
      |           ^^^^^^^^
      |
      = help: add it: [[account]] with id = "nobody"
    "#);
}

#[test]
fn a_plan_named_where_there_is_no_plan_at_all_is_to_be_created() {
    assert_snapshot!(said(&[("meterd.toml", r#"
        [[discover]]
        interface = 'tap'
        plan = "edis"
    "#)]), @r#"
    error: there is no plan `edis`
     --> meterd.toml:3:8
      |
    3 | plan = "edis"
      |        ^^^^^^
      |
      = help: create plans/edis.toml beside meterd.toml
    "#);
}

#[test]
fn an_interface_claimed_by_two_machines_is_refused_with_both_places() {
    assert_snapshot!(said(&[
        ("meterd.toml", r#"
        [[machine]]
        id = "a"
        interfaces = ["tap1", "tap2"]
    "#),
        ("machines/b.toml", r#"
        [[machine]]
        id = "b"
        interfaces = [
          "tap2",
          "tap3",
          "tap3",
        ]
    "#),
    ]), @r#"
    error: the interface `tap2` is claimed twice, also at meterd.toml:3
     --> machines/b.toml:4:3
      |
    4 |   "tap2",
      |   ^^^^^^
      |
      = help: an interface belongs to one machine, and is named once: remove it here or there

    error: the interface `tap3` is claimed twice, also at machines/b.toml:5
     --> machines/b.toml:6:3
      |
    6 |   "tap3",
      |   ^^^^^^
      |
      = help: an interface belongs to one machine, and is named once: remove it here or there
    "#);
}

#[test]
fn a_mac_address_claimed_by_two_machines_is_refused_also_as_libvirt_writes_it() {
    assert_snapshot!(said(&[(
        "machines/all.toml",
        r#"
        [[machine]]
        id = "a"
        macs = ["52:54:00:12:34:56"]
        [[machine]]
        id = "b"
        macs = ["52:54:00:12:34:56"]
        [[machine]]
        id = "c"
        macs = ["fe:54:00:12:34:56"]
    "#,
    )]), @r#"
    error: the MAC address 52:54:00:12:34:56 is claimed twice, also at machines/all.toml:3
     --> machines/all.toml:6:9
      |
    6 | macs = ["52:54:00:12:34:56"]
      |         ^^^^^^^^^^^^^^^^^^^
      |
      = help: a MAC address belongs to one machine: remove or change it here or there

    error: a tap with the first octet fe, as libvirt makes it, would match fe:54:00:12:34:56 and also 52:54:00:12:34:56 at machines/all.toml:3
     --> machines/all.toml:9:9
      |
    9 | macs = ["fe:54:00:12:34:56"]
      |         ^^^^^^^^^^^^^^^^^^^
      |
      = help: a MAC address belongs to one machine: remove or change it here or there
    "#);
}

#[test]
fn ids_are_there_once() {
    assert_snapshot!(said(&[(
        "machines/all.toml",
        r#"
        [[machine]]
        id = "a"
        [[machine]]
        id = "a"
        [[account]]
        id = "x"
        [[account]]
        id = "x"
    "#,
    )]), @r#"
    error: there are two machines `a`, also at machines/all.toml:2
     --> machines/all.toml:4:6
      |
    4 | id = "a"
      |      ^^^
      |
      = help: give one of them another id, or remove it

    error: there are two accounts `x`, also at machines/all.toml:6
     --> machines/all.toml:8:6
      |
    8 | id = "x"
      |      ^^^
      |
      = help: give one of them another id, or remove it
    "#);
}

#[test]
fn a_rule_has_one_trigger() {
    assert_snapshot!(said_of_plan(&with_rule("", r#"
        used = "80%"
        over = "90%"
        notify = true
        [[rule]]
        notify = true
        [[rule]]
        overdue = false
        cap = "1 GB"
    "#)), @r#"
    error: a rule has one trigger; this one has `used` and `over`
     --> plans/p.toml:6:8
      |
    6 | over = "90%"
      |        ^^^^^
      |
      = help: make two rules, or remove `over`

    error: this rule has no trigger
     --> plans/p.toml:8:1
      |
    8 | [[rule]]
      | ^^^^^^^^
      |
      = help: write when it holds, one of used, over, accrued, cost, forecast, overdue: used = "100%"

    error: `overdue = false` is no trigger
      --> plans/p.toml:11:11
       |
    11 | overdue = false
       |           ^^^^^
       |
       = help: write: overdue = true
    "#);
}

#[test]
fn a_rule_does_something() {
    assert_snapshot!(said_of_plan(&with_rule("", r#"
        used = "80%"
        [[rule]]
        used = "90%"
        notify = false
        suspend = false
    "#)), @r#"
    error: this rule does nothing
     --> plans/p.toml:3:1
      |
    3 | [[rule]]
      | ^^^^^^^^
      |
      = help: write what it does, one or more of notify, flag, throttle, cap, suspend: notify = true

    error: this rule does nothing
     --> plans/p.toml:6:1
      |
    6 | [[rule]]
      | ^^^^^^^^
      |
      = help: write what it does, one or more of notify, flag, throttle, cap, suspend: notify = true
    "#);
}

#[test]
fn an_action_beside_a_stronger_one_is_warned_of() {
    assert_snapshot!(said_of_plan(&with_rule("", r#"
        used = "80%"
        throttle = "1 Mbit/s"
        cap = "1 GB"
    "#)), @r#"
    warning: `throttle` has no effect beside `cap`: the strongest action is felt
     --> plans/p.toml:6:12
      |
    6 | throttle = "1 Mbit/s"
      |            ^^^^^^^^^^
      |
      = help: remove it, or give it a rule of its own, with its own trigger or `after`
    "#);
}

#[test]
fn lift_on_a_rule_that_only_speaks_is_warned_of() {
    assert_snapshot!(said_of_plan(&with_rule("", r#"
        used = "80%"
        notify = true
        lift = "by-hand"
    "#)), @r#"
    warning: `lift` has no effect: this rule neither throttles, caps nor suspends
     --> plans/p.toml:7:8
      |
    7 | lift = "by-hand"
      |        ^^^^^^^^^
      |
      = help: remove it, or add throttle, cap or suspend
    "#);
}

#[test]
fn two_rules_of_one_name_are_refused() {
    assert_snapshot!(said_of_plan(&with_rule("", r#"
        used = "80%"
        notify = true
        [[rule]]
        used = "80.0 %"
        flag = true
        [[rule]]
        used = "80%"
        after = "1h"
        flag = true
    "#)), @r#"
    error: there are two rules `used 80%`
     --> plans/p.toml:8:8
      |
    8 | used = "80.0 %"
      |        ^^^^^^^^
      |
      = help: put what they do into one, or give this one another figure or another `after`
    "#);
}

#[test]
fn due_with_collect_balance_is_refused() {
    assert_snapshot!(said_of_plan(r#"
        allowance = "1 TB"
        [price]
        currency = "EUR"
        overage = { per = "1 GB", price = "0.01", collect = "balance", due = "5d" }
    "#), @r#"
    error: `due` is the date of a bill, and what is collected from the balance has none
     --> plans/p.toml:4:70
      |
    4 | overage = { per = "1 GB", price = "0.01", collect = "balance", due = "5d" }
      |                                                                      ^^^^
      |
      = help: remove `due`, or write: collect = "invoice"
    "#);
}

#[test]
fn overage_says_how_it_is_collected() {
    assert_snapshot!(said_of_plan(r#"
        allowance = "1 TB"
        [price]
        currency = "EUR"
        overage = { per = "0 GB", price = 0.01 }
    "#), @r#"
    error: `overage` does not say how it is collected
     --> plans/p.toml:4:11
      |
    4 | overage = { per = "0 GB", price = 0.01 }
      |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write in it: collect = "balance", or collect = "invoice", due = "5d"

    error: no volume cannot have a price
     --> plans/p.toml:4:19
      |
    4 | overage = { per = "0 GB", price = 0.01 }
      |                   ^^^^^^
      |
      = help: write: per = "1 GB"

    error: a price is written in quotes
     --> plans/p.toml:4:35
      |
    4 | overage = { per = "0 GB", price = 0.01 }
      |                                   ^^^^
      |
      = help: write: price = "0.01"
    "#);
}

#[test]
fn a_plans_own_price_is_a_price_and_may_stand_alone() {
    assert_snapshot!(said_of_plan(r#"
        allowance = "1 TB"
        [price]
        currency = "EUR"
        base = 4.90
    "#), @r#"
    error: a price is written in quotes
     --> plans/p.toml:4:8
      |
    4 | base = 4.90
      |        ^^^^
      |
      = help: write: base = "4.90"
    "#);
    let plan = r#"
        allowance = "1 TB"
        [price]
        currency = "EUR"
        base = "4.90"
    "#;
    assert_eq!(said_of_plan(plan), "");
    let config = good(&[("meterd.toml", ""), ("plans/p.toml", plan)]);
    let price = config.plans.values().next().unwrap().price.clone().unwrap();
    assert_eq!(price.base, Some("4.90".parse().unwrap()));
}

#[test]
fn a_due_date_counts_days() {
    assert_snapshot!(said_of_plan(r#"
        allowance = "1 TB"
        [price]
        currency = "EUR"
        overage = { per = "1 GB", price = "0.01", collect = "invoice", due = "24h" }
    "#), @r#"
    error: `24h` is not a number of civil days
     --> plans/p.toml:4:70
      |
    4 | overage = { per = "1 GB", price = "0.01", collect = "invoice", due = "24h" }
      |                                                                      ^^^^^
      |
      = help: write: due = "1d"
    "#);
}

#[test]
fn accrued_needs_a_daily_allowance() {
    assert_snapshot!(said_of_plan(&with_rule("", r#"
        accrued = "100%"
        flag = true
    "#)), @r#"
    error: `accrued` compares with a daily allowance, and this plan has none
     --> plans/p.toml:5:11
      |
    5 | accrued = "100%"
      |           ^^^^^^
      |
      = help: write at the top of the file: daily = { days = 30 }
    "#);
}

#[test]
fn daily_needs_an_allowance_with_an_end() {
    assert_snapshot!(said_of_plan(r#"
        allowance = "unlimited"
        daily = { days = 30 }
    "#), @r#"
    error: an unlimited allowance cannot be granted day by day, as `daily` asks
     --> plans/p.toml:1:13
      |
    1 | allowance = "unlimited"
      |             ^^^^^^^^^^^
      |
      = help: write a volume: allowance = "5 TB"; or remove `daily`
    "#);
    assert_snapshot!(said_of_plan(r#"
        daily = { day = 30 }
    "#), @r#"
    error: `daily` divides the allowance, and this plan has none
     --> plans/p.toml:1:9
      |
    1 | daily = { day = 30 }
      |         ^^^^^^^^^^^^
      |
      = help: write above it: allowance = "5 TB"

    error: `daily` does not say among how many days the allowance is divided
     --> plans/p.toml:1:9
      |
    1 | daily = { day = 30 }
      |         ^^^^^^^^^^^^
      |
      = help: write: daily = { days = 30 }

    error: unknown key `day` in `daily`
     --> plans/p.toml:1:11
      |
    1 | daily = { day = 30 }
      |           ^^^
      |
      = help: did you mean `days`?
    "#);
}

#[test]
fn cost_needs_a_price_of_usage() {
    assert_snapshot!(said_of_plan(r#"
        allowance = "unlimited"
        cost-limit = "10 USD"
        [[rule]]
        cost = "100%"
        suspend = true
    "#), @r#"
    error: a cost limit without a price of usage: nothing ever costs anything
     --> plans/p.toml:2:14
      |
    2 | cost-limit = "10 USD"
      |              ^^^^^^^^
      |
      = help: write under [price]: usage = { per = "1 GB", price = "0.02" }

    error: `cost` needs a price of usage: nothing ever costs anything
     --> plans/p.toml:4:8
      |
    4 | cost = "100%"
      |        ^^^^^^
      |
      = help: write under [price]: usage = { per = "1 GB", price = "0.02" }
    "#);
}

#[test]
fn a_cost_limit_that_no_rule_acts_on_is_warned_of() {
    assert_snapshot!(said_of_plan(r#"
        allowance = "unlimited"
        cost-limit = "10 USD"
        [price]
        currency = "USD"
        usage = { per = "1 GB", price = "1" }
    "#), @r#"
    warning: no rule acts on this cost limit
     --> plans/p.toml:2:14
      |
    2 | cost-limit = "10 USD"
      |              ^^^^^^^^
      |
      = help: add a [[rule]] with: cost = "100%"
    "#);
}

#[test]
fn money_is_in_one_currency() {
    assert_snapshot!(said(&[
        ("plans/p.toml", r#"
        allowance = "1 TB"
        cost-limit = "10 USD"
        [price]
        currency = "EUR"
        usage = { per = "1 GB", price = "1" }
        [[rule]]
        cost = "5 GBP"
        suspend = true
    "#),
        ("machines/m.toml", r#"
        [[machine]]
        id = "a"
        plan = "p"
        account = "x"
        cost-limit = "10 USD"
        [[account]]
        id = "x"
        currency = "CHF"
        balance = "50 EUR"
    "#),
    ]), @r#"
    error: the account `x` is in CHF, the prices of the plan `p` in EUR
     --> machines/m.toml:4:11
      |
    4 | account = "x"
      |           ^^^
      |
      = help: name an account in EUR, or give the plan prices in CHF

    error: this is in USD, the prices of the plan `p` are in EUR
     --> machines/m.toml:5:14
      |
    5 | cost-limit = "10 USD"
      |              ^^^^^^^^
      |
      = help: write: cost-limit = "10 EUR"

    error: this is in EUR, the account's currency is CHF
     --> machines/m.toml:9:11
      |
    9 | balance = "50 EUR"
      |           ^^^^^^^^
      |
      = help: write: balance = "50 CHF"

    error: this is in USD, the plan's prices are in EUR
     --> plans/p.toml:2:14
      |
    2 | cost-limit = "10 USD"
      |              ^^^^^^^^
      |
      = help: write the amount in EUR: "10 EUR"

    error: this is in GBP, the plan's prices are in EUR
     --> plans/p.toml:7:8
      |
    7 | cost = "5 GBP"
      |        ^^^^^^^
      |
      = help: write the amount in EUR: "5 EUR"
    "#);
}

#[test]
fn a_machine_has_a_cost_limit_only_where_usage_has_a_price() {
    assert_snapshot!(said(&[
        ("plans/p.toml", r#"
        allowance = "1 TB"
    "#),
        ("machines/m.toml", r#"
        [[machine]]
        id = "a"
        plan = "p"
        cost-limit = "10 USD"
    "#),
    ]), @r#"
    error: the plan `p` has no price of usage: nothing ever costs anything
     --> machines/m.toml:4:14
      |
    4 | cost-limit = "10 USD"
      |              ^^^^^^^^
      |
      = help: remove this limit, or write in plans/p.toml under [price]: usage = { per = "1 GB", price = "0.02" }
    "#);
}

#[test]
fn a_renewal_day_that_no_plan_looks_at_is_warned_of() {
    assert_snapshot!(said(&[
        ("plans/p.toml", r#"
        allowance = "1 TB"
        period = { starts = 1 }
    "#),
        ("machines/m.toml", r#"
        [[machine]]
        id = "a"
        plan = "p"
        renewal-day = 31
    "#),
    ]), @r#"
    warning: the plan `p` starts on day 1 for everybody, whatever this says
     --> machines/m.toml:4:15
      |
    4 | renewal-day = 31
      |               ^^
      |
      = help: remove it, or write in the plan: period = { starts = "renewal-day" }
    "#);
}

#[test]
fn an_account_without_a_currency_under_a_plan_that_charges_is_warned_of() {
    assert_snapshot!(said(&[
        ("plans/p.toml", r#"
        allowance = "1 TB"
        [price]
        currency = "EUR"
        extra = { per = "1 GB", price = "1", collect = "balance" }
    "#),
        ("machines/m.toml", r#"
        [[machine]]
        id = "a"
        plan = "p"
        account = "x"
        [[account]]
        id = "x"
    "#),
    ]), @r#"
    warning: the account `x` has no currency, so what the plan `p` charges moves no balance
     --> machines/m.toml:4:11
      |
    4 | account = "x"
      |           ^^^
      |
      = help: write in that [[account]]: currency = "EUR"
    "#);
}

#[test]
fn a_percentage_of_an_allowance_that_was_forgotten_is_warned_of_and_of_an_unlimited_one_is_not() {
    assert_snapshot!(said_of_plan(r#"
        [[rule]]
        used = "80%"
        notify = true
    "#), @r#"
    warning: this plan sets no allowance, so a percentage of it never holds
     --> plans/p.toml:2:8
      |
    2 | used = "80%"
      |        ^^^^^
      |
      = help: write at the top of the file: allowance = "1 TB", or allowance = "unlimited" where each machine sets its own
    "#);
    assert_eq!(
        said_of_plan(
            r#"
        allowance = "unlimited"
        [[rule]]
        used = "80%"
        notify = true
    "#
        ),
        ""
    );
}

#[test]
fn overdue_where_no_overage_is_billed_is_warned_of() {
    assert_snapshot!(said_of_plan(&with_rule("", r#"
        overdue = true
        cap = "100 MB"
    "#)), @r#"
    warning: this plan bills no overage: only a bill from before a change of plan can be overdue
     --> plans/p.toml:5:11
      |
    5 | overdue = true
      |           ^^^^
      |
      = help: collect overage by bill: collect = "invoice"; or remove the rule
    "#);
}

#[test]
fn days_of_the_month_are_1_to_31() {
    assert_snapshot!(said(&[
        ("plans/a.toml", r#"
        allowance = "1 TB"
        period = { starts = 0 }
    "#),
        ("plans/b.toml", r#"
        allowance = "1 TB"
        period = { starts = "15" }
    "#),
        ("plans/c.toml", r#"
        allowance = "1 TB"
        period = { starts = "anniversary" }
    "#),
    ]), @r#"
    error: `starts` is a whole number from 1 to 31
     --> plans/a.toml:2:21
      |
    2 | period = { starts = 0 }
      |                     ^
      |
      = help: write: starts = 1

    error: `starts` is a whole number from 1 to 31, without quotes; this is a string
     --> plans/b.toml:2:21
      |
    2 | period = { starts = "15" }
      |                     ^^^^
      |
      = help: write: starts = 15

    error: `starts` cannot be `anniversary`
     --> plans/c.toml:2:21
      |
    2 | period = { starts = "anniversary" }
      |                     ^^^^^^^^^^^^^
      |
      = help: write: starts = "renewal-day" (it is one of renewal-day)
    "#);
}

#[test]
fn a_zone_that_is_none_is_named_with_the_one_that_was_meant() {
    assert_snapshot!(said(&[
        ("meterd.toml", r#"
        time-zone = "Vienna"
    "#),
        ("plans/p.toml", r#"
        allowance = "1 TB"
        period = { starts = 1, time-zone = "Europe/Viena" }
    "#),
    ]), @r#"
    error: `Vienna` is not a time zone of the tz database
     --> meterd.toml:1:13
      |
    1 | time-zone = "Vienna"
      |             ^^^^^^^^
      |
      = help: write: time-zone = "Europe/Vienna"

    error: `Europe/Viena` is not a time zone of the tz database
     --> plans/p.toml:2:36
      |
    2 | period = { starts = 1, time-zone = "Europe/Viena" }
      |                                    ^^^^^^^^^^^^^^
      |
      = help: write: time-zone = "Europe/Vienna"
    "#);
}

#[test]
fn a_pattern_that_is_broken_or_names_another_group_is_refused() {
    assert_snapshot!(said(&[(
        "meterd.toml",
        r#"
        [[discover]]
        interface = '^tap(\d+'
        [[discover]]
        interface = '^tap(?<vm>\d+)$'
        [[discover]]
        plan = "x"
    "#,
    ), ("plans/x.toml", r#"
        allowance = "1 TB"
    "#)]), @r#"
    error: this pattern is broken: unclosed group
     --> meterd.toml:2:13
      |
    2 | interface = '^tap(\d+'
      |             ^^^^^^^^^^
      |
      = help: write: interface = '^tap(?<machine>\d+)i\d+$'

    error: no group is called `machine`, which makes the id; one is called `vm`
     --> meterd.toml:4:13
      |
    4 | interface = '^tap(?<vm>\d+)$'
      |             ^^^^^^^^^^^^^^^^^
      |
      = help: write: interface = '^tap(?<machine>\d+)$'

    error: [[discover]] has no `interface`
     --> meterd.toml:5:1
      |
    5 | [[discover]]
      | ^^^^^^^^^^^^
      |
      = help: write: interface = '^tap(?<machine>\d+)i\d+$'
    "#);
}

#[test]
fn names_that_stand_in_urls_and_metrics_hold_no_odd_characters() {
    assert_snapshot!(said(&[
        ("plans/my plan.toml", r#"
        allowance = "1 TB"
    "#),
        ("machines/m.toml", r#"
        [[machine]]
        id = "web/1"
        [[machine]]
        id = ".."
        [[machine]]
        id = ""
        [[machine]]
        id = "ok:1.2_3-4"
        interfaces = ["a name too long", "a/b"]
        [[account]]
        id = "größe"
        primary = "owner"
    "#),
    ]), @r#"
    error: `web/1` cannot be a machine's id: letters, digits and . _ : -, at most 128, since it stands in URLs and metrics
     --> machines/m.toml:2:6
      |
    2 | id = "web/1"
      |      ^^^^^^^
      |
      = help: write: id = "web-1"

    error: `..` cannot be a machine's id: letters, digits and . _ : -, at most 128, since it stands in URLs and metrics
     --> machines/m.toml:4:6
      |
    4 | id = ".."
      |      ^^^^
      |
      = help: write: id = "web1"

    error: "" cannot be a machine's id: letters, digits and . _ : -, at most 128, since it stands in URLs and metrics
     --> machines/m.toml:6:6
      |
    6 | id = ""
      |      ^^
      |
      = help: write: id = "web1"

    error: `a name too long` cannot be an interface's name: 1 to 15 bytes without / : or blanks
     --> machines/m.toml:9:15
      |
    9 | interfaces = ["a name too long", "a/b"]
      |               ^^^^^^^^^^^^^^^^^
      |
      = help: write: "tap101i0"

    error: `a/b` cannot be an interface's name: 1 to 15 bytes without / : or blanks
     --> machines/m.toml:9:34
      |
    9 | interfaces = ["a name too long", "a/b"]
      |                                  ^^^^^
      |
      = help: write: "tap101i0"

    error: `größe` cannot be an account's id: letters, digits and . _ : -, at most 128, since it stands in URLs and metrics
      --> machines/m.toml:11:6
       |
    11 | id = "größe"
       |      ^^^^^^^
       |
       = help: write: id = "gr--e"

    error: `owner` is not an e-mail address
      --> machines/m.toml:12:11
       |
    12 | primary = "owner"
       |           ^^^^^^^
       |
       = help: write: primary = "owner@example.com"

    error: `my plan` cannot be a plan's name: letters, digits and . _ -, at most 64
    --> plans/my plan.toml
     = help: rename the file: my-plan.toml
    "#);
}

#[test]
fn a_machine_is_known_by_interfaces_or_by_macs() {
    assert_snapshot!(said(&[(
        "machines/m.toml",
        r#"
        [[machine]]
        id = "a"
        interfaces = ["tap1"]
        macs = ["52-54-00-12-34-56", "01:00:5e:00:00:01"]
    "#,
    )]), @r#"
    error: a machine is known by its interfaces or by its MAC addresses, not by both
     --> machines/m.toml:4:8
      |
    4 | macs = ["52-54-00-12-34-56", "01:00:5e:00:00:01"]
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: remove `interfaces` or `macs`

    error: `52-54-00-12-34-56` is not a guest's MAC address: six pairs of hex digits with colons between
     --> machines/m.toml:4:9
      |
    4 | macs = ["52-54-00-12-34-56", "01:00:5e:00:00:01"]
      |         ^^^^^^^^^^^^^^^^^^^
      |
      = help: write: "52:54:00:12:34:56"

    error: `01:00:5e:00:00:01` is not a guest's MAC address: it is zero or a group address
     --> machines/m.toml:4:30
      |
    4 | macs = ["52-54-00-12-34-56", "01:00:5e:00:00:01"]
      |                              ^^^^^^^^^^^^^^^^^^^
      |
      = help: write: "52:54:00:12:34:56"
    "#);
}

#[test]
fn where_metrics_listen_is_an_address_and_a_port() {
    assert_snapshot!(said(&[("meterd.toml", r#"
        [metrics]
        listen = "localhost:9751"
    "#)]), @r#"
    error: `localhost:9751` is not an IP address with a port
     --> meterd.toml:2:10
      |
    2 | listen = "localhost:9751"
      |          ^^^^^^^^^^^^^^^^
      |
      = help: write: listen = "127.0.0.1:9751"
    "#);
}

#[test]
fn notices_go_where_they_can_be_sent_safely() {
    assert_snapshot!(said(&[(
        "meterd.toml",
        r#"
        [smtp]
        url = "smtp+plain://mail.example.com"
        user = "traffic"
        [[webhook]]
        url = "billing.example.com"
        events = ["suspend"]
    "#,
    )]), @r#"
    error: [smtp] has no `from`
     --> meterd.toml:1:1
      |
    1 | [smtp]
      | ^^^^^^
      |
      = help: write: from = "owner@example.com"

    error: mail to `mail.example.com` would cross a network in the clear
     --> meterd.toml:2:7
      |
    2 | url = "smtp+plain://mail.example.com"
      |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write: url = "smtp://mail.example.com:587"

    error: `user` without `password-file` is no login
     --> meterd.toml:3:8
      |
    3 | user = "traffic"
      |        ^^^^^^^^^
      |
      = help: write: password-file = "smtp.password"

    error: [[webhook]] has no `secret-file`: its receiver could not tell our events from others'
     --> meterd.toml:4:1
      |
    4 | [[webhook]]
      | ^^^^^^^^^^^
      |
      = help: write: secret-file = "webhook.secret" (a file that holds whsec_…)

    error: `billing.example.com` is not a URL: it has no `://`
     --> meterd.toml:5:7
      |
    5 | url = "billing.example.com"
      |       ^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write: url = "https://billing.example.com/traffic"

    error: `suspend` is no event; it is one of period-started, notice, flagged, unflagged, throttled, capped, suspended, restored, charged, invoiced, paid, overdue, lapsed, topped-up, refused, changed, lifted, override-ended, balance, held-back, confirmed, cancelled
     --> meterd.toml:6:11
      |
    6 | events = ["suspend"]
      |           ^^^^^^^^^
      |
      = help: write: "suspended"
    "#);
}

#[test]
fn an_exempt_prefix_has_no_bits_behind_its_length() {
    assert_snapshot!(said(&[("meterd.toml", r#"
        exempt = ["10.1.2.3/8", "2001:db8::/32", "192.0.2.1", "lan"]
    "#)]), @r#"
    error: `10.1.2.3/8` has address bits behind its prefix length
     --> meterd.toml:1:11
      |
    1 | exempt = ["10.1.2.3/8", "2001:db8::/32", "192.0.2.1", "lan"]
      |           ^^^^^^^^^^^^
      |
      = help: write: "10.0.0.0/8"

    error: `lan` is not an address prefix
     --> meterd.toml:1:55
      |
    1 | exempt = ["10.1.2.3/8", "2001:db8::/32", "192.0.2.1", "lan"]
      |                                                       ^^^^^
      |
      = help: write: "10.0.0.0/8"
    "#);
}

#[test]
fn lists_of_tables_are_written_in_double_brackets() {
    assert_snapshot!(said(&[("machines/m.toml", r#"
        [machine]
        id = "a"
    "#)]), @r#"
    error: `machine` is a list of tables: there may be several
     --> machines/m.toml:1:1
      |
    1 | [machine]
      | ^^^^^^^^^
      |
      = help: write [[machine]] above each, in double brackets
    "#);
}

#[test]
fn text_that_is_no_toml_is_told_with_its_remedy_and_the_rest_is_checked() {
    assert_snapshot!(said(&[
        ("meterd.toml", r#"
        dry-run = perhaps
        time-zone = "Moon"
        [metrics
        listen = ""
    "#),
        ("plans/p.toml", r#"
        allowance = 1 TB
        allowance = "2 TB"
        direction = "up"
        [[rule]]
        used = 80%
        notify = true
    "#),
        ("plans/q.toml", r#"
        direction = "down"
    "#),
    ]), @r#"
    error: `dry-run` is true or false, without quotes; this is a string
     --> meterd.toml:1:11
      |
    1 | dry-run = perhaps
      |           ^^^^^^^
      |
      = help: write: dry-run = true

    error: `Moon` is not a time zone of the tz database
     --> meterd.toml:2:13
      |
    2 | time-zone = "Moon"
      |             ^^^^^^
      |
      = help: write: time-zone = "Europe/Vienna"

    error: this is not TOML: unclosed table
     --> meterd.toml:3:9
      |
    3 | [metrics
      |         ^
      |
      = help: write `]`

    error: `1 TB` needs quotes
     --> plans/p.toml:1:13
      |
    1 | allowance = 1 TB
      |             ^^^^
      |
      = help: write: allowance = "1 TB"

    error: `allowance` is there twice
     --> plans/p.toml:2:1
      |
    2 | allowance = "2 TB"
      | ^^^^^^^^^
      |
      = help: remove one of them

    error: `direction` cannot be `up`
     --> plans/p.toml:3:13
      |
    3 | direction = "up"
      |             ^^^^
      |
      = help: write: direction = "sum" (it is one of sum, received, sent, larger)

    error: `80%` needs quotes
     --> plans/p.toml:5:8
      |
    5 | used = 80%
      |        ^^^
      |
      = help: write: used = "80%"

    error: `direction` cannot be `down`
     --> plans/q.toml:1:13
      |
    1 | direction = "down"
      |             ^^^^^^
      |
      = help: write: direction = "sum" (it is one of sum, received, sent, larger)
    "#);
}

#[test]
fn a_circuit_breakers_share_is_at_most_all_and_usage_is_kept_a_day_at_least() {
    assert_snapshot!(said(&[(
        "meterd.toml",
        r#"
        [circuit-breaker]
        share = "200%"
        machines = -1
        [retention]
        minutes = "1h"
        years = "5d"
    "#,
    )]), @r#"
    error: there are no more machines than 100%
     --> meterd.toml:2:9
      |
    2 | share = "200%"
      |         ^^^^^^
      |
      = help: write: share = "20%"; 100% switches the circuit breaker off

    error: `machines` is a whole number from 0 to 4294967295
     --> meterd.toml:3:12
      |
    3 | machines = -1
      |            ^^
      |
      = help: write: machines = 0

    error: usage is kept for a day at least
     --> meterd.toml:5:11
      |
    5 | minutes = "1h"
      |           ^^^^
      |
      = help: write: minutes = "35d"

    error: unknown key `years` in [retention]
     --> meterd.toml:6:1
      |
    6 | years = "5d"
      | ^^^^^
      |
      = help: remove it; [retention] knows minutes, hours, days
    "#);
}

#[test]
fn what_is_good_is_taken_without_a_word() {
    let config = good(&[
        ("meterd.toml", ""),
        (
            "plans/p.toml",
            r#"
        allowance = "1 TB"
    "#,
        ),
    ]);
    assert!(config.warnings.is_empty());
    assert!(checked(&[]).is_ok());
}

#[test]
fn guests_of_a_hypervisor_are_named_as_it_names_them_and_once() {
    assert_snapshot!(said(&[
        (
            "meterd.toml",
            r#"
        [[discover]]
        hypervisor = "libvrt"
        [[discover]]
        hypervisor = "libvirt"
        machine = "vmid"
        [[discover]]
        hypervisor = "proxmox"
        interface = '^tap'
        [[discover]]
        interface = '^tap'
        machine = "name"
    "#,
        ),
        (
            "machines/m.toml",
            r#"
        [[machine]]
        id = "a"
        libvirt = "4dea22b31d52d8f32516782e98ab3fa0"
        [[machine]]
        id = "b"
        proxmox = 101
        interfaces = ["tap101i0"]
        [[machine]]
        id = "c"
        proxmox = "12"
        [[machine]]
        id = "d"
        libvirt = "web"
        [[machine]]
        id = "e"
        libvirt = "web"
        proxmox = "102"
    "#,
        ),
    ]), @r#"
    error: `4dea22b31d52d8f32516782e98ab3fa0` is not how libvirt writes a UUID
     --> machines/m.toml:3:11
      |
    3 | libvirt = "4dea22b31d52d8f32516782e98ab3fa0"
      |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write: libvirt = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"

    error: the VMID of a Proxmox VE guest is written in quotes
     --> machines/m.toml:6:11
      |
    6 | proxmox = 101
      |           ^^^
      |
      = help: write: proxmox = "101"

    error: `12` is not a VMID: 100 to 999999999
      --> machines/m.toml:10:11
       |
    10 | proxmox = "12"
       |           ^^^^
       |
       = help: write: proxmox = "101"

    error: the libvirt guest `web` is claimed twice, also at machines/m.toml:13
      --> machines/m.toml:16:11
       |
    16 | libvirt = "web"
       |           ^^^^^
       |
       = help: a guest is one machine: remove it here or there

    error: a machine is a guest of one hypervisor
      --> machines/m.toml:17:11
       |
    17 | proxmox = "102"
       |           ^^^^^
       |
       = help: remove `libvirt` or `proxmox`

    error: `hypervisor` cannot be `libvrt`
     --> meterd.toml:2:14
      |
    2 | hypervisor = "libvrt"
      |              ^^^^^^^^
      |
      = help: write: hypervisor = "libvirt" (it is one of libvirt, proxmox)

    error: `machine` cannot be `vmid`
     --> meterd.toml:5:11
      |
    5 | machine = "vmid"
      |           ^^^^^^
      |
      = help: write: machine = "uuid" (it is one of uuid, name)

    error: guests are found by a pattern or by their hypervisor, not by both at once
     --> meterd.toml:8:13
      |
    8 | interface = '^tap'
      |             ^^^^^^
      |
      = help: remove `interface` or `hypervisor`, or write two [[discover]]

    error: `machine` says what of a hypervisor's guest is the id; this one has no `hypervisor`
      --> meterd.toml:11:11
       |
    11 | machine = "name"
       |           ^^^^^^
       |
       = help: in a pattern the id is a group: interface = '^tap(?<machine>\d+)i\d+$'
    "#);
}
