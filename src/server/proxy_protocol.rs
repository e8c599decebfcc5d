//! The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt): what a balancer says about
//! a connection before the client's first byte. Only peers in `server.proxy_protocol` are asked,
//! so this neither guesses whether a header is there nor what is behind it.
//!
//! ```text
//! v1  PROXY TCP4 203.0.113.7 192.0.2.1 50123 443\r\n
//! v2  0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A │ 21 │ 11 │ 00 0C │ addresses, ports │ TLVs
//!     signature                           │  │    │    └ length of the rest
//!                                         │  │    └ family, transport
//!                                         │  └ version 2, command: 0 LOCAL, 1 PROXY
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use rustix::net::{RecvFlags, recv};

use crate::wire::Socket;

/// Longest header that is read. Version 1 has at most 107 bytes; version 2 may have 64 KiB, but
/// addresses take 216, and what balancers add (names, a client's certificate) fits here.
pub const MAX_BYTES: usize = 4_096;

/// Longest header of version 1, with its line end.
const MAX_V1_BYTES: usize = 107;

const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 before the addresses.
const V2_FIXED: usize = 16;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its bytes.
    pub length: usize,
    /// The client's address, IPv4 in IPv4 form. `None`: the balancer speaks for itself (a health
    /// check), or does not know.
    pub client: Option<IpAddr>,
}

/// The bytes are no PROXY header, or one that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY header")]
pub struct Malformed;

/// Reads a header at the start of `bytes`; `None`: it goes on beyond them.
///
/// # Errors
/// No further bytes could make it a header that is taken.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let begins_like = |start: &[u8]| {
        let known = start.len().min(bytes.len());
        bytes[..known] == start[..known]
    };
    if begins_like(V1_START) {
        return parse_v1(bytes);
    }
    if begins_like(V2_SIGNATURE) {
        return parse_v2(bytes);
    }
    Err(Malformed)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let line = &bytes[..bytes.len().min(MAX_V1_BYTES)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() < MAX_V1_BYTES { Ok(None) } else { Err(Malformed) };
    };
    let text = line[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    let length = end + 1;
    let mut words = text.split(' ');
    let _proxy = words.next();
    let family = words.next().ok_or(Malformed)?;
    if family == "UNKNOWN" {
        // What follows is to be ignored (section 2.1).
        return Ok(Some(Header { length, client: None }));
    }
    let words: [&str; 4] =
        words.collect::<Vec<_>>().try_into().map_err(|_: Vec<&str>| Malformed)?;
    let [source, destination, source_port, destination_port] = words;
    if !is_port(source_port) || !is_port(destination_port) {
        return Err(Malformed);
    }
    let client = match family {
        "TCP4" => {
            let _: Ipv4Addr = destination.parse().map_err(|_| Malformed)?;
            source.parse::<Ipv4Addr>().map(IpAddr::V4)
        }
        "TCP6" => {
            let _: Ipv6Addr = destination.parse().map_err(|_| Malformed)?;
            source.parse::<Ipv6Addr>().map(IpAddr::V6)
        }
        _ => return Err(Malformed),
    };
    let client = client.map_err(|_| Malformed)?.to_canonical();
    Ok(Some(Header { length, client: Some(client) }))
}

fn is_port(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain && text.parse::<u16>().is_ok()
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    // Each byte is judged as soon as it is there.
    let local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(Malformed),
    };
    let (Some(&family), Some(&high), Some(&low)) = (bytes.get(13), bytes.get(14), bytes.get(15))
    else {
        return Ok(None);
    };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_FIXED + rest;
    if length > MAX_BYTES {
        return Err(Malformed);
    }
    // Bytes of the addresses and ports; what comes behind them are TLVs, which nothing here needs.
    let addresses = match family {
        _ if local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        // An AF_UNIX peer of the balancer has no address.
        0x31 => 216,
        _ => return Err(Malformed),
    };
    if rest < addresses {
        return Err(Malformed);
    }
    let Some(body) = bytes.get(V2_FIXED..length) else { return Ok(None) };
    let client = match (family, body) {
        _ if local => None,
        (0x11, [a, b, c, d, ..]) => Some(IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d))),
        (0x21, body) => {
            let octets: [u8; 16] = body[..16].try_into().map_err(|_| Malformed)?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    };
    Ok(Some(Header { length, client }))
}

/// Takes the header off the front of a connection, and not a byte more: what follows may be the
/// start of a TLS handshake.
///
/// # Errors
/// `InvalidData`: the bytes are no header. `UnexpectedEof`: the connection ended before or within
/// it. Those of the system.
pub(crate) async fn take(socket: &Socket) -> io::Result<Header> {
    let mut held = Vec::new();
    loop {
        let taken = socket.read_with(|socket| take_piece(socket, &mut held)).await?;
        if let Some(header) = taken {
            return Ok(header);
        }
    }
}

/// Looks at what is there, then takes what belongs to the header: all of it until its end is known.
fn take_piece(socket: BorrowedFd<'_>, held: &mut Vec<u8>) -> io::Result<Option<Header>> {
    let mut room = [0; MAX_BYTES];
    room[..held.len()].copy_from_slice(held);
    let (new, _) = recv(socket, &mut room[held.len()..], RecvFlags::PEEK)?;
    if new == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let known = held.len() + new;
    let malformed = |error: Malformed| io::Error::new(io::ErrorKind::InvalidData, error);
    let header = parse(&room[..known]).map_err(malformed)?;
    let wanted = header.map_or(known, |header| header.length);
    while held.len() < wanted {
        let (taken, _) = recv(socket, &mut room[held.len()..wanted], RecvFlags::empty())?;
        if taken == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        held.extend_from_slice(&room[held.len()..held.len() + taken]);
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family][..], &length, body].concat()
    }

    fn accepted() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let v4 = [203, 0, 113, 7, 192, 0, 2, 1, 0xC3, 0x50, 1, 0xBB];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        let mut mapped = [0; 36];
        mapped[..16].copy_from_slice(&"::ffff:203.0.113.7".parse::<Ipv6Addr>().unwrap().octets());
        let text = |text: &str| text.as_bytes().to_vec();
        vec![
            (text("PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n"), Some("203.0.113.7")),
            (text("PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n"), Some("2001:db8::7")),
            (text("PROXY TCP6 ::ffff:203.0.113.7 ::1 0 65535\r\n"), Some("203.0.113.7")),
            (text("PROXY UNKNOWN\r\n"), None),
            (text("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), None),
            (v2(0x21, 0x11, &v4), Some("203.0.113.7")),
            (v2(0x21, 0x11, &[&v4[..], &[4, 0, 3, 1, 2, 3]].concat()), Some("203.0.113.7")),
            (v2(0x21, 0x21, &v6), Some("2001:db8::7")),
            (v2(0x21, 0x21, &mapped), Some("203.0.113.7")),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &v4), None),
            (v2(0x20, 0xFF, &[1, 2, 3]), None),
            (
                v2(0x21, 0x11, &[&v4[..], &vec![0; MAX_BYTES - V2_FIXED - 12]].concat()),
                Some("203.0.113.7"),
            ),
        ]
    }

    #[test]
    fn headers_are_taken_however_they_are_cut_and_nothing_behind_them_is() {
        for (bytes, client) in accepted() {
            let client = client.map(|text| text.parse().unwrap());
            let whole = Ok(Some(Header { length: bytes.len(), client }));
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
            }
            assert_eq!(parse(&bytes), whole, "{bytes:?}");
            let behind = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&behind), whole, "{bytes:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\x02\x00",
            "proxy TCP4 203.0.113.7 192.0.2.1 50000 443\r\n",
            "PROXY\tTCP4 203.0.113.7 192.0.2.1 50000 443\r\n",
            "PROXY  TCP4 203.0.113.7 192.0.2.1 50000 443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443 \r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 50000\r\n",
            "PROXY TCP4 203.0.113.07 192.0.2.1 50000 443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 050000 443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 +5 443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1  443\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 203.0.113.7 192.0.2.1 1 2\r\n",
            "PROXY TCP6 [::1] ::1 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n",
            "PROXY \r\n",
            "PROXY\r\n",
            "PROXY UNKNOWNX\r\n",
            &long,
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Malformed), "{text:?}");
        }
        let v4 = [0; 12];
        for bytes in [
            v2(0x11, 0x11, &v4),
            v2(0x22, 0x11, &v4),
            v2(0x21, 0x12, &v4),
            v2(0x21, 0x41, &v4),
            v2(0x21, 0x11, &v4[..11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x21, 0x11, &[0; MAX_BYTES]),
            v2(0x20, 0x00, &[0; MAX_BYTES - V2_FIXED + 1]),
            b"\r\n\r\n\0\r\nQUIT\r\n".to_vec(),
            b"\r\n\r\nGET / HTTP/1.1".to_vec(),
        ] {
            assert_eq!(parse(&bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
