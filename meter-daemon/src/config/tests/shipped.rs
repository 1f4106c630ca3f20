//! The files in `config/` mean what the five providers' rules say.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::{super::*, checked, good};
use crate::engine::{
    plan::{
        Action, CollectExtra, CollectOverage, CostThreshold, Direction, Extra, Lift, Overage,
        PeriodStart, Price, Rollover, Rule, Tariff, Threshold, Trigger,
    },
    units::{BitsPerSecond, Bytes, Currency},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn text(file: &str) -> String {
    std::fs::read_to_string(folder().join(file)).unwrap()
}

fn shipped(name: &str) -> Plan {
    let config = Config::load(&folder().join("meterd.toml")).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(config.warnings.to_string(), "");
    Plan::clone(config.plans.get(name).unwrap())
}

const GB: u64 = 1_000_000_000;
const TB: u64 = 1_000 * GB;

fn percent(number: i64) -> Threshold {
    Threshold::Percent(Percent(number.into()))
}

fn tariff(per: u64, price: &str) -> Tariff {
    Tariff {
        per: Bytes(per),
        price: price.parse().unwrap(),
    }
}

/// A rule that only notifies.
fn notice(name: &str, trigger: Trigger) -> Rule {
    Rule {
        name: name.into(),
        trigger,
        after: SignedDuration::ZERO,
        action: None,
        notify: true,
        flag: false,
        lift: Lift::Automatic,
    }
}

/// A plan of calendar months with nothing in it.
fn calendar(name: &str, allowance: Allowance) -> Plan {
    Plan {
        name: name.into(),
        starts: PeriodStart::Day(DayOfMonth::FIRST),
        time_zone: None,
        direction: Direction::Sum,
        allowance,
        cost_limit: None,
        daily: None,
        rollover: Rollover::None,
        price: None,
        rules: Vec::new(),
        enforce: true,
        exempt: Vec::new(),
        exempt_when_suspended: false,
    }
}

fn euro() -> Currency {
    Currency::new("EUR").unwrap()
}

#[test]
fn exactly_the_five_plans_are_shipped() {
    let config = Config::load(&folder().join("meterd.toml")).unwrap();
    let names: Vec<&str> = config.plans.keys().map(PlanName::as_str).collect();
    assert_eq!(
        names,
        ["caasify", "calendar-suspend", "cdn-limit", "edis", "invapi"]
    );
}

#[test]
fn edis_warns_at_80_90_and_100_and_throttles_to_64_kbit_at_105_on_an_anniversary_month() {
    let throttle = Rule {
        action: Some(Action::Throttle(BitsPerSecond(64_000))),
        ..notice("used 105%", Trigger::Used(percent(105)))
    };
    let expected = Plan {
        starts: PeriodStart::RenewalDay,
        rules: vec![
            notice("used 80%", Trigger::Used(percent(80))),
            notice("used 90%", Trigger::Used(percent(90))),
            notice("used 100%", Trigger::Used(percent(100))),
            throttle,
        ],
        ..calendar("edis", Allowance::Limited(Bytes(TB)))
    };
    assert_eq!(shipped("edis"), expected);
}

#[test]
fn invapi_forecasts_bills_what_is_beyond_in_five_days_and_then_caps_at_100_mb() {
    let per_tb = tariff(TB, "1.50");
    let cap = Rule {
        action: Some(Action::Cap(Bytes(100_000_000))),
        ..notice("overdue", Trigger::Overdue)
    };
    let expected = Plan {
        price: Some(Price {
            currency: euro(),
            base: None,
            usage: None,
            overage: Some(Overage {
                tariff: per_tb,
                collect: CollectOverage::Invoice { due_days: 5 },
            }),
            extra: Some(Extra {
                tariff: per_tb,
                prorated: false,
                collect: CollectExtra::Invoice { due_days: 5 },
            }),
        }),
        rules: vec![
            notice("forecast 100%", Trigger::Forecast(percent(100))),
            notice("used 90%", Trigger::Used(percent(90))),
            cap,
        ],
        ..calendar("invapi", Allowance::Limited(Bytes(10 * TB)))
    };
    assert_eq!(shipped("invapi"), expected);
}

#[test]
fn caasify_grants_a_thirtieth_a_day_flags_and_charges_per_gb_from_the_balance() {
    let flag = Rule {
        notify: false,
        flag: true,
        ..notice("accrued 100%", Trigger::Accrued(Percent(100.into())))
    };
    let expected = Plan {
        daily: std::num::NonZeroU32::new(30),
        price: Some(Price {
            currency: euro(),
            base: None,
            usage: None,
            overage: Some(Overage {
                tariff: tariff(GB, "0.01"),
                collect: CollectOverage::Balance,
            }),
            extra: Some(Extra {
                tariff: tariff(TB, "5.00"),
                prorated: false,
                collect: CollectExtra::Balance,
            }),
        }),
        rules: vec![flag],
        ..calendar("caasify", Allowance::Limited(Bytes(5 * TB)))
    };
    assert_eq!(shipped("caasify"), expected);
}

#[test]
fn calendar_suspend_notices_at_75_and_100_and_suspends_24_hours_later() {
    let suspend = Rule {
        after: SignedDuration::from_hours(24),
        action: Some(Action::Suspend),
        ..notice("used 100% after 24h", Trigger::Used(percent(100)))
    };
    let expected = Plan {
        price: Some(Price {
            currency: euro(),
            base: None,
            usage: None,
            overage: None,
            extra: Some(Extra {
                tariff: tariff(TB, "1.50"),
                prorated: true,
                collect: CollectExtra::None,
            }),
        }),
        rules: vec![
            notice("forecast 100%", Trigger::Forecast(percent(100))),
            notice("used 75%", Trigger::Used(percent(75))),
            notice("used 100%", Trigger::Used(percent(100))),
            suspend,
        ],
        ..calendar("calendar-suspend", Allowance::Limited(Bytes(TB)))
    };
    assert_eq!(shipped("calendar-suspend"), expected);
}

#[test]
fn cdn_limit_suspends_when_either_limit_is_exceeded_until_a_hand_lifts_it() {
    let suspend = |name, trigger| Rule {
        action: Some(Action::Suspend),
        lift: Lift::ByHand,
        ..notice(name, trigger)
    };
    let expected = Plan {
        price: Some(Price {
            currency: Currency::new("USD").unwrap(),
            base: None,
            usage: Some(tariff(GB, "0.02")),
            overage: None,
            extra: None,
        }),
        rules: vec![
            suspend("over 100%", Trigger::Over(percent(100))),
            suspend(
                "cost 100%",
                Trigger::Cost(CostThreshold::Percent(Percent(100.into()))),
            ),
        ],
        ..calendar("cdn-limit", Allowance::Unlimited)
    };
    assert_eq!(shipped("cdn-limit"), expected);
}

/// The file with every `#key`, `#[table]` and `#[[list]]` line in force.
fn with_its_keys_in_force(text: &str) -> String {
    let in_force = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
            format!("{rest}\n")
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(in_force).collect()
}

#[test]
fn the_shipped_meterd_toml_means_what_an_empty_one_means() {
    let shipped = good(&[("meterd.toml", &text("meterd.toml"))]);
    assert_eq!(shipped, good(&[("meterd.toml", "")]));
    assert_eq!(shipped, Config::default());
}

#[test]
fn the_settings_that_it_shows_are_the_defaults() {
    let text = text("meterd.toml");
    let (settings, _) = text.split_once("# ----").unwrap();
    let shown = with_its_keys_in_force(settings);
    assert_eq!(good(&[("meterd.toml", &shown)]), Config::default());
}

#[test]
fn it_shows_every_key_and_with_all_in_force_it_is_a_good_configuration() {
    let main = with_its_keys_in_force(&text("meterd.toml"));
    let edis = text("plans/edis.toml");
    let config = good(&[("meterd.toml", &main), ("plans/edis.toml", &edis)]);
    assert_eq!(config.warnings.to_string(), "");
    assert_eq!(
        (
            config.machines.len(),
            config.accounts.len(),
            config.webhooks.len()
        ),
        (1, 1, 1)
    );
    for key in node::KEYS {
        let shown = ["", "[", "[["]
            .iter()
            .any(|open| main.contains(&format!("\n{open}{key}")));
        assert!(shown, "{key} is not in meterd.toml");
    }
}

#[test]
fn the_example_of_a_machines_file_is_good_and_not_loaded_by_itself() {
    let (machine, edis) = (text("machines/web1.toml.example"), text("plans/edis.toml"));
    let config = good(&[("machines/web1.toml", &machine), ("plans/edis.toml", &edis)]);
    assert_eq!(config.warnings.to_string(), "");
    assert_eq!(config.machines.len(), 1);
    assert!(
        Config::load(&folder().join("meterd.toml"))
            .unwrap()
            .machines
            .is_empty()
    );
}

#[test]
fn the_keys_that_may_slide_under_a_header_are_those_that_the_files_know() {
    for (path, keys) in [
        ("meterd.toml", node::KEYS),
        ("plans/p.toml", plan::KEYS),
        ("machines/m.toml", machine::KEYS),
    ] {
        for key in keys {
            let problems = checked(&[(path, &format!("{key} = 2026-11-20"))]).unwrap_err();
            assert!(
                !problems.to_string().contains("unknown key"),
                "{key} in {path}: {problems}"
            );
        }
    }
}

proptest::proptest! {
    /// A slip of the editor anywhere in a rich file: a cut, with something put in its place.
    #[test]
    fn no_slip_in_a_shipped_file_makes_the_checker_panic(
        thousandth in 0..1000_usize, length in 0..40_usize, put in "[\\[\\]{}=\"'#.,0-9a-zü\n-]{0,4}",
    ) {
        for (path, file) in [
            ("meterd.toml", with_its_keys_in_force(&text("meterd.toml"))),
            ("plans/invapi.toml", text("plans/invapi.toml")),
            ("plans/cdn-limit.toml", text("plans/cdn-limit.toml")),
        ] {
            let letters: Vec<char> = file.chars().collect();
            let start = thousandth * letters.len() / 1000;
            let end = (start + length).min(letters.len());
            let slipped: String = letters[..start].iter().collect::<String>()
                + &put + &letters[end..].iter().collect::<String>();
            if let Err(problems) = Config::check_texts(&[(path.into(), slipped)]) {
                proptest::prop_assert!(problems.errors() > 0);
                let _ = (problems.to_string(), serde_json::to_string(&problems.listed()));
            }
        }
    }
}
