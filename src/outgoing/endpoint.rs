//! Whom the gateway may call: `https://` anywhere, `http://` on this machine only. What is sent
//! holds secrets and tokens, and a plain connection shows them to every network in between.

use std::fmt;
use std::net::IpAddr;

use http::HeaderValue;
use http::uri::PathAndQuery;
use rustls::pki_types::ServerName;
use url::{Host, Url};

use super::dial::Reach;

/// Where a request goes.
#[derive(Clone)]
pub struct Endpoint {
    peer: Peer,
    /// Of the certificate; none, when the connection is plain.
    server_name: Option<ServerName<'static>>,
    host_header: HeaderValue,
    target: PathAndQuery,
}

/// What is wrong with the address of an endpoint; continues "the address ...". Never quotes it, as
/// it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EndpointError(&'static str);

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    host: Host<String>,
    port: u16,
}

impl Endpoint {
    /// Reads an address such as `https://hooks.example.com/mail`.
    ///
    /// # Errors
    /// Says what is wrong with it, and does not quote it.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        const FORM: &str = "must be an address such as https://hooks.example.com/mail";
        let url = Url::parse(text).map_err(|_| EndpointError(FORM))?;
        let has_tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(EndpointError(FORM)),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointError("must not have a user or password"));
        }
        if url.fragment().is_some() {
            return Err(EndpointError("must not have a fragment"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(EndpointError(FORM));
        };
        let peer = Peer { host: host.to_owned(), port };
        if !has_tls && !peer.is_loopback() {
            return Err(EndpointError(
                "must begin with https://; http:// is for this machine only: 127.0.0.1, [::1], \
                 localhost",
            ));
        }
        let server_name = has_tls.then(|| peer.server_name()).transpose()?;
        // As the URL standard writes it: without the port that the scheme has anyway.
        let authority = match url.port() {
            Some(port) => format!("{}:{port}", peer.host),
            None => peer.host.to_string(),
        };
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self {
            peer,
            server_name,
            host_header: authority.parse().map_err(|_| EndpointError(FORM))?,
            target: target.parse().map_err(|_| EndpointError(FORM))?,
        })
    }

    /// Host and port, for people.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn reach(&self) -> Reach {
        if self.server_name.is_some() { Reach::Anywhere } else { Reach::ThisMachine }
    }

    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        self.server_name.clone()
    }

    pub(super) fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }

    pub(super) fn target(&self) -> &PathAndQuery {
        &self.target
    }
}

impl fmt::Debug for Endpoint {
    /// Path and query may be what lets callers in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.peer)
    }
}

impl Peer {
    /// A host as URLs have it (`name`, `192.0.2.1`, `[2001:db8::1]`) and a port.
    ///
    /// # Errors
    /// It is no host, or port 0.
    pub fn new(host: &str, port: u16) -> Result<Self, EndpointError> {
        let host = Host::parse(host).map_err(|_| EndpointError("has no usable host"))?;
        if port == 0 {
            return Err(EndpointError("has port 0, which is no port to connect to"));
        }
        Ok(Self { host, port })
    }

    /// Whether it is this machine, whatever the resolver says.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(ip) => ip.is_loopback(),
            Host::Ipv6(ip) => ip.is_loopback(),
        }
    }

    /// The name that its certificate must have.
    ///
    /// # Errors
    /// No certificate could have such a name.
    pub(crate) fn server_name(&self) -> Result<ServerName<'static>, EndpointError> {
        let unusable = |_| EndpointError("has a host that no certificate could be for");
        Ok(match &self.host {
            Host::Domain(name) => ServerName::try_from(name.clone()).map_err(unusable)?,
            Host::Ipv4(ip) => ServerName::from(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => ServerName::from(IpAddr::V6(*ip)),
        })
    }

    /// The host, and whether it has to be looked up.
    pub(super) fn host(&self) -> &Host<String> {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_lead_where_they_say() {
        for (text, peer, host, target, has_tls) in [
            ("https://h.example/a?b=c", "h.example:443", "h.example", "/a?b=c", true),
            ("https://H.example:8443", "h.example:8443", "h.example:8443", "/", true),
            (
                "https://bücher.example/ü",
                "xn--bcher-kva.example:443",
                "xn--bcher-kva.example",
                "/%C3%BC",
                true,
            ),
            ("https://192.0.2.1/", "192.0.2.1:443", "192.0.2.1", "/", true),
            ("https://[2001:db8::1]:444/", "[2001:db8::1]:444", "[2001:db8::1]:444", "/", true),
            ("http://127.0.0.1:3000/x", "127.0.0.1:3000", "127.0.0.1:3000", "/x", false),
            ("http://127.9.9.9/", "127.9.9.9:80", "127.9.9.9", "/", false),
            ("http://localhost:3000", "localhost:3000", "localhost:3000", "/", false),
            ("http://[::1]/", "[::1]:80", "[::1]", "/", false),
        ] {
            let endpoint = Endpoint::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(endpoint.peer().to_string(), peer, "{text}");
            assert_eq!(endpoint.host_header(), host, "{text}");
            assert_eq!(endpoint.target(), target, "{text}");
            assert_eq!(endpoint.server_name().is_some(), has_tls, "{text}");
        }
    }

    #[test]
    fn bad_addresses_are_refused_and_not_quoted() {
        for (text, expected) in [
            ("", "must be an address"),
            ("hooks.example.com", "must be an address"),
            ("//h.example/", "must be an address"),
            ("ftp://h.example/", "must be an address"),
            ("https://", "must be an address"),
            ("https://h.example:99999/", "must be an address"),
            ("http://h.example/s3cret", "must begin with https://"),
            ("http://10.0.0.1/", "must begin with https://"),
            ("http://localhost.example.com/", "must begin with https://"),
            ("http://127.0.0.1.example.com/", "must begin with https://"),
            ("http://[::ffff:10.0.0.1]/", "must begin with https://"),
            ("https://u:s3cret@h.example/", "must not have a user"),
            ("https://u@h.example/", "must not have a user"),
            ("https://h.example/#s3cret", "must not have a fragment"),
        ] {
            let error = Endpoint::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let endpoint = Endpoint::parse("https://h.example/s3cret").expect("an address");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(h.example:443)");
    }

    #[test]
    fn spellings_of_this_machine_are_known() {
        for (host, is_loopback) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("127.0.0.1", true),
            ("0x7f.1", true),
            ("[::1]", true),
            ("0.0.0.0", false),
            ("[::]", false),
            ("localhost.localdomain", false),
            ("mail.example.com", false),
        ] {
            assert_eq!(Peer::new(host, 25).expect(host).is_loopback(), is_loopback, "{host}");
        }
        assert!(Peer::new("a b", 25).is_err() && Peer::new("h", 0).is_err());
        assert!(Peer::new("", 25).is_err());
    }
}
