//! A place of its own for a test: private network and mount namespaces, in which everything
//! that is made vanishes with the last process and descriptor, whatever became of the test.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{Context, Failure, Result, links, sys};

/// Where a sandbox keeps its files: a tmpfs of its own, mounted over a directory that every
/// Linux has and that nothing here needs, so that not even an empty directory is left.
const ROOT: &str = "/dev/shm";

/// Tests measure time and rates, or move all that the machine can: such a test has it to itself.
static MACHINE: RwLock<()> = RwLock::new(());

/// The private place. It exists while the closure given to [`Sandbox::run`] runs.
#[derive(Debug)]
pub struct Sandbox {
    host: Namespace,
    notes: Mutex<Vec<String>>,
}

impl Sandbox {
    /// Runs `test`, and no other of this program meanwhile, in a thread that has left the
    /// machine's network and mounts. What fixtures noted (the daemon's log) is shown if it
    /// fails.
    pub fn run<T: Send>(test: impl FnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        Self::inside(test)
    }

    /// As [`Self::run`], with as many others as the test harness has threads for: for tests that
    /// mostly wait, and that do not mind if they wait longer.
    pub fn beside<T: Send>(test: impl FnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        let _together = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        Self::inside(test)
    }

    fn inside<T: Send>(test: impl FnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let sandbox = Self::enter()?;
                    // Shown while unwinding, too: a panic is how most tests fail.
                    let mut notes = ShowUnlessFine {
                        sandbox: &sandbox,
                        fine: false,
                    };
                    let result = test(&sandbox);
                    notes.fine = result.is_ok();
                    drop(notes);
                    result
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn enter() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::new(
                "this needs root: it makes network namespaces and loads BPF programs. Run it \
                 with sudo",
            ));
        }
        sys::unshare(true).could_not(|| "leave the machine's network and mount namespaces")?;
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .could_not(|| "make the mounts private")?;
        mount("tmpfs", ROOT, "tmpfs", MountFlags::empty(), None)
            .could_not(|| format!("mount a tmpfs at {ROOT}"))?;
        let sandbox = Self {
            host: Namespace::current()?,
            notes: Mutex::default(),
        };
        let pins = sandbox.bpffs();
        std::fs::create_dir(&pins).could_not(|| format!("make {}", pins.display()))?;
        mount("bpf", &pins, "bpf", MountFlags::empty(), None)
            .could_not(|| format!("mount a bpffs at {}", pins.display()))?;
        links::up("lo")?;
        Ok(sandbox)
    }

    /// A directory for anything.
    #[must_use]
    pub fn root(&self) -> &Path {
        Path::new(ROOT)
    }

    /// The private bpffs.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.root().join("bpf")
    }

    /// The network namespace that the closure runs in: the node's.
    #[must_use]
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// To be shown if the test fails.
    pub fn note(&self, text: String) {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text);
    }
}

struct ShowUnlessFine<'a> {
    sandbox: &'a Sandbox,
    fine: bool,
}

impl Drop for ShowUnlessFine<'_> {
    #[expect(clippy::print_stderr, reason = "what a failing test shows goes there")]
    fn drop(&mut self) {
        if !self.fine {
            let notes = self
                .sandbox
                .notes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for note in notes.iter() {
                eprintln!("{note}");
            }
        }
    }
}

/// A network namespace, alive while someone holds it.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// A new one, with its loopback up.
    pub fn new() -> Result<Self> {
        in_thread(|| {
            sys::unshare(false).could_not(|| "make a network namespace")?;
            links::up("lo")?;
            Self::current()
        })
    }

    /// The calling thread's.
    pub fn current() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        let file = File::open(path).could_not(|| format!("open {path}"))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// Runs `work` inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// The calling thread goes there for good: for threads of the caller's own.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .could_not(|| "enter a network namespace")
    }

    /// Writes a file below `/proc/sys/net`, which each namespace has its own of.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| std::fs::write(&path, value).could_not(|| format!("write {value} to {path}")))
    }

    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl PartialEq for Namespace {
    /// The same namespace, through whichever descriptor.
    fn eq(&self, other: &Self) -> bool {
        let inode = |namespace: &Self| rustix::fs::fstat(&namespace.0).map(|stat| stat.st_ino);
        matches!((inode(self), inode(other)), (Ok(one), Ok(two)) if one == two)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
