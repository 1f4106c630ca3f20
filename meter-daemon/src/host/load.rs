//! Brings the kernel program into the kernel, and its messages out of it.
#![expect(
    unsafe_code,
    reason = "tokio wants it promised that a registered descriptor stays open"
)]

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, ProgramFd, SchedClassifier},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    task::JoinHandle,
};

use super::{
    error::HostError,
    maps,
    pins::{Hook, Pins},
    programs::{Mode, ProgramOptions},
};

/// The kernel program, as `cargo xtask ebpf` built it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("METER_EBPF"));

/// A loaded program.
pub(super) struct Program {
    pub(super) fd: ProgramFd,
    pub(super) id: u32,
}

/// The three of them.
pub(super) struct Loaded {
    received: Program,
    sent: Program,
    shape: Program,
}

impl Loaded {
    /// Loads those for this mode into the kernel; the maps must be there.
    pub(super) fn new(ebpf: &mut Ebpf, mode: Mode) -> Result<Self, HostError> {
        Ok(Self {
            received: program(ebpf, "meter_received")?,
            sent: program(ebpf, "meter_sent")?,
            shape: match mode {
                Mode::Tcx => program(ebpf, "shape_sent")?,
                Mode::Clsact => program(ebpf, "mark_sent")?,
            },
        })
    }

    /// The one for a hook.
    pub(super) const fn of(&self, hook: Hook) -> &Program {
        match hook {
            Hook::Received => &self.received,
            Hook::Sent => &self.sent,
            Hook::Shape => &self.shape,
        }
    }
}

/// Reads the object, with its maps' sizes and names and the basis of counting set.
pub(super) fn object(pins: &Pins, options: &ProgramOptions) -> Result<Ebpf, HostError> {
    let count_bytes = options.count_bytes as u32;
    let mut loader = EbpfLoader::new();
    // Nothing is relocated against the kernel's types: spare the parsing of 5 MB of them.
    loader.btf(None);
    loader.override_global("COUNT_BYTES", &count_bytes, true);
    maps::configure(&mut loader, pins, options.slots);
    loader.load(OBJECT).map_err(|error| HostError::Load {
        reason: causes(&error),
    })
}

fn program(ebpf: &mut Ebpf, name: &str) -> Result<Program, HostError> {
    let failed = |error: ProgramError| HostError::Load {
        reason: format!("{name}: {}", causes(&error)),
    };
    let program = ebpf.program_mut(name).ok_or_else(|| HostError::Load {
        reason: format!("it has no program {name}"),
    })?;
    let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    Ok(Program {
        id: program.info().map_err(failed)?.id(),
        fd: program
            .fd()
            .map_err(failed)?
            .try_clone()
            .map_err(|error| HostError::system("copy a program's descriptor", error))?,
    })
}

/// The error and what caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    // aya's transparent errors print their source's text, too.
    texts.dedup();
    texts.join(": ")
}

/// Passes what the kernel program says on to `log`, and thereby to `tracing`. Outside of a
/// tokio runtime nobody listens, and the kernel drops what is said.
pub(super) fn forward_log(ebpf: &mut Ebpf) -> Option<JoinHandle<()>> {
    let runtime = Handle::try_current().ok()?;
    let logger = aya_log::EbpfLogger::init(ebpf).map_err(|error| error.to_string());
    let logger = logger.and_then(|logger| {
        // SAFETY: the logger owns the descriptor of its ring buffer, opens no other, and is
        // owned by the AsyncFd, which takes the registration back before it drops it.
        unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(|error| error.to_string())
    });
    let mut logger = logger
        .inspect_err(|error| {
            tracing::warn!("cannot hear what the kernel program says: {error}");
        })
        .ok()?;
    Some(runtime.spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }))
}
