//! Files that may hang, read on a thread of their own. `/etc/pve` is a FUSE mount: when its
//! cluster service hangs, whoever reads there hangs with it, in the kernel and for minutes.

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    thread,
    time::Duration,
};

use crate::host::clock;

/// So long an answer is waited for: long for a file system that is well, and short for those
/// who wait for us meanwhile. It is waited for once: until that answer is there, whoever asks
/// is told at once that there is none.
const PATIENCE: Duration = Duration::from_millis(100);

/// An answer that came late is as good as another for so long.
const FRESH: Duration = Duration::from_secs(1);

/// Somebody who reads, on a thread of his own.
#[derive(Debug)]
pub(super) struct Aside<Q, A> {
    what: &'static str,
    read: fn(&Q) -> A,
    /// From the first question on.
    way: Option<Way<Q, A>>,
    /// Since when an answer is waited for.
    since: Option<Duration>,
}

type Way<Q, A> = (SyncSender<Q>, Receiver<Read<Q, A>>);

/// What was found, and when.
#[derive(Debug)]
struct Read<Q, A> {
    asked: Q,
    found: A,
    at: Duration,
}

impl<Q: PartialEq + Send + 'static, A: Send + 'static> Aside<Q, A> {
    /// `what` it reads is for errors.
    pub(super) const fn new(what: &'static str, read: fn(&Q) -> A) -> Self {
        Self {
            what,
            read,
            way: None,
            since: None,
        }
    }

    /// What is read now; or was a moment ago, where that took too long.
    pub(super) fn ask(&mut self, question: Q) -> io::Result<A> {
        if self.way.is_none() {
            self.way = Some(start(self.what, self.read)?);
        }
        let ended = || io::Error::other(format!("whoever reads {} has ended", self.what));
        let (questions, answers) = self.way.as_ref().ok_or_else(ended)?;
        let now = clock::now().monotonic;
        if let Some(since) = self.since {
            let late = match answers.try_recv() {
                Ok(late) => late,
                Err(TryRecvError::Empty) => return Err(hangs(self.what, now - since)),
                Err(TryRecvError::Disconnected) => return Err(ended()),
            };
            self.since = None;
            if late.asked == question && now < late.at + FRESH {
                return Ok(late.found);
            }
        }
        questions.send(question).map_err(|_| ended())?;
        match answers.recv_timeout(PATIENCE) {
            Ok(read) => Ok(read.found),
            Err(RecvTimeoutError::Timeout) => {
                self.since = Some(now);
                Err(hangs(self.what, PATIENCE))
            }
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
        }
    }
}

fn hangs(what: &str, since: Duration) -> io::Error {
    let reason = format!(
        "reading {what} hangs for {:.1} s by now; whoever serves that file system should be looked at",
        since.as_secs_f64()
    );
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

fn start<Q: Send + 'static, A: Send + 'static>(
    what: &str,
    read: fn(&Q) -> A,
) -> io::Result<Way<Q, A>> {
    let (questions, asked) = sync_channel::<Q>(1);
    let (answer, answers) = sync_channel(1);
    thread::Builder::new()
        .name(format!("reads {what}"))
        .spawn(move || {
            // It ends when nobody asks any more; one that hangs, with the process.
            for asked in asked {
                let found = read(&asked);
                let at = clock::now().monotonic;
                if answer.send(Read { asked, found, at }).is_err() {
                    break;
                }
            }
        })?;
    Ok((questions, answers))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn read(file: &PathBuf) -> Option<String> {
        fs::read_to_string(file).ok()
    }

    #[test]
    fn a_file_that_hangs_is_waited_for_once_and_what_it_says_at_last_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let (hanging, well) = (directory.path().join("fifo"), directory.path().join("file"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &hanging, rustix::fs::Mode::RUSR).unwrap();
        fs::write(&well, "well").unwrap();
        let mut aside = Aside::new("files", read);
        let well_said = Some("well".to_owned());
        assert_eq!(aside.ask(well.clone()).unwrap(), well_said);

        let began = clock::now().monotonic;
        for file in [&hanging, &hanging, &well, &well] {
            let failure = aside.ask(file.clone()).unwrap_err();
            assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
        }
        let took = clock::now().monotonic - began;
        assert!(took < 2 * PATIENCE, "{took:?}: one wait for all of them");

        fs::write(&hanging, "at last").unwrap();
        let soon = clock::now().monotonic + Duration::from_secs(20);
        let said = loop {
            match aside.ask(hanging.clone()) {
                Ok(said) => break said,
                Err(_) if clock::now().monotonic < soon => thread::yield_now(),
                Err(failure) => panic!("{failure}"),
            }
        };
        assert_eq!(said.as_deref(), Some("at last"));
        assert_eq!(aside.ask(well).unwrap(), well_said);
    }
}
