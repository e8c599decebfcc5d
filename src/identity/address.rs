//! Who is at the other end: the peer itself, or, behind proxies that we trust, the address that the
//! outermost of them saw.
//!
//! ```text
//! X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.7        peer 10.0.0.2
//!                  └ anybody's word  └ client  └────────────┴ trusted
//! ```
//!
//! Every proxy appends the address it was called from, so the list is read from the right and only
//! as far as trust goes: the first address that is not a trusted proxy is the client, and what
//! stands left of it is the client's own invention. What cannot be read ends the search as well:
//! then the last trusted hop counts as the client. No proxy is trusted by default.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::config::ForwardedHeader;
use crate::message::{Fields, Known};

/// Most entries of a forwarding header that are looked at. Real chains have a handful; a request
/// head has room for thousands.
const MAX_HOPS: usize = 64;

/// The address a request is from, IPv4 in IPv4 form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddr(pub IpAddr);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Networks, IPv4 ones in IPv4 form.
#[derive(Clone, Debug, Default)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Those that are written.
    pub fn compile(networks: &[IpNet]) -> Self {
        Self(networks.iter().copied().map(fold_network).collect())
    }

    /// Whether `address` is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Whose word on addresses is taken, and in which header.
#[derive(Clone, Debug)]
pub struct TrustedProxies {
    networks: Networks,
    header: ForwardedHeader,
}

/// What became of a request's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Whom limits, logs and sessions speak of.
    pub client: ClientAddr,
    /// The peer is a trusted proxy: its forwarding headers are genuine.
    pub peer_is_trusted: bool,
    /// A peer that is not trusted sent a forwarding header: worth a warning, as a proxy may have
    /// been left out of the configuration.
    pub ignored_header: bool,
}

impl TrustedProxies {
    /// Trusts `networks` to write `header`.
    pub fn compile(networks: &[IpNet], header: ForwardedHeader) -> Self {
        Self { networks: Networks::compile(networks), header }
    }

    /// Whether `address` is a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.networks.contains(address)
    }

    /// Finds the client of a request that came in from `peer`.
    pub fn client_addr(&self, peer: IpAddr, fields: Fields<'_>) -> Resolved {
        let peer = peer.to_canonical();
        let peer_is_trusted = self.contains(peer);
        if !peer_is_trusted {
            return Resolved {
                client: ClientAddr(peer),
                peer_is_trusted,
                ignored_header: fields.has(Known::XForwardedFor) || fields.has(Known::Forwarded),
            };
        }
        let client = match self.header {
            ForwardedHeader::XForwardedFor => {
                self.walk(peer, fields, Known::XForwardedFor, plain_list)
            }
            ForwardedHeader::Forwarded => self.walk(peer, fields, Known::Forwarded, forwarded_list),
        };
        Resolved { client: ClientAddr(client), peer_is_trusted, ignored_header: false }
    }

    /// Goes from hop to hop, all lines of the header taken as one list (RFC 9110 §5.3).
    fn walk(
        &self,
        peer: IpAddr,
        fields: Fields<'_>,
        name: Known,
        read: fn(&[u8]) -> Vec<Option<IpAddr>>,
    ) -> IpAddr {
        let hops = fields.all(name).rev().flat_map(read).take(MAX_HOPS);
        let mut current = peer;
        for hop in hops {
            let Some(address) = hop else { break };
            current = address;
            if !self.contains(address) {
                break;
            }
        }
        current
    }
}

/// `::ffff:10.0.0.0/104` means `10.0.0.0/8`; addresses are folded alike before they are compared.
fn fold_network(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    match (v6.network().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).map_or(network, IpNet::V4),
        _ => network,
    }
}

/// The addresses of one `X-Forwarded-For` line from right to left, with `None` for what is none.
fn plain_list(line: &[u8]) -> Vec<Option<IpAddr>> {
    line.rsplit(|&b| b == b',')
        .take(MAX_HOPS)
        .map(|element| parse_node(element.trim_ascii(), false))
        .collect()
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`. In
/// `Forwarded` (`strict`), IPv6 needs its brackets and a port may be obfuscated (RFC 7239 §6).
fn parse_node(node: &[u8], strict: bool) -> Option<IpAddr> {
    let node = std::str::from_utf8(node).ok()?;
    let is_port = |port: &str| {
        let digits = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
        let hidden = strict
            && port.strip_prefix('_').is_some_and(|rest| {
                !rest.is_empty()
                    && rest
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            });
        digits || hidden
    };
    if let Some(rest) = node.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return None;
        }
        return address.parse::<Ipv6Addr>().ok().map(|v6| IpAddr::V6(v6).to_canonical());
    }
    match node.split_once(':') {
        Some((address, port)) if is_port(port) => address.parse().ok().map(IpAddr::V4),
        Some(_) if strict => None,
        _ => node.parse().ok().map(|address: IpAddr| address.to_canonical()),
    }
}

/// The `for` addresses of one `Forwarded` line from right to left. A line that breaks the grammar
/// counts as one unreadable entry as a whole: a client may have sent half a quoted string for the
/// proxy to append to, and then nothing in the line is the proxy's own word any more.
fn forwarded_list(line: &[u8]) -> Vec<Option<IpAddr>> {
    let Some(mut hops) = forwarded_elements(line) else { return vec![None] };
    hops.reverse();
    hops
}

/// RFC 7239 §4:
///
/// ```text
/// Forwarded = element *( OWS "," OWS element )      element = pair *( ";" pair )
/// pair      = token "=" ( token / quoted-string )
/// ```
fn forwarded_elements(line: &[u8]) -> Option<Vec<Option<IpAddr>>> {
    let mut hops = Vec::new();
    let mut rest = line.trim_ascii();
    loop {
        let mut node: Option<Option<IpAddr>> = None;
        loop {
            let (name, after) = split_token(rest)?;
            let after = after.strip_prefix(b"=")?;
            let (value, after) = split_value(after)?;
            if name.eq_ignore_ascii_case(b"for") {
                // §4: a parameter occurs at most once in an element.
                if node.replace(parse_node(&value, true)).is_some() {
                    return None;
                }
            }
            rest = after;
            match rest.strip_prefix(b";") {
                Some(after) => rest = after,
                None => break,
            }
        }
        hops.push(node.flatten());
        rest = rest.trim_ascii_start();
        match rest.split_first() {
            None => return Some(hops),
            Some((b',', after)) => rest = after.trim_ascii_start(),
            Some(_) => return None,
        }
    }
}

fn split_token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let end = text.iter().position(|b| !is_token(b)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or a quoted string, without its quotes and backslashes.
fn split_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        return split_token(text).map(|(token, rest)| (token.to_vec(), rest));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((i, &byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &quoted[i + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            _ => value.push(byte),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FieldList;

    fn client(header: ForwardedHeader, peer: &str, lines: &[&str]) -> String {
        let trusted =
            ["10.0.0.0/8", "fd00::/8", "::ffff:192.168.7.0/120"].map(|n| n.parse().unwrap());
        let name = match header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let list: FieldList = lines.iter().map(|line| (name, line)).collect();
        let proxies = TrustedProxies::compile(&trusted, header);
        proxies.client_addr(peer.parse().unwrap(), list.view()).client.to_string()
    }

    #[test]
    fn the_client_is_the_right_most_address_that_is_not_a_trusted_proxy() {
        let many = vec!["10.0.0.9"; 500].join(",");
        for (peer, lines, expected) in [
            // Peers that are not trusted speak for themselves.
            ("203.0.113.5", &["1.1.1.1"] as &[&str], "203.0.113.5"),
            ("::ffff:203.0.113.5", &["1.1.1.1"], "203.0.113.5"),
            ("2001:db8::5", &["1.1.1.1"], "2001:db8::5"),
            // Trusted ones pass on what they saw.
            ("10.0.0.2", &[], "10.0.0.2"),
            ("10.0.0.2", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.2", &["203.0.113.9"], "203.0.113.9"),
            ("fd00::1", &["203.0.113.9"], "203.0.113.9"),
            ("192.168.7.9", &["203.0.113.9"], "203.0.113.9"),
            ("192.168.8.9", &["203.0.113.9"], "192.168.8.9"),
            ("10.0.0.2", &["6.6.6.6, 203.0.113.9, 10.0.0.7"], "203.0.113.9"),
            ("10.0.0.2", &["6.6.6.6,203.0.113.9,10.0.0.7 , 10.1.1.1"], "203.0.113.9"),
            ("10.0.0.2", &["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
            // All lines are one list.
            ("10.0.0.2", &["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.2", &["6.6.6.6", "203.0.113.9", "10.0.0.7"], "203.0.113.9"),
            ("10.0.0.2", &["6.6.6.6, 203.0.113.9", "10.0.0.7"], "203.0.113.9"),
            // Forms of an address.
            ("10.0.0.2", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.2", &["2001:db8::9"], "2001:db8::9"),
            ("10.0.0.2", &["[2001:db8::9]"], "2001:db8::9"),
            ("10.0.0.2", &["[2001:db8::9]:4711"], "2001:db8::9"),
            ("10.0.0.2", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("10.0.0.2", &["203.0.113.9, ::ffff:10.0.0.7"], "203.0.113.9"),
            ("10.0.0.2", &["203.0.113.9, [::ffff:10.0.0.7]:80"], "203.0.113.9"),
            // What cannot be read ends the search at the last trusted hop.
            ("10.0.0.2", &[""], "10.0.0.2"),
            ("10.0.0.2", &["unknown"], "10.0.0.2"),
            ("10.0.0.2", &["6.6.6.6, "], "10.0.0.2"),
            ("10.0.0.2", &["6.6.6.6,,10.0.0.7"], "10.0.0.7"),
            ("10.0.0.2", &["6.6.6.6, unknown, 10.0.0.7"], "10.0.0.7"),
            ("10.0.0.2", &["6.6.6.6", ""], "10.0.0.2"),
            ("10.0.0.2", &["203.0.113.256"], "10.0.0.2"),
            ("10.0.0.2", &["203.0.113.010"], "10.0.0.2"),
            ("10.0.0.2", &["203.0.113.9:"], "10.0.0.2"),
            ("10.0.0.2", &["203.0.113.9:123456"], "10.0.0.2"),
            ("10.0.0.2", &["203.0.113.9:http"], "10.0.0.2"),
            ("10.0.0.2", &["[2001:db8::9"], "10.0.0.2"),
            ("10.0.0.2", &["[2001:db8::9]4711"], "10.0.0.2"),
            ("10.0.0.2", &["[203.0.113.9]"], "10.0.0.2"),
            ("10.0.0.2", &["fe80::1%eth0"], "10.0.0.2"),
            ("10.0.0.2", &["\"203.0.113.9\""], "10.0.0.2"),
            ("10.0.0.2", &["203.0.113.9 6.6.6.6"], "10.0.0.2"),
            ("10.0.0.2", &["203.0.113.9; 6.6.6.6"], "10.0.0.2"),
            ("10.0.0.2", &["3405803785"], "10.0.0.2"),
            ("10.0.0.2", &["0xcb007109"], "10.0.0.2"),
            ("10.0.0.2", &["\u{fc}"], "10.0.0.2"),
            ("10.0.0.2", &["6.6.6.6", many.as_str()], "10.0.0.9"),
        ] {
            let found = client(ForwardedHeader::XForwardedFor, peer, lines);
            assert_eq!(found, expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_by_its_grammar() {
        for (lines, expected) in [
            (&["for=203.0.113.9"] as &[&str], "203.0.113.9"),
            (&["For=203.0.113.9;proto=https;by=10.0.0.2"], "203.0.113.9"),
            (&["by=10.0.0.2;FOR=203.0.113.9"], "203.0.113.9"),
            (&["for=6.6.6.6, for=203.0.113.9, for=10.0.0.7"], "203.0.113.9"),
            (&["for=6.6.6.6", "for=203.0.113.9 ,for=10.0.0.7"], "203.0.113.9"),
            (&["for=\"203.0.113.9:4711\""], "203.0.113.9"),
            (&["for=\"203.0.113.9:_port\""], "203.0.113.9"),
            (&["for=\"[2001:db8::9]\""], "2001:db8::9"),
            (&["for=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=\"\\[2001:db8::9]\""], "2001:db8::9"),
            (&["for=\"[::ffff:203.0.113.9]:1\""], "203.0.113.9"),
            (&["for=203.0.113.9;ext=\"a,b;c=\\\"d\""], "203.0.113.9"),
            // Not an address: the last trusted hop.
            (&["for=unknown"], "10.0.0.2"),
            (&["for=_hidden"], "10.0.0.2"),
            (&["for=6.6.6.6, for=_hidden, for=10.0.0.7"], "10.0.0.7"),
            (&["for=6.6.6.6, proto=https"], "10.0.0.2"),
            (&["for=\"2001:db8::9\""], "10.0.0.2"),
            // Not the grammar: nothing in the line counts.
            (&[""], "10.0.0.2"),
            (&["203.0.113.9"], "10.0.0.2"),
            (&["for=203.0.113.9:4711"], "10.0.0.2"),
            (&["for=[2001:db8::9]"], "10.0.0.2"),
            (&["for = 203.0.113.9"], "10.0.0.2"),
            (&["for=203.0.113.9;for=6.6.6.6"], "10.0.0.2"),
            (&["for=203.0.113.9;"], "10.0.0.2"),
            (&["for=203.0.113.9,"], "10.0.0.2"),
            (&["for="], "10.0.0.2"),
            (&["for=\"6.6.6.6, for=203.0.113.9"], "10.0.0.2"),
            (&["for=6.6.6.6;x=\", for=\"[2001:db8::9]:4711\""], "10.0.0.2"),
            (&["for=6.6.6.6;x=\"\\", "for=203.0.113.9"], "203.0.113.9"),
            (&["for=203.0.113.9 for=6.6.6.6"], "10.0.0.2"),
        ] {
            let found = client(ForwardedHeader::Forwarded, "10.0.0.2", lines);
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn only_the_configured_header_counts_and_strangers_are_noticed() {
        let list: FieldList = [("Forwarded", "for=6.6.6.6")].into_iter().collect();
        let fields = list.view();
        let networks = ["10.0.0.0/8".parse().unwrap()];
        let proxies = TrustedProxies::compile(&networks, ForwardedHeader::XForwardedFor);

        let trusted = proxies.client_addr("10.0.0.2".parse().unwrap(), fields);
        assert_eq!(trusted.client.to_string(), "10.0.0.2");
        assert!(trusted.peer_is_trusted && !trusted.ignored_header);

        let stranger = proxies.client_addr("203.0.113.5".parse().unwrap(), fields);
        assert_eq!(stranger.client.to_string(), "203.0.113.5");
        assert!(!stranger.peer_is_trusted && stranger.ignored_header);
        let quiet =
            proxies.client_addr("203.0.113.5".parse().unwrap(), FieldList::default().view());
        assert!(!quiet.ignored_header);

        let nobody = TrustedProxies::compile(&[], ForwardedHeader::XForwardedFor);
        assert!(!nobody.contains("127.0.0.1".parse().unwrap()));
    }
}
