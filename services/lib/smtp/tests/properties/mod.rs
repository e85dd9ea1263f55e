//! What must hold for any octets. The fuzz targets and the tests of every day call these same functions.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on has failed")]

mod client;
mod content;
mod server;
mod text;

pub(crate) use client::client;
pub(crate) use content::{data_decoder, data_encoder};
pub(crate) use server::server;
pub(crate) use text::{address, command, line, reply};

/// Cuts octets into pieces of 1 to 16, decided by `seed`.
pub(crate) fn pieces(octets: &[u8], seed: u64) -> Vec<&[u8]> {
    let mut state = seed;
    let mut rest = octets;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = ((state >> 33) as usize % 16 + 1).min(rest.len());
        let (piece, after) = rest.split_at(length);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// The ways in which octets may arrive: at once, one by one, at random.
pub(crate) fn arrivals(octets: &[u8]) -> [Vec<&[u8]>; 3] {
    let seed =
        octets.iter().fold(octets.len() as u64, |seed, octet| seed.wrapping_mul(31) + u64::from(*octet));
    [vec![octets], octets.chunks(1).collect(), pieces(octets, seed)]
}
