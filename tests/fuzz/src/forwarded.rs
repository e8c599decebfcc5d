//! Forwarding headers: a stranger's word never counts, and nothing that a client writes can hide
//! the address that a trusted proxy appends. `X-Forwarded-For` is also held against a second reader.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use portcullis::config::ForwardedHeader;
use portcullis::identity::TrustedProxies;
use portcullis::message::FieldList;

const PEER: &str = "10.0.0.2";
const CLIENT: &str = "203.0.113.77";

static NETWORKS: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network")).to_vec()
});

/// The first byte chooses the header; lines are separated by LF.
pub fn check(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let (header, name) = if choice & 1 == 0 {
        (ForwardedHeader::XForwardedFor, "X-Forwarded-For")
    } else {
        (ForwardedHeader::Forwarded, "Forwarded")
    };
    let lines: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
    let proxies = TrustedProxies::compile(&NETWORKS, header);
    let client = |peer: &str, lines: &[&[u8]]| {
        let list: FieldList = lines.iter().map(|line| (name, line)).collect();
        proxies.client_addr(peer.parse().expect("an address"), list.view())
    };
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");

    let stranger = client("192.0.2.1", &lines);
    assert_eq!(stranger.client.0, address("192.0.2.1"));
    assert!(!stranger.peer_is_trusted && stranger.ignored_header);

    let found = client(PEER, &lines).client.0;
    assert_eq!(found, found.to_canonical());
    if header == ForwardedHeader::XForwardedFor {
        assert_eq!(found, plainly(&lines), "another reading");
    }

    // The proxy adds a line of its own.
    let own = if choice & 1 == 0 { CLIENT.to_owned() } else { format!("for={CLIENT}") };
    let more: Vec<&[u8]> = lines.iter().copied().chain([own.as_bytes()]).collect();
    assert_eq!(client(PEER, &more).client.0, address(CLIENT), "the proxy's own line was hidden");

    // Or it adds to the last line, which a client may have begun: then it is believed, or the line
    // as a whole is not, but the client's own invention never is.
    let last = [lines[lines.len() - 1], b", ", own.as_bytes()].concat();
    let found = client(PEER, &[&last]).client.0;
    let whole = found == address(CLIENT);
    assert!(whole || (choice & 1 == 1 && found == address(PEER)), "the client chose its address");
}

/// `X-Forwarded-For` from right to left, written anew: the first address that is no proxy of ours,
/// or the last hop before what is no address.
fn plainly(lines: &[&[u8]]) -> IpAddr {
    let all = lines.join(&b',');
    let mut current: IpAddr = PEER.parse().expect("an address");
    for hop in all.split(|&b| b == b',').rev().take(64) {
        let text = String::from_utf8_lossy(hop);
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        let Some(address) = node(text) else { return current };
        current = address.to_canonical();
        if !NETWORKS.iter().any(|network| network.contains(&current)) {
            return current;
        }
    }
    current
}

fn node(text: &str) -> Option<IpAddr> {
    let port = |p: &str| p.len() <= 5 && !p.is_empty() && p.chars().all(|c| c.is_ascii_digit());
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    let (host, tail) = text.rsplit_once(':').unwrap_or((text, ""));
    if let Some(inside) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return inside.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6);
    }
    if let Some(inside) = host.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return inside.parse::<std::net::Ipv6Addr>().ok().filter(|_| port(tail)).map(IpAddr::V6);
    }
    host.parse::<std::net::Ipv4Addr>().ok().filter(|_| port(tail)).map(IpAddr::V4)
}
