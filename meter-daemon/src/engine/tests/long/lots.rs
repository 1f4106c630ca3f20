//! Drawing lots from a seed: the same seed, the same history, on every machine and for ever.

/// SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Lots(u64);

impl Lots {
    pub(super) fn new(seed: u64) -> Self {
        let mut lots = Self(seed);
        // Neighbouring seeds begin alike.
        lots.draw();
        lots
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// From `low` to `high`, both included.
    pub(super) fn number(&mut self, low: u64, high: u64) -> u64 {
        low + self.draw() % (high - low + 1)
    }

    pub(super) fn seconds(&mut self, low: u64, high: u64) -> i64 {
        i64::try_from(self.number(low, high)).unwrap()
    }

    pub(super) fn day(&mut self) -> u8 {
        u8::try_from(self.number(1, 31)).unwrap()
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.number(1, 100) <= percent
    }

    pub(super) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        let last = u64::try_from(of.len() - 1).unwrap();
        of[usize::try_from(self.number(0, last)).unwrap()].clone()
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        let last = u64::try_from(len - 1).unwrap();
        usize::try_from(self.number(0, last)).unwrap()
    }
}
