//! Numbers drawn from a printed seed.
#![allow(clippy::print_stdout, reason = "with its seed a run can be understood")]

use std::time::SystemTime;

/// The next numbers; who has the seed has them all.
pub struct Chance(u64);

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}

impl Chance {
    /// From the clock; the seed is printed.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set");
        let seed = u64::from(now.subsec_nanos()) << 20 | 1;
        println!("seed {seed}");
        Self(seed)
    }

    /// The next number below `most`.
    pub fn below(&mut self, most: u32) -> u32 {
        // Xorshift, by Marsaglia.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 16) % u64::from(most)).expect("it is below `most`")
    }
}
