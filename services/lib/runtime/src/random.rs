//! Chance that cannot be guessed.

/// Octets of the operating system's secure generator, seeded and expanded by aws-lc.
pub fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    #[allow(
        clippy::expect_used,
        reason = "aws-lc aborts the process itself when it has no entropy; it never returns an error"
    )]
    aws_lc_rs::rand::fill(&mut octets).expect("the secure generator answers");
    octets
}

/// A number of 32 random bits.
pub fn random_u32() -> u32 {
    u32::from_ne_bytes(random())
}
