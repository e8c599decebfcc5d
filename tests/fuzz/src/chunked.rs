//! The decoder of bodies in chunks, however they are cut, against the oracle.

use portcullis::message::{Buffer, Decoder, Framed};

use crate::strict;

pub fn check(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    let cut = read(bytes, usize::from(step % 32) + 1);
    match (strict::chunks(bytes), &whole) {
        // More than 16 digits are refused although zeros before the size change nothing.
        (Ok(Some(_)), Err(())) => assert!(has_long_line(bytes), "a plain body was refused"),
        (Ok(Some((body, taken))), Ok(Some((ours, left)))) => {
            assert_eq!(&body, ours, "another body");
            assert_eq!(bytes.len() - taken, left.len(), "another end");
        }
        (Ok(Some(_)), Ok(None)) => panic!("a whole body is not seen as one"),
        (Ok(None), Ok(Some(_))) | (Err(_), Ok(Some(_))) => panic!("a body where there is none"),
        (Ok(None), Ok(None) | Err(())) | (Err(_), Ok(None) | Err(())) => {}
    }
    match (&whole, &cut) {
        (Ok(Some(one)), Ok(Some(two))) => assert_eq!(one, two, "the cut matters"),
        (Ok(None) | Err(()), Ok(None) | Err(())) => {}
        other => panic!("the cut matters: {other:?}"),
    }
}

type Read = Result<Option<(Vec<u8>, Vec<u8>)>, ()>;

/// The body and what is behind it.
fn read(bytes: &[u8], step: usize) -> Read {
    let mut decoder = Decoder::chunked();
    let mut buffer = Buffer::new();
    let mut pieces = bytes.chunks(step);
    let mut body = Vec::new();
    loop {
        match decoder.look(&mut buffer) {
            Err(_) => return Err(()),
            Ok(Framed::End) => {
                let mut left = buffer.filled().to_vec();
                pieces.for_each(|piece| left.extend_from_slice(piece));
                return Ok(Some((body, left)));
            }
            Ok(Framed::Data(n)) => {
                assert!(n > 0, "an empty piece");
                body.extend_from_slice(&buffer.filled()[..n]);
                decoder.take(&mut buffer, n);
            }
            Ok(Framed::NeedMore) => match pieces.next() {
                Some(piece) => buffer.put(piece),
                None => return Ok(None),
            },
        }
    }
}

fn has_long_line(bytes: &[u8]) -> bool {
    let longest = |line: &[u8]| line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    bytes.split(|&b| b == b'\n').any(|line| longest(line) > 16 || line.len() > 8 << 10)
}
