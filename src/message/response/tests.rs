use super::*;
use crate::message::chunked::MAX_DROPPED_BYTES;
use crate::message::{Buffer, Framed};

/// Reads one answer, byte by byte or at once, and what is left over.
fn read(
    bytes: &[u8],
    method: &Method,
    step: usize,
) -> Result<(u16, Vec<u8>, bool, Vec<u8>), Malformed> {
    let mut buffer = Buffer::new();
    let mut pieces = bytes.chunks(step);
    let mut head = loop {
        if let Some(head) = ResponseHead::parse(buffer.filled(), method)? {
            break head;
        }
        buffer.put(pieces.next().ok_or(Malformed::Head)?);
    };
    buffer.consume(head.bytes);
    let mut body = Vec::new();
    loop {
        match head.body.look(&mut buffer)? {
            Framed::Data(n) => {
                body.extend_from_slice(&buffer.filled()[..n]);
                head.body.take(&mut buffer, n);
            }
            Framed::End => break,
            Framed::NeedMore => match pieces.next() {
                Some(piece) => buffer.put(piece),
                None if head.body.ends_with_connection() => break,
                None => return Err(Malformed::Chunk),
            },
        }
    }
    pieces.for_each(|piece| buffer.put(piece));
    Ok((head.status, body, head.keep_alive, buffer.filled().to_vec()))
}

#[test]
fn answers_are_framed_as_rfc_9112_says() {
    let cases: &[(&str, Method, u16, &str, bool, &str)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Method::GET, 200, "abc", true, ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", Method::GET, 200, "abc", true, "d"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            Method::GET,
            200,
            "abc",
            true,
            "",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::HEAD, 200, "", true, ""),
        ("HTTP/1.1 304 N\r\nContent-Length: 3\r\n\r\n", Method::GET, 304, "", true, ""),
        ("HTTP/1.1 204 N\r\n\r\n", Method::GET, 204, "", true, ""),
        ("HTTP/1.1 200 OK\r\n\r\nabc", Method::GET, 200, "abc", false, ""),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", Method::GET, 200, "abc", false, ""),
        (
            "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
            Method::GET,
            200,
            "",
            false,
            "",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            Method::GET,
            200,
            "abc",
            true,
            "",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=\"b\"\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\nz",
            Method::GET,
            200,
            "abc0123456789",
            true,
            "z",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n",
            Method::GET,
            200,
            "",
            false,
            "",
        ),
    ];
    for (bytes, method, status, body, keep_alive, rest) in cases {
        for step in [1, 2, 7, 4096] {
            let answer = read(bytes.as_bytes(), method, step);
            let expected =
                (*status, body.as_bytes().to_vec(), *keep_alive, rest.as_bytes().to_vec());
            assert_eq!(answer, Ok(expected), "{bytes:?} by {step}");
        }
    }
}

#[test]
fn answers_with_two_readings_are_refused() {
    let head = "HTTP/1.1 200 OK\r\n";
    for (rest, expected) in [
        ("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", Malformed::ContentLength),
        ("Content-Length: +3\r\n\r\nabc", Malformed::ContentLength),
        ("Content-Length: 3, 3\r\n\r\nabc", Malformed::ContentLength),
        ("Content-Length: \r\n\r\n", Malformed::ContentLength),
        ("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Malformed::TransferEncoding),
        ("Transfer-Encoding: identity\r\n\r\n", Malformed::TransferEncoding),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Malformed::TransferEncoding,
        ),
        ("Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", Malformed::Chunk),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", Malformed::Chunk),
        ("Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", Malformed::Chunk),
        ("Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", Malformed::Chunk),
        ("Transfer-Encoding: chunked\r\n\r\n\r\n", Malformed::Chunk),
        ("Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\n", Malformed::Chunk),
        ("A : b\r\n\r\n", Malformed::Head),
        ("A: b\r\n c\r\n\r\n", Malformed::Head),
        (": b\r\n\r\n", Malformed::Head),
        ("A: b\0\r\n\r\n", Malformed::Head),
    ] {
        let bytes = format!("{head}{rest}");
        assert_eq!(read(bytes.as_bytes(), &Method::GET, 4096), Err(expected), "{rest:?}");
    }
    for bytes in ["HTTP/2 200 OK\r\n\r\n", "hello\r\n\r\n", "HTTP/1.1 99 X\r\n\r\n", "\0\r\n\r\n"] {
        assert_eq!(read(bytes.as_bytes(), &Method::GET, 4096), Err(Malformed::Head), "{bytes:?}");
    }
}

#[test]
fn heads_and_trailers_are_bounded() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(MAX_HEAD_BYTES));
    assert_eq!(read(long.as_bytes(), &Method::GET, 4096), Err(Malformed::HeadTooLarge));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
    assert_eq!(read(many.as_bytes(), &Method::GET, 4096), Err(Malformed::HeadTooLarge));
    let trailers = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n",
        "A: b\r\n".repeat(MAX_DROPPED_BYTES)
    );
    assert_eq!(read(trailers.as_bytes(), &Method::GET, 4096), Err(Malformed::Chunk));
}

#[test]
fn extensions_are_bounded_over_all_chunks() {
    let answer = |chunks: usize| {
        let chunk = format!("1;{}\r\na\r\n", "e".repeat(1023));
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(chunks)
        )
    };
    let (_, body, ..) = read(answer(15).as_bytes(), &Method::GET, 4096).unwrap();
    assert_eq!(body, b"a".repeat(15));
    assert_eq!(read(answer(17).as_bytes(), &Method::GET, 4096), Err(Malformed::Chunk));
}
