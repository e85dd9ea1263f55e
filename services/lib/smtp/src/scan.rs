//! Finding octets eight at a time. The standard library has this for text only, and message content is scanned throughout.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The index of the first `octet`.
pub(crate) fn find(octet: u8, octets: &[u8]) -> Option<usize> {
    let pattern = ONES * u64::from(octet);
    search(octets, |word| zeros(word ^ pattern), |candidate| candidate == octet)
}

/// The index of the first CR or LF.
pub(crate) fn find_line_end(octets: &[u8]) -> Option<usize> {
    let (cr, lf) = (ONES * u64::from(b'\r'), ONES * u64::from(b'\n'));
    search(octets, |word| zeros(word ^ cr) | zeros(word ^ lf), |candidate| matches!(candidate, b'\r' | b'\n'))
}

/// The high bit of each octet that is zero; those above the lowest set one may be wrong, as borrows go upwards.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

#[inline(always)]
fn search(octets: &[u8], hits: impl Fn(u64) -> u64, is_hit: impl Fn(u8) -> bool) -> Option<usize> {
    let (words, rest) = octets.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let hits = hits(u64::from_le_bytes(*word));
        if hits != 0 {
            return Some(index * 8 + hits.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|octet| is_hit(*octet)).map(|index| words.len() * 8 + index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{find, find_line_end};

    proptest! {
        #[test]
        fn the_first_is_found(octets in proptest::collection::vec(8u8..15, 0..80)) {
            prop_assert_eq!(find(b'\n', &octets), octets.iter().position(|octet| *octet == b'\n'));
            prop_assert_eq!(
                find_line_end(&octets),
                octets.iter().position(|octet| matches!(octet, b'\r' | b'\n'))
            );
        }

        #[test]
        fn octets_of_any_value_are_found(octet: u8, octets: Vec<u8>) {
            prop_assert_eq!(find(octet, &octets), octets.iter().position(|other| *other == octet));
        }
    }
}
