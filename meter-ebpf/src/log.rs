//! Says things to the daemon in aya-log's records, each of a length known when compiled.
//!
//! Not by aya-log's own macros: they look for the length at run time. Verifiers up to Linux
//! 6.15 follow the wrong guesses that a processor could make there, find it writing past the
//! record, and refuse the program of a process without `CAP_PERFMON`. Nor would a switch
//! that is known at load time help: they follow the branch not taken, too.

use core::ptr;

use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_log_ebpf::macro_support::{AYA_LOGS, Argument, Field, LogValueLength};
pub use aya_log_ebpf::macro_support::{Header, Level};

/// Room for one record; more than it can hold is not sent, and the compiler sees it.
const ROOM: usize = 384;

/// Warns with these pieces of text and numbers, one after the other.
macro_rules! warning {
    ($($piece:expr),+ $(,)?) => {{
        let pieces = [$(stringify!($piece)),+].len() as u32;
        if let Some(mut record) = $crate::log::Record::begin() {
            let written = $crate::log::Header::new(
                module_path!(),
                $crate::log::Level::Warn,
                module_path!(),
                file!(),
                line!(),
                pieces,
            )
            .and_then(|header| header.with_bytes(&mut |bytes| record.bytes(bytes)))
            $(.and_then(|()| record.piece(&$piece)))+;
            record.end(written);
        }
    }};
}
pub(crate) use warning;

/// A record under way.
pub struct Record {
    entry: RingBufEntry<[u8; ROOM]>,
    at: usize,
}

impl Record {
    /// None where the daemon does not empty the buffer.
    #[inline(always)]
    pub fn begin() -> Option<Self> {
        let entry = AYA_LOGS.reserve(0)?;
        // The whole record's length comes first, and is known last.
        let at = size_of::<LogValueLength>();
        Some(Self { entry, at })
    }

    #[inline(always)]
    pub fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at + bytes.len();
        if end > ROOM {
            return None;
        }
        let to = self.entry.as_mut_ptr().cast::<u8>();
        // SAFETY: `at` to `end` lies within the entry's bytes, which are ours until it is sent.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(self.at), bytes.len()) };
        self.at = end;
        Some(())
    }

    #[inline(always)]
    pub fn piece(&mut self, piece: &impl Argument) -> Option<()> {
        let (kind, value) = piece.as_argument();
        Field::new(kind, value)?.with_bytes(&mut |bytes| self.bytes(bytes))
    }

    /// Sends it, if all of it was written.
    #[inline(always)]
    pub fn end(mut self, written: Option<()>) {
        let length = self.at as LogValueLength;
        self.at = 0;
        match written.and_then(|()| self.bytes(&length.to_ne_bytes())) {
            Some(()) => self.entry.submit(0),
            None => self.entry.discard(0),
        }
    }
}
