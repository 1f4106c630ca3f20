//! What the kernel program says reaches the daemon's log.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use meter_tests::{
    cost::Packet,
    inspect::{self, Hook},
    wait::{self, Seen},
};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{
    arena::{arena, attach},
    weight::gre,
};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn about(&self, what: &str) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(what)).count()
    }

    fn wait_for(&self, count: usize, what: &str) {
        let ask = || {
            Ok(match self.about(what) {
                seen if seen == count => Seen::Yes(()),
                seen => Seen::NotYet(format!("{seen} of {count}")),
            })
        };
        let (each, at_most) = (Duration::from_millis(5), Duration::from_secs(10));
        wait::until(what, each, at_most, ask).unwrap();
    }
}

#[test]
fn unreadable_packets_are_logged_at_the_first_the_second_the_fourth_and_so_on() {
    let lines = Lines::default();
    let writer = lines.clone();
    // For the whole process: the other tests' lines land here as well, and harm nobody.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    arena(move |arena| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut programs = runtime.block_on(async { arena.open() });
        attach(&mut programs, 1, 0);
        let hook = inspect::programs(1, Hook::Sent).unwrap();
        let sent = inspect::open_program(hook[0].id).unwrap();
        // On one CPU, since each counts for itself.
        let mut one = CpuSet::new();
        one.set(0);
        sched_setaffinity(None, &one).unwrap();
        let said = "cannot read the headers of an offloaded packet of 3034 bytes";
        let frame = gre();
        let unreadable = Packet {
            frame: &frame,
            segment: 400,
        };
        for _ in 0..7 {
            unreadable.pass(&sent).unwrap();
        }
        lines.wait_for(3, said);
        unreadable.pass(&sent).unwrap();
        lines.wait_for(4, said);
        assert_eq!(lines.about("interface 1:"), 4);
        assert_eq!(lines.about("8 so far on this CPU"), 1);
    });
}
