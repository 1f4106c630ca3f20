//! What traffic must add up to, by arithmetic alone.

/// Ethernet, IPv4 and TCP with the timestamp option that Linux uses.
pub const TCP4_HEADERS: u64 = 14 + 20 + 32;
/// Ethernet, IPv6 and TCP with timestamps.
pub const TCP6_HEADERS: u64 = 14 + 40 + 32;
/// Ethernet, IPv4 and UDP.
pub const UDP4_HEADERS: u64 = 14 + 20 + 8;
/// Ethernet, IPv6 and UDP.
pub const UDP6_HEADERS: u64 = 14 + 40 + 8;

/// So much payload in datagrams (or full segments) of at most `each`, with these headers.
#[must_use]
pub const fn wire_bytes(payload: u64, each: u64, headers: u64) -> u64 {
    payload + payload.div_ceil(each) * headers
}

/// `found` differs from `expected` by at most this share.
#[must_use]
pub fn within(found: u64, expected: u64, share: f64) -> bool {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of volumes far below 2^53"
    )]
    let (difference, expected) = (found.abs_diff(expected) as f64, expected as f64);
    difference <= expected * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_megabytes_of_tcp_are_104_6_on_the_wire_one_way() {
        assert_eq!(wire_bytes(100_000_000, 1448, TCP4_HEADERS), 104_558_026);
        assert_eq!(wire_bytes(3, 1448, TCP4_HEADERS), 69);
        assert_eq!(wire_bytes(0, 1448, TCP4_HEADERS), 0);
    }

    #[test]
    fn a_share_is_of_what_was_expected() {
        assert!(within(1001, 1000, 0.001));
        assert!(!within(1002, 1000, 0.001));
        assert!(within(999, 1000, 0.001));
    }
}
