//! What an upstream gets to read in a request's headers, and a client in an answer's.
//!
//! Headers are written, never edited: one pass over what came copies what may pass, then the gateway
//! says its own. What the client may not say is left out (hop-by-hop headers with all that
//! `Connection` names, identity headers in every spelling, forwarding headers of peers that are not
//! trusted), so nothing that a client names can remove or double a header that we set. It holds for
//! every route, public ones too.
//!
//! It needs a [`Permit`], decides nothing, and knows no bodies: framing and `Host` are the writer's.

mod cookies;
mod names;
mod request_id;

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

pub use self::cookies::{is_known_by_cookie, keep_private};
use self::names::{Class, MAX_NAME_BYTES, WatchedNames};
pub use self::request_id::{RequestId, RequestIds};
use super::authorize::Permit;
use super::subprotocol;
use crate::config::{Config, ForwardedHeader, Problem};
use crate::identity::Identity;
use crate::identity::cookies::sets_ours;
use crate::message::fields::Field;
use crate::message::{FieldSink, Fields, Known, Version};

/// The names of the identity headers, and whom to believe about where a request came from.
#[derive(Debug)]
pub struct HeaderPolicy {
    user_id: HeaderName,
    email: HeaderName,
    roles: HeaderName,
    issuer: HeaderName,
    session_id: HeaderName,
    scopes: HeaderName,
    client_certificate: HeaderName,
    names: WatchedNames,
    forwarded_header: ForwardedHeader,
    send_forwarded: bool,
}

/// The last hop of a request, from its client to us.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// Address of the peer, as text; made once for a connection.
    pub peer: &'a str,
    /// Address of the client: the peer's, or what a trusted peer says it is.
    pub client: &'a str,
    /// Whether the peer is in `server.trusted_proxies`.
    pub trusted: bool,
    /// How the request came to us.
    pub scheme: Scheme,
    /// In which version of HTTP.
    pub version: Version,
    /// The subject of the certificate that the client has shown.
    pub client_certificate: Option<&'a HeaderValue>,
    /// The request's id.
    pub request_id: &'a RequestId,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Http => b"http",
            Self::Https => b"https",
        }
    }
}

impl HeaderPolicy {
    /// Compiles `[identity_headers]` and what `[server]` says of forwarding headers.
    ///
    /// # Errors
    /// Names that are none, that mean something else, or that upstreams may take for each other.
    pub fn compile(config: &Config) -> Result<Self, Vec<Problem>> {
        let written = &config.identity_headers;
        let mut problems = Vec::new();
        let mut taken: Vec<Box<[u8]>> = Vec::new();
        let mut name = |key: &str, text: &str| match identity_name(text, &taken) {
            Ok((name, folded)) => {
                taken.push(folded);
                Some(name)
            }
            Err(message) => {
                problems.push(Problem::new(format!("identity_headers.{key}"), message));
                None
            }
        };
        let names = (
            name("user_id", &written.user_id),
            name("email", &written.email),
            name("roles", &written.roles),
            name("issuer", &written.issuer),
            name("session_id", &written.session_id),
            name("scopes", &written.scopes),
            name("client_certificate", &written.client_certificate),
        );
        let (
            Some(user_id),
            Some(email),
            Some(roles),
            Some(issuer),
            Some(session_id),
            Some(scopes),
            Some(client_certificate),
        ) = names
        else {
            return Err(problems);
        };
        Ok(Self {
            user_id,
            email,
            roles,
            issuer,
            session_id,
            scopes,
            client_certificate,
            names: WatchedNames::new(taken.into_iter()),
            forwarded_header: config.server.forwarded_header,
            send_forwarded: config.server.send_forwarded,
        })
    }

    /// Writes the headers of the request to the upstream, all but `Host`, framing and upgrade.
    pub fn write_request(
        &self,
        fields: Fields<'_>,
        permit: &Permit<'_>,
        hop: &Hop<'_>,
        out: &mut impl FieldSink,
    ) {
        let names_fields = fields.has(Known::Connection);
        for field in fields.iter() {
            if self.passes(&field, fields, permit, hop) {
                if !(names_fields && is_named_in_connection(fields, field.name)) {
                    out.field(field.name, field.value);
                }
            } else if field.known == Known::Cookie
                && !(names_fields && is_named_in_connection(fields, field.name))
            {
                // In its place: of two cookies of one name, which is the first may matter.
                cookies::write_left(&field, out);
            }
        }
        if permit.route().websocket_token
            && fields.has(Known::WebSocketProtocol)
            && let Some(left) = subprotocol::without_token(fields)
        {
            out.field(b"sec-websocket-protocol", &left);
        }
        if fields.has(Known::Cookie) {
            cookies::write_token(fields, permit, out);
        }
        if let Some(identity) = permit.identity() {
            for (name, value) in self.identity_headers(identity) {
                out.field(name.as_str().as_bytes(), value);
            }
        }
        if let Some(subject) = hop.client_certificate {
            out.field(self.client_certificate.as_str().as_bytes(), subject.as_bytes());
        }
        self.write_forwarding(fields, hop, out);
        let via: &[u8] = match hop.version {
            Version::Http10 => b"1.0 portcullis",
            Version::Http11 => b"1.1 portcullis",
            Version::Http2 => b"2.0 portcullis",
        };
        out.field(b"via", via);
        out.field(b"x-request-id", hop.request_id.as_bytes());
    }

    /// The headers that tell an upstream who is calling, each at most once.
    pub fn identity_headers<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> impl Iterator<Item = (&'a HeaderName, &'a [u8])> {
        [
            (&self.user_id, Some(&identity.headers.subject)),
            (&self.email, identity.headers.email.as_ref()),
            (&self.roles, identity.headers.roles.as_ref()),
            (&self.issuer, Some(&identity.headers.issuer)),
            (&self.session_id, identity.headers.session.as_ref()),
            (&self.scopes, identity.headers.scopes.as_ref()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?.as_bytes())))
    }

    /// The client's trailers that an upstream may see: a trailer must not say what a header may not
    /// (RFC 9110 §6.5.1).
    pub fn passing_trailers(&self, trailers: HeaderMap) -> HeaderMap {
        let mut left = HeaderMap::with_capacity(trailers.len());
        let mut last = None;
        for (name, value) in trailers {
            let Some(name) = name.or_else(|| last.clone()) else { continue };
            let text = name.as_str().as_bytes();
            if Known::of(text) == Known::Other && self.names.classify(text) == Class::Keep {
                left.append(name.clone(), value);
            }
            last = Some(name);
        }
        left
    }

    /// Whether a line of the client is copied.
    fn passes(
        &self,
        field: &Field<'_>,
        fields: Fields<'_>,
        permit: &Permit<'_>,
        hop: &Hop<'_>,
    ) -> bool {
        match field.known {
            Known::Authorization => permit.route().forward_token || !carries_bearer(fields),
            Known::Forwarded => hop.trusted && self.forwarded_header == ForwardedHeader::Forwarded,
            Known::WebSocketProtocol => !permit.route().websocket_token,
            // What is left of the others is written apart.
            Known::Cookie => !cookies::may_hold_ours(field.value),
            // Hop-by-hop (RFC 9110 §7.6.1, RFC 9112 §6.1), or said by us.
            Known::Connection
            | Known::ContentLength
            | Known::Expect
            | Known::Host
            | Known::Te
            | Known::Trailer
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedProto
            | Known::XRequestId => false,
            Known::AllowCredentials
            | Known::AllowOrigin
            | Known::ApiVersion
            | Known::ContentType
            | Known::Date
            | Known::Origin
            | Known::RequestMethod
            | Known::SecFetchSite
            | Known::SetCookie
            | Known::UserAgent => true,
            Known::Other => match self.names.classify(field.name) {
                Class::Keep => true,
                Class::Drop => false,
                Class::Forwarding => hop.trusted,
            },
        }
    }

    fn write_forwarding(&self, fields: Fields<'_>, hop: &Hop<'_>, out: &mut impl FieldSink) {
        if hop.trusted {
            out.field(b"x-forwarded-for", &self.forwarded_for(fields, hop));
        } else {
            out.field(b"x-forwarded-for", hop.peer.as_bytes());
        }
        let proto = believed(fields, Known::XForwardedProto, hop).filter(|proto| {
            [&b"http"[..], b"https"].iter().any(|scheme| proto.eq_ignore_ascii_case(scheme))
        });
        out.field(b"x-forwarded-proto", proto.unwrap_or_else(|| hop.scheme.name()));
        let host = fields.first(Known::Host);
        if let Some(host) = believed(fields, Known::XForwardedHost, hop).or(host) {
            out.field(b"x-forwarded-host", host);
        }
        if self.send_forwarded {
            out.field(b"forwarded", &forwarded(fields, hop, self.forwarded_header));
        }
    }

    /// The peer, after what a trusted peer says of the hops before it.
    fn forwarded_for(&self, fields: Fields<'_>, hop: &Hop<'_>) -> Vec<u8> {
        let mut hops: Vec<u8> = Vec::new();
        match self.forwarded_header {
            ForwardedHeader::XForwardedFor => {
                for line in fields.all(Known::XForwardedFor).filter(|line| !line.is_empty()) {
                    hops.extend_from_slice(line);
                    hops.extend_from_slice(b", ");
                }
            }
            ForwardedHeader::Forwarded if hop.client != hop.peer => {
                hops.extend_from_slice(hop.client.as_bytes());
                hops.extend_from_slice(b", ");
            }
            ForwardedHeader::Forwarded => {}
        }
        hops.extend_from_slice(hop.peer.as_bytes());
        hops
    }
}

/// Our element of `Forwarded` (RFC 7239 §4). What a trusted peer wrote there stands in lines before
/// it; where that peer writes the other header, the client gets an element of its own.
fn forwarded(fields: Fields<'_>, hop: &Hop<'_>, header: ForwardedHeader) -> Vec<u8> {
    let mut element = Vec::new();
    if hop.client != hop.peer && header == ForwardedHeader::XForwardedFor {
        push_node(&mut element, hop.client);
        element.extend_from_slice(b", ");
    }
    push_node(&mut element, hop.peer);
    // The head's check lets only characters of an authority through, none of which needs escaping.
    if let Some(host) = fields.first(Known::Host) {
        element.extend_from_slice(b";host=\"");
        element.extend_from_slice(host);
        element.push(b'"');
    }
    element.extend_from_slice(b";proto=");
    element.extend_from_slice(hop.scheme.name());
    element
}

fn push_node(element: &mut Vec<u8>, address: &str) {
    element.extend_from_slice(b"for=");
    match address.parse::<IpAddr>() {
        // RFC 7239 §6: the colons of IPv6 need quotes.
        Ok(IpAddr::V6(_)) => element.extend_from_slice(format!("\"[{address}]\"").as_bytes()),
        _ => element.extend_from_slice(address.as_bytes()),
    }
}

/// Writes the headers of an upstream's answer that are meant for the client: all but what concerned
/// the connection to the upstream, framing included, a cookie of ours, and what `drops` says.
pub fn write_response(fields: Fields<'_>, drops: impl Fn(Known) -> bool, out: &mut impl FieldSink) {
    let names_fields = fields.has(Known::Connection);
    for field in fields.iter() {
        let passes = match field.known {
            Known::Connection
            | Known::ContentLength
            | Known::Te
            | Known::Trailer
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::XRequestId => false,
            Known::Other => !is_hop_by_hop(field.name),
            Known::SetCookie => !sets_ours(field.value),
            known => !drops(known),
        };
        if passes && !(names_fields && is_named_in_connection(fields, field.name)) {
            out.field(field.name, field.value);
        }
    }
}

/// The upstream's trailers that a client may see: those that say of the answer what only its end can
/// tell. Cookies, framing and what CORS allows belong into a head (RFC 9110 §6.5.1), where they are
/// looked at, but clients merge what they find.
pub fn passing_answer_trailers(mut trailers: HeaderMap) -> HeaderMap {
    let names: Vec<HeaderName> = trailers.keys().cloned().collect();
    for name in names {
        let text = name.as_str().as_bytes();
        let belongs_into_head = Known::of(text) != Known::Other
            || is_hop_by_hop(text)
            || text.starts_with(b"access-control-");
        if belongs_into_head {
            trailers.remove(&name);
        }
    }
    trailers
}

fn is_hop_by_hop(name: &[u8]) -> bool {
    match name.first() {
        Some(b'k' | b'K') => name.eq_ignore_ascii_case(b"keep-alive"),
        Some(b'p' | b'P') => {
            name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"proxy-"))
        }
        _ => false,
    }
}

/// Reads the name of an identity header, with its folded form.
fn identity_name(text: &str, taken: &[Box<[u8]>]) -> Result<(HeaderName, Box<[u8]>), String> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("`{text}` is no header name"))?;
    if text.len() >= MAX_NAME_BYTES {
        return Err(format!("`{text}` is longer than {} characters", MAX_NAME_BYTES - 1));
    }
    let mut buffer = [0; MAX_NAME_BYTES];
    let folded: Box<[u8]> = names::fold(text.as_bytes(), &mut buffer).into();
    let means_something = names::is_watched(&folded) || MEANINGFUL.contains(&&*folded);
    if means_something {
        return Err(format!("`{text}` means something else in requests; name another header"));
    }
    if taken.contains(&folded) {
        return Err(format!("`{text}` is the name of another identity header to some upstreams"));
    }
    Ok((name, folded))
}

/// Request headers that cannot carry an identity without breaking something.
const MEANINGFUL: [&[u8]; 12] = [
    b"accept",
    b"accept-encoding",
    b"content-encoding",
    b"content-type",
    b"cookie",
    b"date",
    b"host",
    b"origin",
    b"range",
    b"sec-websocket-protocol",
    b"user-agent",
    b"via",
];

/// The one line of a header that a trusted peer sent.
fn believed<'a>(fields: Fields<'a>, known: Known, hop: &Hop<'_>) -> Option<&'a [u8]> {
    if hop.trusted { fields.sole(known).ok().flatten() } else { None }
}

/// Whether `Connection` names a field (RFC 9110 §7.6.1).
fn is_named_in_connection(fields: Fields<'_>, name: &[u8]) -> bool {
    fields.elements(Known::Connection).any(|option| option.eq_ignore_ascii_case(name))
}

/// Whether any `Authorization` line holds a bearer token, also behind a comma.
fn carries_bearer(fields: Fields<'_>) -> bool {
    // The ordinary case is seen from its first bytes; the others are looked through.
    fields
        .all(Known::Authorization)
        .any(|line| is_bearer(line) || line.split(|&b| b == b',').any(is_bearer))
}

fn is_bearer(credential: &[u8]) -> bool {
    let credential = credential.trim_ascii_start();
    let (Some(scheme), rest) = (credential.get(..6), credential.get(6)) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer") && rest.is_none_or(|b| !b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests;
