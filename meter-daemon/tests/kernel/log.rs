//! What the kernel program says reaches the daemon's log.

use std::{
    io,
    sync::{Arc, Mutex},
};

use aya::programs::loaded_programs;
use meter_daemon::host::programs::Programs;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{
    arena::{arena, attach, wait_until},
    pinned::programs_on,
    speed::pass,
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
        let mut programs = runtime.block_on(async { Programs::open(&arena.options(), 1).unwrap() });
        attach(&mut programs, 1, 0);
        let [_, ingress] = programs_on("lo");
        let sent = loaded_programs()
            .flatten()
            .find(|program| program.id() == ingress[0])
            .unwrap();
        let sent = sent.fd().unwrap();
        // On one CPU, since each counts for itself.
        let mut one = CpuSet::new();
        one.set(0);
        sched_setaffinity(None, &one).unwrap();
        let said = "cannot read the headers of an offloaded packet of 3034 bytes";
        for _ in 0..7 {
            pass(&sent, &gre());
        }
        wait_until("the first, second and fourth are logged", || {
            lines.about(said) == 3
        });
        pass(&sent, &gre());
        wait_until("the eighth is logged", || lines.about(said) == 4);
        assert_eq!(lines.about("interface 1:"), 4);
        assert_eq!(lines.about("8 so far on this CPU"), 1);
    });
}
