//! The bytes of an HTTP/1.1 message on their way out: a head and small pieces are gathered and
//! written at once, large pieces go straight from where they lie. Both ends of the gateway write
//! through here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::message::buffer::{give_spare, take_spare};

/// A piece up to this size is gathered, as long as not more than [`MAX_GATHERED`] waits.
const SMALL_BYTES: usize = 4 << 10;

/// Most bytes that wait to be written.
const MAX_GATHERED: usize = 16 << 10;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Coding {
    /// By a length said before, by the end of the connection, or not at all.
    #[default]
    Plain,
    /// By an empty chunk (RFC 9112 §7.1).
    Chunked,
}

/// What is still to be written.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    out: Vec<u8>,
    written: usize,
    coding: Coding,
    /// Bytes of a large chunk that was begun.
    chunk_left: usize,
    /// Something of the message was written, whether or not it is still here.
    touched: bool,
}

impl Outgoing {
    /// Begins a message: what was written before is forgotten, what waits stays before it.
    pub(crate) fn begin(&mut self) -> &mut Vec<u8> {
        self.coding = Coding::Plain;
        self.chunk_left = 0;
        self.touched = false;
        self.append()
    }

    /// The head that was begun, to be added to.
    pub(crate) fn extend(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Ends the head of a message.
    pub(crate) fn end_head(&mut self, coding: Coding) {
        self.out.extend_from_slice(b"\r\n");
        self.coding = coding;
    }

    /// Whether all was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.written == self.out.len()
    }

    /// Whether anything of the message was written.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Whether a message may follow: no chunk is half written.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_empty() && self.chunk_left == 0
    }

    /// Writes all of it once more, for another connection. Only for a message without a body.
    pub(crate) fn again(&mut self) {
        self.written = 0;
    }

    /// Takes bytes of the body; gives how many.
    pub(crate) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<io::Result<usize>> {
        if piece.is_empty() {
            // An empty chunk would end the body.
            return Poll::Ready(Ok(0));
        }
        let waiting = self.out.len() - self.written;
        if piece.len() <= SMALL_BYTES && self.chunk_left == 0 && waiting < MAX_GATHERED {
            let coding = self.coding;
            let out = self.append();
            if coding == Coding::Chunked {
                push_chunk_size(out, piece.len());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            } else {
                out.extend_from_slice(piece);
            }
            return Poll::Ready(Ok(piece.len()));
        }
        let chunked = self.coding == Coding::Chunked;
        if chunked && self.chunk_left == 0 {
            push_chunk_size(self.append(), piece.len());
            self.chunk_left = piece.len();
        }
        let piece = if chunked { &piece[..piece.len().min(self.chunk_left)] } else { piece };
        loop {
            let rest = &self.out[self.written..];
            let written = if rest.is_empty() {
                ready!(Pin::new(&mut *stream).poll_write(cx, piece))?
            } else {
                let parts = [IoSlice::new(rest), IoSlice::new(piece)];
                ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &parts))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_out = written.min(rest.len());
            self.written += of_out;
            self.touched = true;
            let taken = written - of_out;
            if taken > 0 {
                if chunked {
                    self.chunk_left -= taken;
                    if self.chunk_left == 0 {
                        self.append().extend_from_slice(b"\r\n");
                    }
                }
                return Poll::Ready(Ok(taken));
            }
        }
    }

    /// Adds what ends the body.
    pub(crate) fn end(&mut self) {
        // Told again, it must not end a second time.
        if std::mem::take(&mut self.coding) == Coding::Chunked {
            self.append().extend_from_slice(b"0\r\n\r\n");
        }
    }

    /// Writes what waits.
    pub(crate) fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let rest = &self.out[self.written..];
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.touched = true;
        }
        // Sockets have nothing to flush; TLS does.
        Pin::new(stream).poll_flush(cx)
    }

    /// Gives memory back when nothing waits.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() {
            give_spare(std::mem::take(&mut self.out));
            self.written = 0;
        }
    }

    /// What was written is kept until something follows, so that [`Outgoing::again`] has it.
    fn append(&mut self) -> &mut Vec<u8> {
        if self.is_empty() {
            self.out.clear();
            self.written = 0;
            if self.out.capacity() == 0 {
                self.out = take_spare();
            }
        }
        &mut self.out
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        give_spare(std::mem::take(&mut self.out));
    }
}

fn push_chunk_size(out: &mut Vec<u8>, size: usize) {
    let mut digits = [0_u8; 16];
    let mut at = digits.len();
    let mut left = size;
    while at == digits.len() || left > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at a time, and nothing every other time.
    struct Slow {
        taken: Vec<u8>,
        step: usize,
        stuck: bool,
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.stuck = !self.stuck;
            if self.stuck {
                return Poll::Pending;
            }
            let n = self.step.min(bytes.len());
            self.taken.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn send(coding: Coding, pieces: &[usize], step: usize) -> Vec<u8> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut stream = Slow { taken: Vec::new(), step, stuck: false };
        let mut outgoing = Outgoing::default();
        outgoing.begin().extend_from_slice(b"HEAD\r\n");
        outgoing.end_head(coding);
        for &bytes in pieces {
            let piece = vec![b'x'; bytes];
            let mut at = 0;
            while at < bytes {
                if let Poll::Ready(taken) = outgoing.poll_send(&mut stream, &mut cx, &piece[at..]) {
                    at += taken.unwrap();
                }
            }
        }
        outgoing.end();
        while outgoing.poll_flush(&mut stream, &mut cx).is_pending() {}
        assert!(outgoing.is_whole());
        std::mem::take(&mut stream.taken)
    }

    #[test]
    fn pieces_come_out_in_order_however_slowly_they_are_taken() {
        for step in [1, 7, 1000, usize::MAX] {
            for pieces in [&[3, 5][..], &[5000, 3], &[3, 70_000, 1], &[0, 4096, 4097]] {
                let plain = send(Coding::Plain, pieces, step);
                assert_eq!(plain.len(), 8 + pieces.iter().sum::<usize>());
                let chunked = send(Coding::Chunked, pieces, step);
                let mut buffer = crate::message::Buffer::new();
                buffer.put(&chunked[8..]);
                let mut decoder = crate::message::Decoder::chunked();
                let mut total = 0;
                while let crate::message::Framed::Data(n) = decoder.look(&mut buffer).unwrap() {
                    total += n;
                    decoder.take(&mut buffer, n);
                }
                assert!(decoder.is_done() && buffer.is_empty());
                assert_eq!(total, pieces.iter().sum::<usize>());
            }
        }
    }
}
