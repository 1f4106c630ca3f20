//! What the guests move, and what of it arrives.

use meter_tests::{
    Result, interrupt,
    meterd::bytes,
    topology::{Family, Party},
    traffic::{Tcp, Udp},
};
use serde_json::Value;

use super::Stage;
use crate::{
    figures::{rate, volume},
    screen::Paint,
};

/// Full speed is whatever this machine's namespaces give; less than this is none.
const FULL_SPEED: f64 = 100e6;
/// A full frame of UDP: its payload, and its bytes on the wire.
const PAYLOAD: u16 = 1472;
const FRAME: u64 = 1514;

impl Stage<'_> {
    /// One transfer over TCP, whole, and how fast it was.
    pub(crate) fn full_speed(&mut self, what: &str, from: &Party, to: &Party) -> Result<f64> {
        interrupt::check()?;
        let goodput = Tcp::v4(self.transfer).run(from, to)?.goodput();
        let (who, rest) = what.split_once(',').unwrap_or((what, ""));
        let text = format!("{:>11}  {rest}", rate(goodput));
        self.screen.now(who, Paint::Green, &text);
        let expected = format!("over {}", rate(FULL_SPEED));
        let holds = goodput > FULL_SPEED;
        self.checks.note(what, &expected, &rate(goodput), holds);
        Ok(goodput)
    }

    /// The machine sends until it has used so much or something stands in its way, in steps
    /// of `each`. Shows how it goes, and what the daemon says to it. Returns the status then.
    pub(crate) fn climb(&mut self, machine: &'static str, to: u64, each: u64) -> Result<Value> {
        self.rise(machine, to, each, Some(self.every))
    }

    /// As [`Self::climb`], with only its end shown.
    pub(crate) fn push(&mut self, machine: &'static str, to: u64, each: u64) -> Result<Value> {
        let status = self.rise(machine, to, each, None)?;
        let events = self.meterd.events(machine)?.len();
        self.shown.insert(machine, events);
        Ok(status)
    }

    /// `every`: how many percent lie between two lines.
    fn rise(
        &mut self,
        machine: &'static str,
        to: u64,
        each: u64,
        every: Option<u64>,
    ) -> Result<Value> {
        let (guest, world) = (self.guest(machine)?, self.world());
        let began = self.meterd.status(machine)?["state"].clone();
        let mut told = None;
        loop {
            interrupt::check()?;
            let status = self.meterd.status(machine)?;
            let (used, allowance) = (bytes(&status, "used")?, status["allowance"].as_u64());
            let percent = used * 100 / allowance.unwrap_or(used).max(1);
            let text = match allowance {
                Some(_) => format!(
                    "{} {percent:>3} %  {:>8}",
                    self.screen.bar(percent),
                    volume(used)
                ),
                None => format!("{:>8}", volume(used)),
            };
            // A moving line on a terminal; in a pipe, and for the record, one in so many percent.
            let over = used >= to || status["state"] != began;
            let step = every.map(|every| percent / every);
            if (step.is_some() && told != step) || over {
                told = step;
                self.screen.now(machine, Paint::Cyan, &text);
            } else {
                self.screen.moving(machine, Paint::Cyan, &text);
            }
            if every.is_some() {
                self.show_events(machine)?;
            }
            if over {
                return Ok(status);
            }
            frames((to - used).min(each).div_ceil(FRAME)).spray(&guest, &world)?;
        }
    }

    /// So many bytes on the wire are offered to the far end; returns how many arrived there.
    pub(crate) fn offer(&self, from: &Party, to: &Party, wire: u64) -> Result<u64> {
        interrupt::check()?;
        Ok(frames(wire.div_ceil(FRAME)).spray(from, to)? * FRAME)
    }

    /// Checks that not one of some datagrams arrives, neither way.
    pub(crate) fn nothing_passes(&mut self, machine: &str, when: &str) -> Result<()> {
        const ASKED: u64 = 100;
        let (guest, world) = (self.guest(machine)?, self.world());
        let sent = frames(ASKED).spray(&guest, &world)?;
        let received = frames(ASKED).spray(&world, &guest)?;
        let text = format!("{sent} of {ASKED} frames sent, {received} of {ASKED} received");
        self.screen.now(machine, Paint::Red, &text);
        let what = format!("{machine} passes, {when}");
        let passed = sent + received;
        let found = match passed {
            0 => "nothing".to_owned(),
            frames => format!("{frames} frames"),
        };
        self.checks.note(&what, "nothing", &found, passed == 0);
        Ok(())
    }

    /// Checks that it has full speed both ways.
    pub(crate) fn everything_passes(&mut self, machine: &str, when: &str) -> Result<()> {
        let (guest, world) = (self.guest(machine)?, self.world());
        self.full_speed(&format!("{machine} receives, {when}"), &world, &guest)?;
        self.full_speed(&format!("{machine} sends, {when}"), &guest, &world)?;
        Ok(())
    }
}

fn frames(datagrams: u64) -> Udp {
    Udp {
        datagrams,
        each: PAYLOAD,
        family: Family::V4,
        together: 1,
    }
}
