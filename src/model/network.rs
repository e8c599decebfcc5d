//! The network that an address is in, by which a device's place is known again and strangers are
//! counted together.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What a provider gives to one customer, or to few: the /24 of an IPv4 address, the /48 of an IPv6
/// address (RFC 6177 §2). An IPv4 address that a dual-stack socket reports as `::ffff:192.0.2.1` is
/// the IPv4 address.
pub fn network_of(address: IpAddr) -> IpNet {
    const FITS: &str = "24 of 32 and 48 of 128 bits";
    match address.to_canonical() {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new(v4, 24).expect(FITS).trunc()),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new(v6, 48).expect(FITS).trunc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_in_one_network() {
        for (address, network) in [
            ("192.0.2.1", "192.0.2.0/24"),
            ("192.0.2.255", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.0/24"),
            ("192.0.3.1", "192.0.3.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
            ("2001:db8:1:ffff::", "2001:db8:1::/48"),
            ("2001:db8:2::", "2001:db8:2::/48"),
            ("::1", "::/48"),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(network_of(address).to_string(), network);
        }
    }
}
