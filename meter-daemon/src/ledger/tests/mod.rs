//! What the ledger promises, tried.

mod backup;
mod conservation;
mod crash;
mod faults;
mod measure;
mod power;
mod released;
mod round_trip;
mod seeds;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::*;
use crate::engine::record::{MachineChange, Running};

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn moved(received: u64, sent: u64, exempt: u64) -> Traffic {
    Traffic {
        received: Bytes(received),
        sent: Bytes(sent),
        exempt: Bytes(exempt),
    }
}

/// A slot of a machine, with nothing read yet.
pub(crate) fn slot(machine: &str, slot: u32) -> SlotRecord {
    SlotRecord::of(SlotOwner {
        counter: CounterId {
            boot: BootId("2b9d1f2e-6f0a-4a5c-9c39-boot".into()),
            map_set: MapSetId(u64::MAX - 3),
            slot: Slot(slot),
            generation: Generation(1),
        },
        machine: machine.into(),
        interface: InterfaceId {
            netns: 1,
            ifindex: 100 + slot,
        },
        name: format!("tap{slot}i0"),
        base: Reading::default(),
        credit: None,
        credits: true,
    })
}

pub(crate) fn batch(at: Timestamp) -> Batch {
    Batch::empty(at)
}

pub(crate) fn usage(
    machine: &str,
    zone: &TimeZone,
    from: Timestamp,
    to: Timestamp,
    traffic: Traffic,
) -> Usage {
    Usage {
        machine: machine.into(),
        zone: zone.clone(),
        from,
        to,
        traffic,
    }
}

pub(crate) fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

pub(crate) fn event(time: Timestamp, machine: &str, name: &str) -> EventRecord {
    EventRecord {
        time,
        machine: Some(machine.into()),
        account: None,
        name: name.into(),
        body: serde_json::json!({"time": time.to_string(), "machine": machine, "event": name}),
        notice: None,
    }
}

pub(crate) fn running(
    start: Timestamp,
    end: Timestamp,
    measured_to: Timestamp,
    traffic: Traffic,
) -> Running {
    Running {
        period_start: start,
        period_end: end,
        traffic,
        measured_to,
    }
}

pub(crate) fn change(machine: &str, state: Option<&str>, running: Running) -> MachineChange {
    MachineChange {
        machine: machine.into(),
        state: state.map(str::to_owned),
        running,
    }
}

/// What a machine's history adds up to.
pub(crate) fn total(reader: &Reader, machine: &str, by: Resolution) -> Traffic {
    let rows = reader.usage(&machine.into(), by, None, None).unwrap();
    for pair in rows.windows(2) {
        assert!(
            pair[0].end <= pair[1].start,
            "{pair:?} overlap or are out of order"
        );
    }
    rows.iter().map(|row| row.traffic).sum()
}

pub(crate) const HISTORIES: [Resolution; 4] = [
    Resolution::Minute,
    Resolution::Hour,
    Resolution::Day,
    Resolution::Month,
];

pub(crate) const SECOND: SignedDuration = SignedDuration::from_secs(1);
