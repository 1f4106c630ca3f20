//! TBF, here as what splits GSO packets: HTB above it does the pacing.

use super::htb::rate_specification;
use crate::host::netlink::written;

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;

/// Bytes a second at which no packet takes a nanosecond. A TBF that held packets back
/// below an HTB would be logged by the kernel as not work-conserving.
const UNLIMITED: u64 = 1_000_000_000_000_000;

/// Options of a TBF that passes all at once, holds at most `limit` bytes, and takes GSO
/// packets larger than `segment` apart.
pub(super) fn splitter(segment: u32, limit: u32) -> Vec<u8> {
    let mut parameters = Vec::with_capacity(36);
    parameters.extend(rate_specification(UNLIMITED));
    parameters.extend([0; 12]);
    // Limit, buffer (TCA_TBF_BURST instead), mtu (of the peak rate, which there is none).
    for number in [limit, 0, 0] {
        parameters.extend(number.to_ne_bytes());
    }
    written([
        (TCA_TBF_PARMS, parameters),
        (TCA_TBF_RATE64, UNLIMITED.to_ne_bytes().to_vec()),
        (TCA_TBF_BURST, segment.to_ne_bytes().to_vec()),
    ])
}
