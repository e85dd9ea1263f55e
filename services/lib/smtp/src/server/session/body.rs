//! Reading content, by DATA and by BDAT.

use std::mem;

use crate::server::{Question, replies};

use super::{Fate, Flow, Last, Pending, Phase, Session};

impl Session {
    pub(super) fn read_data(
        &mut self,
        rest: &[u8],
        out: &mut Vec<u8>,
        body: &mut dyn FnMut(&[u8]),
    ) -> (usize, Flow) {
        let Phase::Data(decoder) = &mut self.phase else { return (0, Flow::Go) };
        let size_max = self.settings.size_max;
        let mut octets = decoder.octets();
        let (taken, end) = decoder.decode(rest, &mut |piece: &[u8]| {
            octets += piece.len() as u64;
            if size_max == 0 || octets <= size_max {
                body(piece);
            }
        });
        match end {
            None => (taken, Flow::Need),
            Some(end) if self.is_too_big(end.octets) => (taken, self.overflow(out)),
            Some(end) => {
                let question =
                    Question::Message { flaws: end.flaws, octets: end.octets, eight_bit: end.eight_bit };
                (taken, self.ask(question, Pending::Message))
            }
        }
    }

    pub(super) fn read_chunk(
        &mut self,
        rest: &[u8],
        out: &mut Vec<u8>,
        body: &mut dyn FnMut(&[u8]),
    ) -> (usize, Flow) {
        let Phase::Chunk { octets_left, fate, .. } = &mut self.phase else { return (0, Flow::Go) };
        let taken = usize::try_from(*octets_left).map_or(rest.len(), |left| left.min(rest.len()));
        let piece = &rest[..taken];
        *octets_left -= taken as u64;
        let more = *octets_left > 0;
        if let (Fate::Kept, Some(inspector)) = (fate, &mut self.chunks) {
            inspector.inspect(piece);
            let octets = inspector.octets();
            if !piece.is_empty() && !self.is_too_big(octets) {
                body(piece);
            }
        }
        (taken, if more { Flow::Need } else { self.end_chunk(out) })
    }

    fn end_chunk(&mut self, out: &mut Vec<u8>) -> Flow {
        let Phase::Chunk { last, fate, .. } = mem::replace(&mut self.phase, Phase::Command) else {
            return Flow::Go;
        };
        let kept = match fate {
            Fate::Kept => self.chunks.as_mut(),
            Fate::Dropped(reply) => {
                reply.write_to(out);
                None
            }
        };
        let Some(inspector) = kept else { return Flow::Go };
        let octets = inspector.octets();
        if last == Last::Yes {
            let (flaws, eight_bit) = (inspector.finish(), inspector.has_eight_bit());
            if self.is_too_big(octets) {
                return self.overflow(out);
            }
            return self.ask(Question::Message { flaws, octets, eight_bit }, Pending::Message);
        }
        if self.is_too_big(octets) {
            return self.overflow(out);
        }
        replies::CHUNK_OK.write_to(out);
        Flow::Go
    }

    /// The message was over the limit: it has been read and dropped, and the session takes the next.
    fn overflow(&mut self, out: &mut Vec<u8>) -> Flow {
        replies::TOO_BIG.write_to(out);
        self.phase = Phase::Command;
        self.reset()
    }
}
