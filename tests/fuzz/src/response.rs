//! The reader of upstreams' answers: what it takes it takes whole and only then, and what a client
//! gets to read of it is strict.

use http::Method;
use portcullis::message::{Decoder, ResponseHead};
use portcullis::proxy::headers::write_response;

use crate::strict;

pub fn check(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let method = [Method::GET, Method::HEAD, Method::POST][usize::from(choice % 3)].clone();
    let Ok(Some(head)) = ResponseHead::parse(bytes, &method) else { return };
    assert!((100..1000).contains(&head.status) && head.bytes <= bytes.len());
    let own = &bytes[..head.bytes];
    assert!(own.ends_with(b"\n\r\n") || own.ends_with(b"\n\n"), "a head without its end");

    // Nothing behind the head matters, and nothing less than all of it is one.
    let again = ResponseHead::parse(own, &method);
    let again = again.expect("it was read before").expect("it is whole");
    assert_eq!(
        (again.status, &again.body, again.keep_alive),
        (head.status, &head.body, head.keep_alive)
    );
    let cut = usize::from(choice) * own.len() / 256;
    assert!(matches!(ResponseHead::parse(&own[..cut], &method), Ok(None)), "half a head");

    let no_body = method == Method::HEAD || head.status < 200 || matches!(head.status, 204 | 304);
    assert!(!no_body || head.body.is_done(), "a body where none can be");
    let fields: Vec<_> = head.fields(own).iter().map(|f| (f.name, f.value)).collect();
    let has = |name: &str| !strict::values(&fields, name).is_empty();
    if head.body == Decoder::chunked() {
        let coding = strict::values(&fields, "transfer-encoding");
        assert!(coding.len() == 1 && coding[0].eq_ignore_ascii_case(b"chunked"));
        assert!(!(has("content-length") && head.keep_alive), "two lengths on a kept connection");
    } else if !no_body {
        assert!(!has("transfer-encoding"), "a coding that was not undone");
        assert_eq!(head.body.remaining().is_some(), has("content-length"));
        // What ends with the connection leaves none to keep.
        assert!(has("content-length") || !head.keep_alive);
    }

    let mut out = Vec::new();
    write_response(head.fields(own), |_| false, &mut out);
    let mut rest = &out[..];
    while !rest.is_empty() {
        let end = rest.iter().position(|&b| b == b'\r').expect("lines end");
        let (name, _) = strict::field(&rest[..end]).expect("a strict line");
        assert_eq!(rest[end + 1], b'\n');
        rest = &rest[end + 2..];
        let name = name.to_ascii_lowercase();
        let gone: [&[u8]; 6] = [
            b"connection",
            b"content-length",
            b"keep-alive",
            b"transfer-encoding",
            b"trailer",
            b"upgrade",
        ];
        assert!(!gone.contains(&&name[..]), "a field of the connection");
    }
}
