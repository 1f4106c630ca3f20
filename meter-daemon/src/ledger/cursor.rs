//! What moved between a slot's cursor and a new reading. Pure.
//!
//! Whether a counter is the old one is decided by its identity, by whoever looks the slot
//! up; here the identity is the same, so a figure can only have grown.

use std::sync::Arc;

use super::{Reading, Shaped, SlotRecord};
use crate::engine::units::{Bytes, Traffic};

/// A counter of the same identity that shows less than before: the memory was overwritten
/// or is not what it seems. It is neither clipped to zero nor read as a wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the counter `{counter}` fell from {before} to {now} though it is still the same counter: \
     it was overwritten from outside, and what moved since cannot be known"
)]
pub struct Fell {
    /// Which figure.
    pub counter: &'static str,
    /// At the cursor.
    pub before: u64,
    /// In the new reading.
    pub now: u64,
}

/// What may have waited in a shaper at the cursor: four frames of bulk, eighty small packets.
const WAITING: Bytes = Bytes(32 * 1024);

/// The traffic since the record's cursor, whose counter `now` was read from, and the record
/// with everything up to there accounted for.
///
/// Of what was handed to a shaper of ours only what came through was used: it is taken out,
/// and what the shapers let through since is put in its place.
///
/// # Errors
/// With both figures, where one fell.
pub fn advance(
    record: &SlotRecord,
    now: &Reading,
    shaped_now: Option<Shaped>,
) -> Result<(Traffic, SlotRecord), Fell> {
    let before = &record.cursor;
    let counted = [
        grown("received", before.traffic.received, now.traffic.received)?,
        grown("sent", before.traffic.sent, now.traffic.sent)?,
    ];
    let exempt = grown("exempt", before.traffic.exempt, now.traffic.exempt)?;
    // Not billed, but of the same memory: if one of them fell, the others are not to be believed.
    for (name, before, now) in [
        ("packets received", before.packets[0], now.packets[0]),
        ("packets sent", before.packets[1], now.packets[1]),
        ("frames received", before.frames[0].0, now.frames[0].0),
        ("frames sent", before.frames[1].0, now.frames[1].0),
    ] {
        grown(name, Bytes(before), Bytes(now))?;
    }
    let shaped = [
        grown("received, shaped", before.shaped[0], now.shaped[0])?,
        grown("sent, shaped", before.shaped[1], now.shaped[1])?,
    ];
    let through = through(record.shaped, shaped_now)?;
    let mut next = SlotRecord {
        owner: Arc::clone(&record.owner),
        cursor: *now,
        shaped: shaped_now,
    };
    let mut used = [Bytes::ZERO; 2];
    for way in 0..2 {
        // Not more came out than went in and had waited. The figures are of the interface:
        // should the daemon end before its packets are marked as shaped, they hold what is
        // counted already.
        let through = through[way].min(shaped[way] + shaped[way] + WAITING);
        // A packet may be read as shaped before it is read as counted: they are two counters.
        // What cannot be taken out of this delta is taken out of the next.
        let shaped = shaped[way].min(counted[way]);
        next.cursor.shaped[way] = before.shaped[way] + shaped;
        if through > Bytes::ZERO {
            next.base.shaped[way] += through;
        }
        used[way] = counted[way].saturating_sub(shaped) + through;
    }
    let moved = Traffic {
        received: used[0],
        sent: used[1],
        exempt,
    };
    Ok((moved, next))
}

/// The record of a counter that fell: it counts from here. What it had counted is the
/// ledger's to settle ([`super::Batch::anew`]).
#[must_use]
pub fn begun_anew(record: &SlotRecord, now: &Reading, shaped_now: Option<Shaped>) -> SlotRecord {
    let mut next = SlotRecord {
        owner: Arc::clone(&record.owner),
        cursor: *now,
        shaped: shaped_now,
    };
    next.base = *now;
    next
}

/// Everything that the slot's owner was ever credited with by this slot: the sum of all
/// that [`advance`] said, and the credit. `None` where the figures contradict each other.
#[must_use]
pub fn used(record: &SlotRecord) -> Option<Traffic> {
    Some(counted(&record.base, &record.cursor)? + record.credit.unwrap_or(Traffic::ZERO))
}

/// The same without the credit.
pub(super) fn counted(base: &Reading, cursor: &Reading) -> Option<Traffic> {
    let used = |now: Bytes, then: Bytes, way: usize| {
        let counted = i128::from(now.0) - i128::from(then.0);
        // The base has what came through: what is between the two was dropped.
        let dropped = i128::from(cursor.shaped[way].0) - i128::from(base.shaped[way].0);
        u64::try_from(counted - dropped).ok().map(Bytes)
    };
    Some(Traffic {
        received: used(cursor.traffic.received, base.traffic.received, 0)?,
        sent: used(cursor.traffic.sent, base.traffic.sent, 1)?,
        exempt: cursor.traffic.exempt.checked_sub(base.traffic.exempt)?,
    })
}

/// What came through the shapers since the cursor. Nothing is known of shapers that are gone,
/// or that were made since: their first figures are the next cursor.
fn through(before: Option<Shaped>, now: Option<Shaped>) -> Result<[Bytes; 2], Fell> {
    match (before, now) {
        (Some(before), Some(now)) if before.ifb == now.ifb => Ok([
            grown(
                "received through the shaper",
                before.through[0],
                now.through[0],
            )?,
            grown("sent through the shaper", before.through[1], now.through[1])?,
        ]),
        _ => Ok([Bytes::ZERO; 2]),
    }
}

fn grown(counter: &'static str, before: Bytes, now: Bytes) -> Result<Bytes, Fell> {
    now.checked_sub(before).ok_or(Fell {
        counter,
        before: before.0,
        now: now.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::slot;

    /// What moved; and the slot's owner is credited with just that.
    fn delta(record: &SlotRecord, now: &Reading, shaped: Option<Shaped>) -> Result<Traffic, Fell> {
        let (moved, next) = advance(record, now, shaped)?;
        let before = used(record).unwrap();
        assert_eq!(used(&next).unwrap(), before + moved);
        Ok(moved)
    }

    fn reading(received: u64, sent: u64, exempt: u64) -> Reading {
        Reading {
            traffic: Traffic {
                received: Bytes(received),
                sent: Bytes(sent),
                exempt: Bytes(exempt),
            },
            packets: [received / 100, sent / 100],
            frames: [Bytes(received), Bytes(sent)],
            shaped: [Bytes::ZERO; 2],
        }
    }

    fn at(cursor: Reading, shaped: Option<Shaped>) -> SlotRecord {
        SlotRecord {
            cursor,
            shaped,
            ..slot("web1", 7)
        }
    }

    fn shaper(ifb: u32, through: [u64; 2]) -> Option<Shaped> {
        Some(Shaped {
            ifb,
            through: through.map(Bytes),
        })
    }

    #[test]
    fn the_delta_is_what_the_counters_grew_by() {
        let record = at(reading(1_000, 500, 10), None);
        let moved = delta(&record, &reading(1_700, 500, 25), None).unwrap();
        assert_eq!(moved, reading(700, 0, 15).traffic);
    }

    #[test]
    fn a_new_counter_counts_whole_from_its_base() {
        let record = at(Reading::default(), None);
        let moved = delta(&record, &reading(u64::MAX, 3, 0), None).unwrap();
        assert_eq!(moved, reading(u64::MAX, 3, 0).traffic);
    }

    #[test]
    fn a_counter_that_fell_is_reported_with_both_figures_and_never_read_as_a_wrap() {
        let record = at(reading(u64::MAX - 5, 500, 10), None);
        let fell = delta(&record, &reading(3, 500, 10), None).unwrap_err();
        let expected = Fell {
            counter: "received",
            before: u64::MAX - 5,
            now: 3,
        };
        assert_eq!(fell, expected);
        let record = at(reading(1_000, 500, 10), None);
        let mut now = reading(1_700, 500, 10);
        now.packets[1] = 4;
        let fell = delta(&record, &now, None).unwrap_err();
        assert_eq!(
            (fell.counter, fell.before, fell.now),
            ("packets sent", 5, 4)
        );
    }

    #[test]
    fn of_what_a_shaper_was_handed_only_what_came_through_was_used() {
        let before = reading(1_000, 500, 10);
        // 8 000 more received, 7 500 of them into the shaper; 9 000 more sent, all of them.
        let mut now = reading(9_000, 9_500, 30);
        now.shaped = [Bytes(7_500), Bytes(9_000)];
        for (line, stood, stands, received, sent) in [
            (
                "it stands",
                shaper(4, [1_000, 500]),
                shaper(4, [1_200, 590]),
                700,
                90,
            ),
            ("it is gone", shaper(4, [1_000, 500]), None, 500, 0),
            (
                "another was made",
                shaper(4, [1_000, 500]),
                shaper(5, [1_200, 590]),
                500,
                0,
            ),
        ] {
            let moved = delta(&at(before, stood), &now, stands).unwrap();
            assert_eq!(moved, reading(received, sent, 20).traffic, "{line}");
        }
        let fell = delta(
            &at(before, shaper(4, [2_000, 500])),
            &now,
            shaper(4, [1_200, 590]),
        );
        let fell = fell.unwrap_err();
        assert_eq!((fell.before, fell.now), (2_000, 1_200));
    }

    #[test]
    fn what_was_never_handed_to_a_shaper_did_not_come_through_it() {
        let now = reading(9_000_000, 500, 0);
        let stood = shaper(4, [100, 0]);
        let moved = delta(
            &at(reading(1_000, 500, 0), stood),
            &now,
            shaper(4, [9_000_000, 0]),
        );
        assert!(
            moved.unwrap().received < Bytes(9_000_000 + 40_000),
            "counted once"
        );
    }

    #[test]
    fn what_waited_in_a_shaper_counts_when_it_comes_out() {
        let cursor = Reading {
            shaped: [Bytes(900), Bytes(0)],
            ..reading(1_000, 500, 0)
        };
        let moved = delta(
            &at(cursor, shaper(4, [100, 0])),
            &cursor,
            shaper(4, [700, 0]),
        )
        .unwrap();
        assert_eq!(moved, reading(600, 0, 0).traffic);
    }
}
