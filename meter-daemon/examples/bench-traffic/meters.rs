//! Our own programs, as the daemon attaches them, in each of their forms.

use std::path::PathBuf;

use ipnet::IpNet;
use meter_common::{CountBytes, NO_MACHINE};
use meter_daemon::{
    engine::units::Bytes,
    host::{
        limits::{ArmedBoundary, ExemptWhenSuspended, Then},
        programs::{Attach, AttachRequest, ProgramOptions, Programs, SlotReading, detach_all},
    },
};
use meter_tests::{Context, Failure, Result, sandbox::Sandbox};

/// What the program has to do for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Count it.
    Count,
    /// Count it and see that its machine is within its limits.
    Limits,
    /// That, and see that its far end is in none of 200 exempt prefixes.
    Exempt,
}

/// A set of pinned maps of our own.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pins: PathBuf,
    slots: u32,
    form: Form,
}

impl Meter {
    pub(crate) fn new(sandbox: &Sandbox, name: &str, form: Form, slots: u32) -> Self {
        Self {
            pins: sandbox.bpffs().join(name),
            slots,
            form,
        }
    }

    pub(crate) fn open(&self) -> Result<Programs> {
        let options = ProgramOptions {
            pin_directory: self.pins.clone(),
            count_bytes: CountBytes::Wire,
            slots: self.slots,
            attach: Attach::Auto,
        };
        Programs::open(&options, 7).map_err(|error| Failure::new(error.to_string()))
    }

    /// Puts the programs on these interfaces of this thread's namespace, in the last slots, and
    /// every machine that there is room for under limits far away.
    pub(crate) fn attach(&self, interfaces: &[u32]) -> Result<()> {
        let mut programs = self.open()?;
        self.arm(&mut programs)?;
        let requests: Vec<_> = interfaces
            .iter()
            .rev()
            .zip((0..self.slots).rev())
            .map(|(&ifindex, slot)| AttachRequest {
                ifindex,
                slot,
                generation: 1,
                machine: match self.form {
                    Form::Count => NO_MACHINE,
                    Form::Limits | Form::Exempt => slot + 1,
                },
            })
            .collect();
        for (ifindex, result) in programs.attach(&requests) {
            result.map_err(|error| Failure::new(format!("ifindex {ifindex}: {error}")))?;
        }
        Ok(())
    }

    fn arm(&self, programs: &mut Programs) -> Result<()> {
        const GROUP: u32 = 1;
        let text = |error: meter_daemon::host::error::HostError| Failure::new(error.to_string());
        if self.form == Form::Count {
            return Ok(());
        }
        let far = ArmedBoundary {
            sum: Some(Bytes(1 << 60)),
            received: Some(Bytes(1 << 59)),
            sent: Some(Bytes(1 << 59)),
            then: Then::Suspended,
        };
        for machine in 1..=self.slots {
            let limits = programs.limits_mut();
            limits.arm(machine, [Some(far), None]).map_err(text)?;
            if self.form == Form::Exempt {
                limits
                    .set_exempt_group(machine, GROUP, ExemptWhenSuspended::Stopped)
                    .map_err(text)?;
            }
        }
        if self.form == Form::Exempt {
            let prefixes: Result<Vec<IpNet>> = (0..200)
                .map(|n| {
                    let text = format!("172.16.{n}.0/24");
                    text.parse().map_err(|_| Failure::new(text))
                })
                .collect();
            programs
                .set_exempt_prefixes(GROUP, &prefixes?)
                .map_err(text)?;
        }
        Ok(())
    }

    /// What the last slot shows.
    pub(crate) fn reading(&self) -> Result<SlotReading> {
        let reading = self.open()?.reading(self.slots - 1);
        reading.map_err(|error| Failure::new(error.to_string()))
    }

    /// Takes it all away, and fails if a pin is left.
    pub(crate) fn detach(&self) -> Result<()> {
        detach_all(&self.pins).map_err(|error| Failure::new(error.to_string()))?;
        let left = meter_tests::inspect::pins(&self.pins)?;
        if left.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("pins are left: {left:?}"))).could_not(|| "detach")
    }
}
