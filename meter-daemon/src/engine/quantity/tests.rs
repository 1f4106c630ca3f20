//! What is taken, what is not, and what is said instead.

use proptest::prelude::*;

use super::*;

/// Each text with its value, or with the text that the error says to write instead.
fn check<T: PartialEq + fmt::Debug>(parse: fn(&str) -> Checked<T>, table: &[(&str, Checks<T>)]) {
    for (text, expected) in table {
        let found = parse(text);
        match expected {
            Is(value) => assert_eq!(found.as_ref(), Ok(value), "{text}"),
            Instead(remedy) => {
                let wrong = found.expect_err(text);
                assert_eq!(wrong.instead, *remedy, "{text}: {}", wrong.message);
                assert!(
                    parse(&wrong.instead).is_ok(),
                    "{text}: the remedy is wrong, too"
                );
            }
        }
    }
}

enum Checks<T> {
    Is(T),
    Instead(&'static str),
}
use Checks::{Instead, Is};

#[test]
fn volumes_are_decimal_unless_written_with_i() {
    check(
        volume,
        &[
            ("1 TB", Is(Bytes(1_000_000_000_000))),
            ("5TB", Is(Bytes(5_000_000_000_000))),
            ("1.5 TiB", Is(Bytes(1_649_267_441_664))),
            ("100 MB", Is(Bytes(100_000_000))),
            ("0.001 kB", Is(Bytes(1))),
            ("1.50 kB", Is(Bytes(1_500))),
            ("1 B", Is(Bytes(1))),
            ("0 GB", Is(Bytes(0))),
            ("0", Is(Bytes(0))),
            (" 007 KiB ", Is(Bytes(7_168))),
            ("18446744073709551615 B", Is(Bytes(u64::MAX))),
            ("15.999 EiB", Instead("18445591152204944769 B")),
        ],
    );
}

#[test]
fn what_is_no_volume_says_what_to_write_instead() {
    check(
        volume,
        &[
            ("1000", Instead("1000 GB")),
            ("1 T", Instead("1 TB")),
            ("1 Ti", Instead("1 TiB")),
            ("1 tb", Instead("1 TB")),
            ("1 KB", Instead("1 kB")),
            ("1 Gb", Instead("1 GB")),
            ("1 Gbit", Instead("1 GB")),
            ("1 XB", Instead("1 GB")),
            ("1,5 TB", Instead("1.5 TB")),
            ("1.5.2 TB", Instead("1.5 GB")),
            ("-1 TB", Instead("1 TB")),
            ("+1 TB", Instead("1 TB")),
            ("1e3 GB", Instead("1 GB")),
            ("1.5 B", Instead("1 B")),
            ("0.1 GiB", Instead("107374182 B")),
            ("18446744073709551616 B", Instead("18 EB")),
            ("16 EiB", Instead("18 EB")),
            ("99999999999999999999 EB", Instead("18 EB")),
            ("999999999999999999999999 B", Instead("1 TB")),
            ("", Instead("1 TB")),
            ("much", Instead("1 TB")),
            (".5 TB", Instead("1 TB")),
            ("5. TB", Instead("1 TB")),
            ("unlimited", Instead("1 TB")),
        ],
    );
}

#[test]
fn an_allowance_is_a_volume_or_unlimited() {
    check(
        allowance,
        &[
            ("unlimited", Is(Allowance::Unlimited)),
            ("0 B", Is(Allowance::Limited(Bytes(0)))),
            ("2 TB", Is(Allowance::Limited(Bytes(2_000_000_000_000)))),
            ("Unlimited", Instead("unlimited")),
            ("none", Instead("unlimited")),
            ("-1", Instead("unlimited")),
            ("lots", Instead("1 TB")),
        ],
    );
}

#[test]
fn rates_are_bits_per_second() {
    check(
        rate,
        &[
            ("64 kbit/s", Is(BitsPerSecond(64_000))),
            ("1.5Mbit/s", Is(BitsPerSecond(1_500_000))),
            ("10 Gbit/s", Is(BitsPerSecond(10_000_000_000))),
            ("1 bit/s", Is(BitsPerSecond(1))),
            ("64", Instead("64 kbit/s")),
            ("64 kbps", Instead("64 kbit/s")),
            ("64 Kbit/s", Instead("64 kbit/s")),
            ("1 mbit", Instead("1 Mbit/s")),
            ("8 kB/s", Instead("64 kbit/s")),
            ("125 MB/s", Instead("1 Gbit/s")),
            ("1 KiB/s", Instead("8192 bit/s")),
            ("0 kbit/s", Instead("64 kbit/s")),
            ("0.5 bit/s", Instead("1 bit/s")),
            ("99999999999999999999 Tbit/s", Instead("100 Gbit/s")),
            ("99999999999999999999 EB/s", Instead("64 kbit/s")),
        ],
    );
}

#[test]
fn durations_are_one_number_and_unit_or_several() {
    let seconds = SignedDuration::from_secs;
    check(
        duration,
        &[
            ("0s", Is(seconds(0))),
            ("0", Is(seconds(0))),
            ("60s", Is(seconds(60))),
            ("24h", Is(seconds(86_400))),
            ("5d", Is(seconds(432_000))),
            ("1h 30m", Is(seconds(5_400))),
            ("1h30m", Is(seconds(5_400))),
            ("1.5 h", Is(seconds(5_400))),
            ("2 weeks", Is(seconds(1_209_600))),
            ("10 minutes", Is(seconds(600))),
            ("250ms", Is(SignedDuration::from_millis(250))),
            ("24", Instead("24s")),
            ("24 H", Instead("24h")),
            ("1 month", Instead("30d")),
            ("1y", Instead("30d")),
            ("3 fortnights", Instead("3d")),
            ("1h 30", Instead("30s")),
            ("-5m", Instead("5m")),
            ("1,5h", Instead("1.5h")),
            ("0.0000001ms", Instead("1ms")),
            ("1000000d", Instead("36525d")),
            (
                "99999999999999999999w 99999999999999999999w",
                Instead("36525d"),
            ),
            ("", Instead("24h")),
            ("soon", Instead("24h")),
        ],
    );
}

#[test]
fn a_due_date_counts_civil_days_and_hours_are_not_days() {
    check(
        civil_days,
        &[
            ("5d", Is(5)),
            ("0d", Is(0)),
            ("2 weeks", Is(14)),
            ("24h", Instead("1d")),
            ("36h", Instead("1d")),
            ("10s", Instead("1d")),
            ("5000d", Instead("3660d")),
            ("5", Instead("5d")),
        ],
    );
}

#[test]
fn percentages_are_exact() {
    let percent_of = |text: &str| Percent(text.parse().unwrap());
    check(
        percent,
        &[
            ("105%", Is(percent_of("105"))),
            ("99.5 %", Is(percent_of("99.5"))),
            ("33.3333%", Is(percent_of("33.3333"))),
            ("10000%", Is(percent_of("10000"))),
            ("80", Instead("80%")),
            ("80 percent", Instead("80%")),
            ("0,8%", Instead("0.8%")),
            ("-5%", Instead("5%")),
            ("10000.1%", Instead("10000%")),
            ("33.33333%", Instead("33%")),
            ("all", Instead("105%")),
        ],
    );
}

#[test]
fn money_is_a_decimal_number_and_a_currency() {
    let of = |text: &str| text.parse::<Money>().unwrap();
    check(
        money,
        &[
            ("10 USD", Is(of("10 USD"))),
            ("0.005EUR", Is(of("0.005 EUR"))),
            ("10", Instead("10 EUR")),
            ("10 usd", Instead("10 USD")),
            ("10 $", Instead("10 EUR")),
            ("$10", Instead("10 USD")),
            ("-1 EUR", Instead("1 EUR")),
            ("1,50 EUR", Instead("1.50 EUR")),
            ("1000000001 EUR", Instead("10 USD")),
            ("0.0000000001 EUR", Instead("10 USD")),
        ],
    );
    check(
        balance,
        &[
            ("50 EUR", Is(of("50 EUR"))),
            ("-50 EUR", Is(of("-50 EUR"))),
            ("--50 EUR", Instead("50 EUR")),
        ],
    );
}

#[test]
fn a_price_is_a_plain_number_in_the_plans_currency() {
    check(
        price,
        &[
            ("0.02", Is("0.02".parse().unwrap())),
            ("2", Is("2".parse().unwrap())),
            ("0.02 EUR", Instead("0.02")),
            ("-1", Instead("1")),
            ("free", Instead("0.02")),
            ("1000000000.5", Is("1000000000.5".parse().unwrap())),
            ("10000000000", Instead("0.02")),
        ],
    );
}

#[test]
fn a_rules_name_keeps_the_figure_as_it_was_written() {
    for (text, name) in [
        ("105%", "105%"),
        ("080.0 %", "80%"),
        ("100GB", "100 GB"),
        ("1000 GB", "1000 GB"),
        ("10 USD", "10 USD"),
        ("1.50 TiB", "1.5 TiB"),
    ] {
        assert_eq!(figure_name(text), name);
    }
    for (text, name) in [("24h", "24h"), ("24 h", "24h"), ("1 h  30 m", "1h 30m")] {
        assert_eq!(duration_name(text), name);
    }
}

/// What anybody might write, well or badly.
fn anything() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,40}",
        "[-+]?[0-9]{0,25}[.,]?[0-9]{0,22} ?[a-zA-Zµ%€/]{0,8}( ?[0-9]{1,20} ?[smhdw])?",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic_and_every_remedy_is_taken(text in anything()) {
        macro_rules! remedied {
            ($($parse:ident),*) => {$(
                if let Err(wrong) = $parse(&text) {
                    prop_assert!($parse(&wrong.instead).is_ok(), "{text:?}: {wrong:?}");
                }
            )*};
        }
        remedied!(volume, allowance, rate, duration, civil_days, percent, price, money, balance);
        let _ = (figure_name(&text), duration_name(&text));
    }

    #[test]
    fn every_volume_written_in_bytes_reads_back(bytes: u64) {
        prop_assert_eq!(volume(&format!("{bytes} B")), Ok(Bytes(bytes)));
    }

    #[test]
    fn a_decimal_volume_is_the_same_in_every_unit(kilobytes in 0..=u64::MAX / 1_000) {
        let whole = kilobytes / 1_000_000_000;
        let rest = kilobytes % 1_000_000_000;
        prop_assert_eq!(
            volume(&format!("{whole}.{rest:09} TB")), volume(&format!("{kilobytes} kB"))
        );
    }
}

#[test]
fn quoted_text_stays_on_one_line() {
    assert_eq!(
        quoted("a\n\u{1b}[31m'b' \"c\""),
        "`a\\n\\u{1b}[31m'b' \"c\"`"
    );
    assert!(quoted(&"x".repeat(5000)).chars().count() < 70);
}
