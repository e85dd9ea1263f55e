//! Message content, against models that are slow and plain.

use smtp::data::{DataDecoder, DataEncoder, End, Flaws, LINE_OCTETS_MAX};

use super::arrivals;

/// The decoder finds the end, the content and the flaws that the model finds.
pub(crate) fn data_decoder(wire: &[u8]) {
    let model = Model::of(wire);
    for pieces in arrivals(wire) {
        let (content, consumed, end) = decode(&pieces);
        match &model {
            None => {
                assert_eq!(end, None);
                assert_eq!(consumed, wire.len());
                assert!(unstuffed(wire).starts_with(&content));
            }
            Some(model) => {
                assert_eq!(content, model.content);
                assert_eq!(consumed, model.consumed);
                let eight_bit = content.iter().any(|octet| *octet > 127);
                let octets = content.len() as u64;
                assert_eq!(end, Some(End { flaws: model.flaws, octets, eight_bit }));
            }
        }
    }
}

/// What the encoder writes is one message to the strictest and to the most lenient receiver, and it is the content but
/// for line ends.
pub(crate) fn data_encoder(content: &[u8]) {
    let [whole, single, random] = arrivals(content).map(|pieces| {
        let mut wire = Vec::new();
        let mut encoder = DataEncoder::new();
        pieces.iter().for_each(|piece| encoder.encode(piece, &mut wire));
        encoder.finish(&mut wire);
        wire
    });
    assert_eq!(whole, single);
    assert_eq!(whole, random);
    let (decoded, consumed, end) = decode(&[&whole]);
    assert_eq!(consumed, whole.len());
    assert_eq!(decoded, normalised(content));
    let flaws = end.unwrap().flaws.unwrap_or_default();
    assert!(!flaws.bare_cr && !flaws.bare_lf);
    // A receiver to whom every LF ends a line sees the lone dot in the last line only.
    let lone = |line: &&[u8]| matches!(line.strip_suffix(b"\r").unwrap_or(line), b".");
    assert_eq!(whole.split(|octet| *octet == b'\n').filter(lone).count(), 1);
}

fn decode(pieces: &[&[u8]]) -> (Vec<u8>, usize, Option<End>) {
    let mut decoder = DataDecoder::new();
    let mut content = Vec::new();
    let mut consumed = 0;
    for piece in pieces {
        let (taken, end) = decoder.decode(piece, &mut |octets: &[u8]| content.extend_from_slice(octets));
        consumed += taken;
        if end.is_some() {
            return (content, consumed, end);
        }
    }
    (content, consumed, None)
}

struct Model {
    content: Vec<u8>,
    consumed: usize,
    flaws: Option<Flaws>,
}

impl Model {
    fn of(wire: &[u8]) -> Option<Self> {
        let end = if wire.starts_with(b".\r\n") {
            0
        } else {
            wire.windows(5).position(|window| window == b"\r\n.\r\n")? + 2
        };
        let content = unstuffed(&wire[..end]);
        let flaws = flaws(&content);
        Some(Self { content, consumed: end + 3, flaws: (flaws != Flaws::default()).then_some(flaws) })
    }
}

fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let mut content: Vec<u8> = Vec::new();
    let mut line_start = 0;
    for (index, octet) in wire.iter().enumerate() {
        if *octet == b'.' && line_start == index {
            continue;
        }
        content.push(*octet);
        if wire[..=index].ends_with(b"\r\n") {
            line_start = index + 1;
        }
    }
    content
}

fn flaws(content: &[u8]) -> Flaws {
    let mut flaws = Flaws::default();
    let mut line_octets = 0;
    for (index, octet) in content.iter().enumerate() {
        let after_cr = index > 0 && content[index - 1] == b'\r';
        match octet {
            b'\r' => flaws.bare_cr |= content.get(index + 1) != Some(&b'\n'),
            b'\n' => flaws.bare_lf |= !after_cr,
            0 => flaws.nul = true,
            _ => {}
        }
        line_octets += 1;
        if *octet == b'\n' {
            let end = if after_cr { 2 } else { 1 };
            flaws.long_line |= line_octets - end > LINE_OCTETS_MAX;
            line_octets = 0;
        }
    }
    flaws.long_line |= line_octets > LINE_OCTETS_MAX;
    flaws
}

fn normalised(content: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (index, octet) in content.iter().enumerate() {
        match octet {
            b'\n' if index > 0 && content[index - 1] == b'\r' => {}
            b'\r' | b'\n' => lines.extend_from_slice(b"\r\n"),
            other => lines.push(*other),
        }
    }
    if !lines.is_empty() && !lines.ends_with(b"\r\n") {
        lines.extend_from_slice(b"\r\n");
    }
    lines
}
