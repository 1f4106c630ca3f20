//! What a packet costs in a program, by the kernel's own test run.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::{Context, Result, inspect::Hook, sys};

/// A packet as a program on an interface's hook would be shown it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its bytes.
    pub frame: &'a [u8],
    /// Payload of the segments that it is to be cut into; 0 for a frame as it is.
    pub segment: u32,
}

impl Packet<'_> {
    /// Passes it once through `program`, on the loopback.
    pub fn pass(&self, program: impl AsFd) -> Result<()> {
        self.run(program, 1).map(drop)
    }

    /// Nanoseconds that `program` takes for it, in the mean of a great many runs.
    pub fn cost(&self, program: impl AsFd) -> Result<u32> {
        self.run(program, 1_000_000)
    }

    /// The same in fractions, by the processor time of this thread over so many runs: what
    /// else the machine does lengthens it less.
    pub fn fine_cost(&self, program: impl AsFd, times: u32) -> Result<f64> {
        let before = clock_gettime(ClockId::ThreadCPUTime);
        self.run(program, times)?;
        let after = clock_gettime(ClockId::ThreadCPUTime);
        let of = |time: Timespec| Duration::try_from(time).unwrap_or_default().as_secs_f64();
        Ok((of(after) - of(before)) * 1e9 / f64::from(times))
    }

    fn run(&self, program: impl AsFd, times: u32) -> Result<u32> {
        const LOOPBACK: u32 = 1;
        // struct __sk_buff: ifindex and gso_size are what a test run may set of it.
        let mut context = [0; 192];
        context[40..44].copy_from_slice(&LOOPBACK.to_ne_bytes());
        context[176..180].copy_from_slice(&self.segment.to_ne_bytes());
        sys::bpf::test_run(program, self.frame, &context, times)
            .could_not(|| "have the kernel run a program")
    }
}

/// A program that does nothing, to compare with.
pub fn empty_program() -> Result<OwnedFd> {
    // r0 = TCX_NEXT; return
    let code = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    sys::bpf::load(&code, Hook::Sent.attach_type()).could_not(|| "load an empty program")
}
