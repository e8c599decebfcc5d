//! Bytes that were read and not yet taken. A buffer that is empty holds no memory of its own: a
//! connection that waits costs nothing here, and the memory of one is the next one's.

use std::cell::RefCell;

/// Room of a fresh buffer: most heads, and most answers, fit whole.
pub const ROOM: usize = 4 << 10;

/// Spare buffers that a thread keeps, and the largest that is kept.
const MAX_SPARE: usize = 64;
const MAX_SPARE_BYTES: usize = 16 << 10;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty vector with room for at least [`ROOM`] bytes, used before when there is one.
pub fn take_spare() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(ROOM))
}

/// Keeps a vector's memory for [`take_spare`].
pub fn give_spare(mut bytes: Vec<u8>) {
    if !(ROOM..=MAX_SPARE_BYTES).contains(&bytes.capacity()) {
        return;
    }
    bytes.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_SPARE {
            spare.push(bytes);
        }
    });
}

/// A queue of bytes: filled at the back, taken from the front.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// An empty one.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), start: 0 }
    }

    /// What is there.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// How much is there.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Whether it holds no memory.
    pub fn is_unused(&self) -> bool {
        self.bytes.capacity() == 0
    }

    /// Takes `n` bytes off the front.
    pub fn consume(&mut self, n: usize) {
        self.start += n.min(self.len());
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// The vector to append to, with room for `room` bytes more, or the room it has when that is at
    /// least a quarter of it: what is half full is not moved for every read.
    pub fn to_fill(&mut self, room: usize) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 && room <= ROOM {
            self.bytes = take_spare();
        }
        if self.bytes.capacity() - self.bytes.len() < room / 4 || self.bytes.capacity() < room {
            if self.start > 0 {
                self.bytes.drain(..self.start);
                self.start = 0;
            }
            self.bytes.reserve(room);
        }
        &mut self.bytes
    }

    /// Appends.
    pub fn put(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.to_fill(bytes.len()).extend_from_slice(bytes);
        }
    }

    /// Gives memory back when nothing is in it.
    pub fn rest(&mut self) {
        if self.is_empty() && self.bytes.capacity() > 0 {
            give_spare(std::mem::take(&mut self.bytes));
            self.start = 0;
        }
    }

    /// Splits off the first `n` bytes as a vector of their own, without copying them when they are
    /// most of what is there.
    pub fn split_front(&mut self, n: usize) -> Vec<u8> {
        let n = n.min(self.len());
        if self.start > 0 {
            let mut front = take_spare();
            front.extend_from_slice(&self.filled()[..n]);
            self.consume(n);
            return front;
        }
        let mut rest = Vec::new();
        if n < self.bytes.len() {
            rest = take_spare();
            rest.extend_from_slice(&self.bytes[n..]);
            self.bytes.truncate(n);
        }
        std::mem::replace(&mut self.bytes, rest)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give_spare(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut buffer = Buffer::new();
        buffer.put(b"abcdef");
        assert_eq!(buffer.split_front(2), b"ab");
        buffer.consume(1);
        assert_eq!(buffer.filled(), b"def");
        buffer.put(b"gh");
        assert_eq!(buffer.split_front(3), b"def");
        assert_eq!(buffer.filled(), b"gh");
        buffer.consume(9);
        assert!(buffer.is_empty());
        buffer.rest();
        assert_eq!(buffer.bytes.capacity(), 0);
    }

    #[test]
    fn room_is_made_without_losing_anything() {
        let mut buffer = Buffer::new();
        let mut expected: Vec<u8> = Vec::new();
        for round in 0..200_u8 {
            let piece = vec![round; 100 + usize::from(round) * 7];
            buffer.to_fill(2048).extend_from_slice(&piece);
            expected.extend_from_slice(&piece);
            let taken = buffer.len() / 3;
            assert_eq!(buffer.filled()[..taken], expected[..taken]);
            buffer.consume(taken);
            expected.drain(..taken);
        }
        assert_eq!(buffer.filled(), expected);
    }
}
