//! Lines that wait to be written, in a buffer of one size.

/// Bytes of it.
const ROOM: usize = 64 << 10;
/// Longest line with its newline. A pipe takes as much in one piece, whoever else writes to it (PIPE_BUF, pipe(7)).
const LONGEST: usize = 4096;
/// Bytes that tell a line's length.
const LENGTH: usize = size_of::<u16>();

/// Lines, each behind its length, with its newline. A line may hold newlines itself.
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Where the first one begins.
    first: usize,
}

impl Lines {
    /// None. The buffer comes with the first, or with [`Self::make_room`].
    pub(super) const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            first: 0,
        }
    }

    /// From now on no line takes memory.
    pub(super) fn make_room(&mut self) {
        self.bytes.reserve_exact(ROOM.saturating_sub(self.bytes.len()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == self.bytes.len()
    }

    /// Adds a line, cut where it is too long. False: there is no room.
    pub(super) fn push(&mut self, line: &[u8]) -> bool {
        let line = line.get(..LONGEST - 1).unwrap_or(line);
        let length = line.len() + 1;
        if self.bytes.len() + LENGTH + length > ROOM {
            return false;
        }
        self.make_room();
        self.bytes.extend((length as u16).to_ne_bytes());
        self.bytes.extend(line);
        self.bytes.push(b'\n');
        true
    }

    pub(super) fn first(&self) -> Option<&[u8]> {
        line_at(&self.bytes, self.first)
    }

    pub(super) fn remove_first(&mut self) {
        self.first += self.first().map_or(0, |line| LENGTH + line.len());
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.first;
        std::iter::from_fn(move || {
            let line = line_at(&self.bytes, at)?;
            at += LENGTH + line.len();
            Some(line)
        })
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.first = 0;
    }
}

fn line_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<LENGTH>()?;
    rest.get(..usize::from(u16::from_ne_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in_until_there_is_no_room() {
        let mut lines = Lines::new();
        let mut count = 0_usize;
        while lines.push(format!("line {count}\nof two").as_bytes()) {
            count += 1;
        }
        assert!(count > 2000, "{count}");
        let expected = |nth| format!("line {nth}\nof two\n");
        assert!(
            lines
                .iter()
                .map(<[u8]>::to_vec)
                .eq((0..count).map(|nth| expected(nth).into_bytes()))
        );
        for nth in 0..count {
            assert_eq!(lines.first(), Some(expected(nth).as_bytes()));
            lines.remove_first();
        }
        assert!(lines.is_empty() && lines.first().is_none());
    }

    #[test]
    fn a_long_line_is_cut() {
        let mut lines = Lines::new();
        assert!(lines.push(&[b'x'; LONGEST]) && lines.push(b""));
        let lengths: Vec<_> = lines.iter().map(<[u8]>::len).collect();
        assert_eq!(lengths, [LONGEST, 1]);
        lines.clear();
        assert!(lines.is_empty());
    }
}
