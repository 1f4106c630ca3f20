//! A forecast and an offer before the limit; a bill for more volume, which comes with its
//! payment; a bill for what went beyond it when the period closes; 100 MB a machine whose
//! bill stays unpaid.

use std::time::Duration;

use meter_tests::{
    Failure, Result,
    meterd::bytes,
    paper,
    sandbox::Sandbox,
    wait::{self, Seen},
    zone::{ShortDay, Zone},
};
use serde_json::Value;

use super::Story;
use crate::{
    checks::Checks,
    figures::{cents, money, nanos, volume},
    plan::{Change, Plan},
    screen::{Paint, Screen},
    stage::{MEGABYTE, Midnight, Opening, Stage, instant, lag},
};

pub(super) const STORY: Story = Story {
    plan: Plan {
        name: "invapi",
        shipped: include_str!("../../../../../config/plans/invapi.toml"),
        changes: &[
            Change {
                from: "starts = 1",
                to: "starts = \"renewal-day\"",
                why: "so that a period ends while you watch",
            },
            Change {
                from: "\"10 TB\"",
                to: "\"10 MB\"",
                why: "the scale: what is a TB there is a MB here",
            },
            Change {
                from: "overage = { per = \"1 TB\", price = \"1.50\", collect = \"invoice\", due = \"5d\" }",
                to: "overage = { per = \"1 MB\", price = \"1.50\", collect = \"invoice\", due = \"1d\" }",
                why: "by the same scale, and due one civil day later: that day takes 8 s here",
            },
        ],
    },
    play,
};

const ALLOWANCE: u64 = 10 * MEGABYTE;
const TERABYTE: u64 = 1_000_000 * MEGABYTE;
/// The plan's own, unscaled.
const CAP: u64 = 100 * MEGABYTE;

fn play(sandbox: &Sandbox, screen: &mut Screen, checks: &mut Checks) -> Result<()> {
    let opening = Opening {
        title: "invapi: prepaid packages, an offer, bills, and a cap for those who do not pay",
        guests: &["web1", "db1", "mail1"],
        plan: &STORY.plan,
        text: "Volume on offer stays in whole TB at the plan's price, and the cap stays 100 MB.\n\
               web1 is in the middle of its period; those of db1 and mail1 end at midnight.\n\
               The account of mail1 pays automatically, the others do not.",
        midnight: Some(Midnight {
            after: Duration::from_secs(3),
            and_work: Duration::from_secs(5),
            short: Some(ShortDay {
                clocks_forward: Duration::from_secs(5),
                lasts: Duration::from_secs(8),
            }),
        }),
    };
    let mut stage = Stage::set(sandbox, screen, checks, &opening, config)?;
    near_the_limit(&mut stage)?;
    more_volume(&mut stage)?;
    let bill = period_closes(&mut stage)?;
    overdue(&mut stage, &bill)?;
    paid(&mut stage, &bill)?;
    stage.leave()
}

fn config(zone: Option<&Zone>) -> String {
    let day = |later| zone.map_or(1, |zone| zone.day_of_month(later));
    let machine = |id, number, account, renewal| {
        format!(
            "[[machine]]\nid = \"{id}\"\ninterfaces = [\"tap{number}i0\"]\nplan = \"invapi\"\n\
             account = \"{account}\"\nrenewal-day = {renewal}\n"
        )
    };
    let account = |id, autopay| {
        format!("[[account]]\nid = \"{id}\"\ncurrency = \"EUR\"\nautopay = {autopay}\n")
    };
    [
        account("acme", false),
        account("shop", false),
        account("post", true),
        machine("web1", 101, "acme", day(15)),
        machine("db1", 102, "shop", day(0)),
        machine("mail1", 103, "post", day(0)),
    ]
    .concat()
}

fn near_the_limit(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Near the limit")?;
    stage.climb("web1", 9_100_000, MEGABYTE / 4)?;
    let notices = stage.events_of("web1", "notice")?;
    let of = |rule: &str| {
        notices
            .iter()
            .filter(|n| n["rule"] == rule)
            .collect::<Vec<_>>()
    };
    let (early, near) = (of("forecast 100%"), of("used 90%"));
    let found = format!("{}, {}", early.len(), near.len());
    stage
        .checks
        .same("notices by forecast, at 90 %", "1, 1", &found);
    let notice = early
        .first()
        .ok_or_else(|| Failure::new("no notice came from the forecast"))?;
    check_offer(stage, notice)?;
    stage.type_command(&["offer", "web1"])?;
    Ok(())
}

/// The offer in a notice, against arithmetic of our own.
fn check_offer(stage: &mut Stage<'_>, notice: &Value) -> Result<()> {
    let offer = &notice["offer"];
    let limit = volume(bytes(offer, "allowance")?);
    stage
        .checks
        .same("  the offer in it: the limit", "10.0 MB".to_owned(), limit);
    let (used, forecast) = (bytes(offer, "used")?, bytes(offer, "forecast")?);
    let status = stage.meterd.status("web1")?;
    let left = lag(&status["period"]["end"], instant(&notice["time"])?)?;
    // All of it was used in the last 72 hours.
    let ahead = u128::from(used) * left.as_millis() / Duration::from_secs(72 * 3600).as_millis();
    let expected = used + u64::try_from(ahead).unwrap_or(u64::MAX);
    stage.checks.note(
        "  used + rate of 72 h x time left",
        &volume(expected),
        &volume(forecast),
        paper::within(forecast, expected, 0.001),
    );
    let recommended = volume(bytes(offer, "recommended")?);
    stage
        .checks
        .same("  recommended", "1.0 TB".to_owned(), recommended);
    let choices = offer["choices"].as_array().cloned().unwrap_or_default();
    let mut costs = Vec::new();
    for (choice, terabytes) in choices.iter().zip(1..) {
        let whole = bytes(choice, "volume")? == terabytes * TERABYTE;
        let cost = money(nanos(&choice["cost"])?);
        costs.push(if whole { cost } else { choice.to_string() });
    }
    stage.checks.same(
        "  1 to 5 TB for EUR",
        "1.50 3.00 4.50 6.00 7.50",
        &costs.join(" "),
    );
    Ok(())
}

fn more_volume(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("More volume is billed, and comes with its payment")?;
    stage.type_change("web1", &["top-up", "web1", "1 TB"])?;
    let before = bytes(&stage.meterd.status("web1")?, "allowance")?;
    stage
        .checks
        .same("allowance, billed and unpaid", ALLOWANCE, before);
    let bill = only_bill(stage, "acme")?;
    check_bill(stage, &bill, "additional traffic", 1_500_000_000)?;
    let end = stage.meterd.status("web1")?["period"]["end"].clone();
    let same = instant(&bill["valid_to"])? == instant(&end)?;
    stage.checks.same("  valid to the period's end", true, same);
    stage.type_change("web1", &["pay", text(&bill, "invoice")])?;
    let after = bytes(&stage.meterd.status("web1")?, "allowance")?;
    stage
        .checks
        .same("allowance, paid", ALLOWANCE + TERABYTE, after);
    Ok(())
}

/// Closes the period of db1 and mail1; returns db1's bill.
fn period_closes(stage: &mut Stage<'_>) -> Result<Value> {
    stage.act("A period ends over its allowance")?;
    stage.push("db1", 25 * MEGABYTE, MEGABYTE)?;
    stage.push("mail1", 12 * MEGABYTE, MEGABYTE)?;
    let midnight = stage.midnight()?;
    let billed = || {
        let bills = stage.meterd.json(&["invoices"])?;
        Ok(match bills.as_array().map_or(0, Vec::len) {
            3 => Seen::Yes(()),
            some => Seen::NotYet(format!("{some} bills")),
        })
    };
    let each = Duration::from_millis(20);
    wait::until("the bills", each, Duration::from_secs(4), billed)?;
    stage.show_events("db1")?;
    stage.show_events("mail1")?;
    let bill = only_bill(stage, "shop")?;
    stage.in_time("bill after midnight", &bill["valid_to"], midnight)?;
    let moved = stage.seen("db1")?;
    let wire = moved.received.bytes + moved.sent.bytes;
    let excess = i128::from(wire.saturating_sub(ALLOWANCE));
    // 1.50 a million bytes, in billionths.
    let amount = cents(excess * 1_500);
    check_bill(stage, &bill, "traffic beyond the allowance", amount)?;
    let why = stage.type_refused(&["cancel", "db1"])?;
    let number = text(&bill, "invoice");
    let named = if why.contains(number) {
        number
    } else {
        "nothing"
    };
    stage
        .checks
        .same("cancel is refused, naming", number, named);
    let yes_or_no =
        |stage: &Stage<'_>, machine| Ok(stage.meterd.status(machine)?["cancellable"].to_string());
    let found = yes_or_no(stage, "db1")?;
    stage.checks.same("cancellable: db1", "false", &found);
    let paid = only_bill(stage, "post")?;
    let found = text(&paid, "status").to_owned();
    stage
        .checks
        .same("mail1's bill, by autopay", "paid", &found);
    let found = yes_or_no(stage, "mail1")?;
    stage.checks.same("cancellable: mail1", "true", &found);
    Ok(bill)
}

fn overdue(stage: &mut Stage<'_>, bill: &Value) -> Result<()> {
    stage.act("The bill stays unpaid past its due date")?;
    let due = instant(&bill["due"])?;
    stage.wait_for("due", due)?;
    stage.until_state("db1", "capped", Duration::from_secs(1))?;
    let capped = stage.events_of("db1", "capped")?;
    let when = capped.last().map(|event| event["time"].clone());
    stage.in_time("capped after the due date", &when.unwrap_or_default(), due)?;
    let (db1, world) = (stage.guest("db1")?, stage.world());
    let mut passed = 0;
    loop {
        // The daemon looks once a second; asked, it looks at once.
        let left = stage.meterd.status("db1")?["cap_remaining"].as_u64();
        let text = format!(
            "{} passed, {} left",
            volume(passed),
            volume(left.unwrap_or(0))
        );
        stage.screen.moving("db1", Paint::Yellow, &text);
        let arrived = stage.offer(&db1, &world, MEGABYTE)?;
        passed += arrived;
        if arrived == 0 || passed > 2 * CAP {
            break;
        }
    }
    let text = format!(
        "{} more arrived at the far end, then nothing",
        volume(passed)
    );
    stage.screen.now("db1", Paint::Red, &text);
    stage.checks.note(
        "passed under the cap",
        "100.0 to 101.0 MB",
        &volume(passed),
        (CAP..=CAP + MEGABYTE + 2000).contains(&passed),
    );
    stage.nothing_passes("db1", "after that")?;
    let left = stage.meterd.status("db1")?["cap_remaining"].clone();
    stage
        .checks
        .same("cap_remaining", "0".to_owned(), left.to_string());
    let labels = [("machine", "db1"), ("state", "capped")];
    let metric = stage.metric("meterd_machine_state", &labels)?;
    let found = format!("{}", metric.unwrap_or(-1.0));
    stage.checks.same("its metric of being capped", "1", &found);
    let state = stage.state("mail1")?;
    stage.checks.same("mail1, which has paid", "normal", &state);
    Ok(())
}

fn paid(stage: &mut Stage<'_>, bill: &Value) -> Result<()> {
    stage.act("Paid")?;
    stage.type_change("db1", &["pay", text(bill, "invoice")])?;
    let state = stage.state("db1")?;
    stage.checks.same("db1, at once", "normal", &state);
    stage.everything_passes("db1", "paid")?;
    let cancellable = stage.meterd.status("db1")?["cancellable"].to_string();
    stage.checks.same("cancellable", "true", &cancellable);
    stage.type_command(&["invoices"])?;
    stage.type_command(&["balance", "shop"])?;
    Ok(())
}

/// Number, dates, description and amount of a bill.
fn check_bill(stage: &mut Stage<'_>, bill: &Value, what: &str, amount: i128) -> Result<()> {
    let number = text(bill, "invoice").to_owned();
    let found = text(bill, "description").to_owned();
    let account = text(bill, "account");
    let name = format!("bill {number} to {account}");
    stage.checks.same(&name, what, &found);
    let (amount, found) = (money(amount), money(nanos(&bill["amount"])?));
    stage.checks.same("  EUR", amount, found);
    let (date, due) = (text(bill, "date"), text(bill, "due"));
    let valid = format!("{} to {}", text(bill, "valid_from"), text(bill, "valid_to"));
    let line = format!("{number} of {date}, due {due}; for {valid}");
    stage.screen.said("bill", Paint::Yellow, &line);
    Ok(())
}

fn only_bill(stage: &Stage<'_>, account: &str) -> Result<Value> {
    let bills = stage.meterd.json(&["invoices", account])?;
    match bills.as_array().map(Vec::as_slice) {
        Some([bill]) => Ok(bill.clone()),
        _ => Err(Failure::new(format!("{account} has not one bill: {bills}"))),
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}
