//! The reader of PROXY headers: what it takes it takes whole and only then, and addresses mean what
//! the text or the bytes say.

use std::net::IpAddr;

use portcullis::server::proxy_protocol::{MAX_BYTES, parse};

pub fn check(bytes: &[u8]) {
    let Ok(Some(header)) = parse(bytes) else { return };
    assert!(header.length <= bytes.len() && header.length <= MAX_BYTES);
    let own = &bytes[..header.length];
    assert_eq!(parse(own), Ok(Some(header)), "what follows matters");
    for cut in 0..own.len().min(300) {
        assert_eq!(parse(&own[..cut]), Ok(None), "half a header, cut at {cut}");
    }
    assert!(header.client.is_none_or(|client| client.to_canonical() == client));
    let said = if own[0] == b'P' { by_text(own) } else { by_bytes(own) };
    assert_eq!(header.client, said.map(|address| address.to_canonical()));
}

fn by_text(own: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(own).expect("version 1 is text");
    let line = text.strip_suffix("\r\n").expect("it ends");
    assert!(!line.contains(['\n']) && own.len() <= 107);
    let words: Vec<&str> = line.split(' ').collect();
    (words[1] != "UNKNOWN").then(|| {
        let [_, family, source, _, _, _] = words[..] else { panic!("six words") };
        let address: IpAddr = source.parse().expect("an address");
        assert_eq!(address.is_ipv4(), family == "TCP4");
        address
    })
}

fn by_bytes(own: &[u8]) -> Option<IpAddr> {
    assert_eq!(own.len(), 16 + usize::from(own[14]) * 256 + usize::from(own[15]));
    match (own[12] & 15, own[13] >> 4) {
        (1, 1) => Some(IpAddr::from(<[u8; 4]>::try_from(&own[16..20]).expect("four bytes"))),
        (1, 2) => Some(IpAddr::from(<[u8; 16]>::try_from(&own[16..32]).expect("sixteen bytes"))),
        _ => None,
    }
}
