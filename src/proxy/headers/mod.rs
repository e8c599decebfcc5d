//! What an upstream gets to read in a request's headers, and a client in an answer's.
//!
//! Order is everything: first what the client may not say is taken out (hop-by-hop headers with
//! all that `Connection` names, identity headers in every spelling, forwarding headers of peers
//! that are not trusted), then the gateway says its own. Nothing that a client names can so remove
//! or double a header that we set. It holds for every route, public ones too.
//!
//! The credential and the client address are read from the headers before this; it needs a
//! [`Permit`], decides nothing, and knows no bodies.

mod names;
mod request_id;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use self::names::{Class, MAX_NAME_BYTES, WatchedNames};
use self::request_id::X_REQUEST_ID;
pub use self::request_id::{RequestId, RequestIds};
use super::authorize::Permit;
use crate::config::{Config, ForwardedHeader, Problem};
use crate::identity::Identity;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static OUR_VIA: HeaderValue = HeaderValue::from_static("1.1 portcullis");

/// Most headers that are added to a request: four of the identity, that of the client certificate,
/// three of forwarding, `Via`, the request id, and what the caller sets for framing or an upgrade
/// (`Content-Length`, or two).
const ADDED: usize = 12;

/// The names of the identity headers, and whom to believe about where a request came from.
#[derive(Debug)]
pub struct HeaderPolicy {
    user_id: HeaderName,
    email: HeaderName,
    roles: HeaderName,
    session_id: HeaderName,
    client_certificate: HeaderName,
    names: WatchedNames,
    forwarded_header: ForwardedHeader,
}

/// The last hop of a request, from its client to us.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// Address of the peer, as text; made once for a connection.
    pub peer: &'a HeaderValue,
    /// Address of the client: the peer's, or what a trusted peer says it is.
    pub client: &'a HeaderValue,
    /// Whether the peer is in `server.trusted_proxies`.
    pub trusted: bool,
    /// How the request came to us.
    pub scheme: Scheme,
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

/// What the headers said about the message, and no longer say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// `Content-Length`, when it is one number.
    pub content_length: Option<u64>,
    /// The protocol that is asked for, or in an answer accepted.
    pub upgrade: Option<UpgradeTo>,
}

/// A protocol that connections may change to. `h2c` is none: it would carry further requests past
/// every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeTo {
    /// RFC 6455.
    WebSocket,
}

impl UpgradeTo {
    /// Says it in the headers of a request or of a 101.
    pub fn set(self, headers: &mut HeaderMap) {
        let Self::WebSocket = self;
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }

    /// What one `Upgrade` line and the `Connection` lines ask for.
    fn asked(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(UPGRADE).iter();
        let (line, None) = (lines.next()?, lines.next()) else { return None };
        let named =
            connection_options(headers).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
        (named && line.as_bytes().eq_ignore_ascii_case(b"websocket")).then_some(Self::WebSocket)
    }
}

impl HeaderPolicy {
    /// Compiles `[identity_headers]` and `server.forwarded_header`.
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
            name("session_id", &written.session_id),
            name("client_certificate", &written.client_certificate),
        );
        let (Some(user_id), Some(email), Some(roles), Some(session_id), Some(client_certificate)) =
            names
        else {
            return Err(problems);
        };
        let names = WatchedNames::new(taken.into_iter());
        let forwarded_header = config.server.forwarded_header;
        Ok(Self { user_id, email, roles, session_id, client_certificate, names, forwarded_header })
    }

    /// Turns the headers of a client's request into those of the request to the upstream, all but
    /// `Host`, framing and upgrade, which depend on what is done with the body.
    pub fn prepare_request(
        &self,
        headers: &mut HeaderMap,
        permit: &Permit<'_>,
        hop: &Hop<'_>,
    ) -> Framing {
        // What is said is worked out before anything is removed: a client that lists one of these
        // names in `Connection` has no influence on it.
        let forwarded_for = self.forwarded_for(headers, hop);
        let proto = believed(headers, &X_FORWARDED_PROTO, hop).filter(is_scheme);
        let host = believed(headers, &X_FORWARDED_HOST, hop).or_else(|| headers.get(HOST).cloned());

        let framing = self.strip_request(headers, permit, hop);

        headers.reserve(ADDED);
        if let Some(identity) = permit.identity() {
            for (name, value) in self.identity_headers(identity) {
                headers.insert(name.clone(), value.clone());
            }
        }
        if let Some(subject) = hop.client_certificate {
            headers.insert(self.client_certificate.clone(), subject.clone());
        }
        headers.insert(X_FORWARDED_FOR.clone(), forwarded_for);
        let proto = proto.unwrap_or(match hop.scheme {
            Scheme::Http => HeaderValue::from_static("http"),
            Scheme::Https => HeaderValue::from_static("https"),
        });
        headers.insert(X_FORWARDED_PROTO.clone(), proto);
        match host {
            Some(host) => drop(headers.insert(X_FORWARDED_HOST.clone(), host)),
            None => drop(headers.remove(&X_FORWARDED_HOST)),
        }
        headers.append(VIA, OUR_VIA.clone());
        headers.insert(X_REQUEST_ID.clone(), hop.request_id.value().clone());
        framing
    }

    /// The headers that tell an upstream who is calling, each at most once.
    pub fn identity_headers<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        [
            (&self.user_id, Some(&identity.headers.subject)),
            (&self.email, identity.headers.email.as_ref()),
            (&self.roles, identity.headers.roles.as_ref()),
            (&self.session_id, identity.headers.session.as_ref()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }

    /// One pass over the names. Only what is there is removed: the removal of an absent name still
    /// hashes it. What most requests carry is flagged; the list stays empty for honest ones.
    fn strip_request(
        &self,
        headers: &mut HeaderMap,
        permit: &Permit<'_>,
        hop: &Hop<'_>,
    ) -> Framing {
        let (mut has_length, mut has_authorization) = (false, false);
        let (mut has_connection, mut has_upgrade) = (false, false);
        let mut doomed: Vec<HeaderName> = Vec::new();
        for name in headers.keys() {
            match self.names.classify(name.as_str()) {
                Class::Keep => {}
                Class::Authorization => has_authorization = true,
                Class::Connection => has_connection = true,
                Class::ContentLength => has_length = true,
                Class::Upgrade => has_upgrade = true,
                Class::Forwarding if hop.trusted => {}
                Class::Forwarded
                    if hop.trusted && self.forwarded_header == ForwardedHeader::Forwarded => {}
                Class::Forwarded => doomed.push(FORWARDED),
                Class::Drop | Class::Forwarding => doomed.push(name.clone()),
            }
        }
        let mut framing = Framing::default();
        if has_upgrade {
            framing.upgrade = UpgradeTo::asked(headers);
            doomed.push(UPGRADE);
        }
        if has_connection {
            doom_named_in_connection(headers, &mut doomed);
            headers.remove(CONNECTION);
        }
        if has_length {
            framing.content_length = content_length(headers);
            headers.remove(CONTENT_LENGTH);
        }
        if has_authorization && !permit.route().forward_token && carries_bearer(headers) {
            headers.remove(AUTHORIZATION);
        }
        for name in doomed {
            headers.remove(name);
        }
        framing
    }

    /// The peer, after what a trusted peer says of the hops before it.
    fn forwarded_for(&self, headers: &HeaderMap, hop: &Hop<'_>) -> HeaderValue {
        if !hop.trusted {
            return hop.peer.clone();
        }
        let mut hops: Vec<u8> = Vec::new();
        match self.forwarded_header {
            ForwardedHeader::XForwardedFor => {
                for line in headers.get_all(&X_FORWARDED_FOR) {
                    if !line.is_empty() {
                        hops.extend_from_slice(line.as_bytes());
                        hops.extend_from_slice(b", ");
                    }
                }
            }
            ForwardedHeader::Forwarded if hop.client != hop.peer => {
                hops.extend_from_slice(hop.client.as_bytes());
                hops.extend_from_slice(b", ");
            }
            ForwardedHeader::Forwarded => {}
        }
        if hops.is_empty() {
            return hop.peer.clone();
        }
        hops.extend_from_slice(hop.peer.as_bytes());
        HeaderValue::from_maybe_shared(bytes::Bytes::from(hops))
            .unwrap_or_else(|_| hop.peer.clone())
    }
}

/// Takes out of an answer what concerned the upstream's connection only. Its length stays when it
/// is one and no transfer coding overrules it (RFC 9112 §6.3): answers to `HEAD` and 304 state the
/// length of a body that they do not have.
pub fn prepare_response(headers: &mut HeaderMap) -> Framing {
    let (mut has_length, mut has_connection, mut has_coding) = (false, false, false);
    let mut doomed: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        match name.as_str() {
            "connection" => has_connection = true,
            "content-length" => has_length = true,
            "transfer-encoding" => has_coding = true,
            "keep-alive" | "te" | "trailer" | "upgrade" => doomed.push(name.clone()),
            other if other.starts_with("proxy-") => doomed.push(name.clone()),
            _ => {}
        }
    }
    let mut framing = Framing::default();
    if has_connection {
        framing.upgrade = UpgradeTo::asked(headers);
        doom_named_in_connection(headers, &mut doomed);
        headers.remove(CONNECTION);
    }
    if has_coding {
        headers.remove(TRANSFER_ENCODING);
    }
    if has_length {
        framing.content_length = content_length(headers).filter(|_| !has_coding);
        match framing.content_length {
            Some(_) if is_clean_length(headers) => {}
            Some(length) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length))),
            None => drop(headers.remove(CONTENT_LENGTH)),
        }
    }
    for name in doomed {
        headers.remove(name);
    }
    framing
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
    let means_something = names::classify_fixed(&folded) != Class::Keep
        || folded.starts_with(b"x-forwarded-")
        || MEANINGFUL.contains(&&*folded);
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
    b"user-agent",
    b"via",
    b"x-request-id",
];

/// The one line of a header that a trusted peer sent.
fn believed(headers: &HeaderMap, name: &HeaderName, hop: &Hop<'_>) -> Option<HeaderValue> {
    if !hop.trusted {
        return None;
    }
    let mut lines = headers.get_all(name).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    Some(line.clone())
}

fn is_scheme(value: &HeaderValue) -> bool {
    [&b"http"[..], b"https"].iter().any(|scheme| value.as_bytes().eq_ignore_ascii_case(scheme))
}

/// Every option of every `Connection` line.
fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(CONNECTION).iter();
    lines.flat_map(|line| line.as_bytes().split(|&b| b == b',')).map(<[u8]>::trim_ascii)
}

/// Adds what `Connection` names (RFC 9110 §7.6.1). `Host` stays, whoever names it: it is needed to
/// answer at all, and is no field of a connection.
fn doom_named_in_connection(headers: &HeaderMap, doomed: &mut Vec<HeaderName>) {
    for option in connection_options(headers) {
        if [&b"keep-alive"[..], b"close", b"upgrade", b""]
            .iter()
            .any(|known| option.eq_ignore_ascii_case(known))
        {
            continue;
        }
        match HeaderName::from_bytes(option) {
            Ok(name) if name != HOST && headers.contains_key(&name) => doomed.push(name),
            _ => {}
        }
    }
}

/// The length that all lines agree on; digits only (RFC 9112 §6.3).
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter().map(|line| {
        let digits = line.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<u64>().ok()
    });
    let first = lines.next()??;
    lines.all(|other| other == Some(first)).then_some(first)
}

/// Whether a valid length stands in one line, without leading zeros (`010` is octal to some).
fn is_clean_length(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let first = lines.next().unwrap_or_default();
    lines.next().is_none() && (first.len() == 1 || !first.starts_with(b"0"))
}

/// Whether any `Authorization` line holds a bearer token, also behind a comma.
fn carries_bearer(headers: &HeaderMap) -> bool {
    // The ordinary case is seen from its first bytes; the others are looked through.
    headers.get_all(AUTHORIZATION).iter().any(|line| {
        is_bearer(line.as_bytes()) || line.as_bytes().split(|&b| b == b',').any(is_bearer)
    })
}

fn is_bearer(credential: &[u8]) -> bool {
    let credential = credential.trim_ascii_start();
    let (Some(scheme), rest) = (credential.get(..6), credential.get(6)) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer") && rest.is_none_or(|b| !b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests;
