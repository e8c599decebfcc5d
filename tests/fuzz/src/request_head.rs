//! Request heads, however they are cut, against the oracle: what we take it takes, and reads alike.

use portcullis::message::request::{HeadReader, METHODS};
use portcullis::message::{BodyLength, Buffer, HeadError, RequestHead, Version};

use crate::strict::{self, Framing};

/// As configured by default.
pub const MAX_HEAD_BYTES: usize = 32 << 10;

pub fn check(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else { return };
    let whole = take(bytes, bytes.len().max(1));
    let cut = take(bytes, usize::from(step % 16) + 1);
    match (&whole, &cut) {
        (Ok(Some((one, one_left))), Ok(Some((two, two_left)))) => {
            assert_eq!(summary(one), summary(two), "the cut matters");
            assert_eq!(one_left, two_left);
        }
        (Ok(Some(_)), other) => panic!("the cut matters: {other:?}"),
        (Ok(None) | Err(_), Ok(Some(_))) => panic!("the cut matters"),
        (Ok(None) | Err(_), Ok(None) | Err(_)) => {}
    }
    let Ok(Some((head, left))) = whole else { return };
    agree(bytes, &head, left.len());
}

/// That the oracle reads a head that we took, and reads the same.
pub fn agree<'b>(bytes: &'b [u8], head: &RequestHead, left: usize) -> strict::Request<'b> {
    // RFC 9112 §2.2: empty lines before a request are passed over.
    let mut start = bytes;
    while let [b'\r', b'\n', rest @ ..] = start {
        start = rest;
    }
    let oracle =
        strict::request(start).unwrap_or_else(|why| panic!("taken, but not strict: {why}"));
    assert_eq!(start.len() - oracle.bytes, left, "another end of the head");
    assert_eq!(oracle.method, head.method.as_str().as_bytes());
    assert!(METHODS.contains(&head.method));
    assert_eq!(oracle.minor == 1, head.version == Version::Http11);
    match (oracle.framing, head.body) {
        (Framing::Chunked, BodyLength::Streamed) => {}
        (Framing::Length(one), BodyLength::Exactly(two)) => assert_eq!(one, two),
        other => panic!("another framing: {other:?}"),
    }
    // Origin form as it is, absolute form from its path on, and then only of our own authority.
    let target = head.target().as_bytes();
    assert!(!target.contains(&b'#'), "a fragment");
    if oracle.target.first() == Some(&b'/') {
        assert_eq!(oracle.target, target);
    } else {
        let authority = oracle.target[..oracle.target.len() - target.len()].to_ascii_lowercase();
        let host = strict::values(&oracle.fields, "host")[0].to_ascii_lowercase();
        assert_eq!(authority, [b"http://", &host[..]].concat());
        assert!(oracle.target.ends_with(target) && target[0] == b'/');
    }
    let query = head.query().map(|query| format!("?{query}")).unwrap_or_default();
    assert_eq!(format!("{}{query}", head.path()), head.target());
    let ours: Vec<_> = head.fields().iter().map(|field| (field.name, field.value)).collect();
    assert_eq!(ours, oracle.fields, "other fields");
    oracle
}

type Taken = Result<Option<(RequestHead, Vec<u8>)>, HeadError>;

/// The first head, checked, and what is behind it.
pub fn take(bytes: &[u8], step: usize) -> Taken {
    let mut reader = HeadReader::default();
    let mut buffer = Buffer::new();
    let mut pieces = bytes.chunks(step);
    loop {
        if let Some(mut head) = reader.take(&mut buffer, MAX_HEAD_BYTES)? {
            head.check(false)?;
            let mut left = buffer.filled().to_vec();
            pieces.for_each(|piece| left.extend_from_slice(piece));
            return Ok(Some((head, left)));
        }
        match pieces.next() {
            Some(piece) => buffer.put(piece),
            None => return Ok(None),
        }
    }
}

fn summary(head: &RequestHead) -> (String, BodyLength, bool, Vec<Vec<u8>>) {
    let lines = head.fields().iter().map(|f| [f.name, b":", f.value].concat()).collect();
    let start = format!("{} {} {:?}", head.method, head.target(), head.version);
    (start, head.body, head.websocket, lines)
}
