//! What a request header's name means to the gateway, whatever its spelling.
//!
//! Upstreams fold names: CGI and its heirs (WSGI, PHP, Rack) turn `-` into `_`, PHP also `.`,
//! lighttpd everything that is neither letter nor digit. So `X_User_Id` and `x.user.id` arrive
//! there as the same variable as our `X-User-Id`. Names are compared with all of that folded to
//! `-`, and a twin (an equal in another spelling) of a name that matters is always dropped
//! (oauth2-proxy CVE-2025-64484, Traefik CVE-2026-54763).

/// Longest name that is compared as a whole; longer ones match by prefix only.
pub(super) const MAX_NAME_BYTES: usize = 64;

/// What to do about a request header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Passed on, or overwritten later.
    Keep,
    /// Never passed on.
    Drop,
    /// Credentials; depends on the scheme and the route.
    Authorization,
    /// Names further hop-by-hop headers.
    Connection,
    /// Reported, not passed on: the body sets the framing.
    ContentLength,
    /// RFC 7239; believed from a trusted peer when configured.
    Forwarded,
    /// Metadata of a forwarding proxy; believed from a trusted peer.
    Forwarding,
    /// Hop-by-hop; reported when it asks for a WebSocket.
    Upgrade,
}

/// The names that matter: the fixed ones and those that carry the identity.
#[derive(Debug)]
pub(super) struct WatchedNames {
    /// Folded.
    identity: Vec<Box<[u8]>>,
    /// Whether a watched name starts with this byte: most headers need no second look.
    starts: [bool; 256],
}

impl WatchedNames {
    pub(super) fn new(identity: impl Iterator<Item = Box<[u8]>>) -> Self {
        let identity: Vec<Box<[u8]>> = identity.collect();
        let mut starts = [false; 256];
        let firsts = identity.iter().filter_map(|name| name.first()).chain(FIXED_STARTS);
        firsts.for_each(|&first| starts[usize::from(first)] = true);
        Self { identity, starts }
    }

    /// `name` is in lower case, as `HeaderName` has it.
    pub(super) fn classify(&self, name: &str) -> Class {
        let name = name.as_bytes();
        if !name.first().is_some_and(|&first| self.starts[usize::from(first)]) {
            return Class::Keep;
        }
        if name.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-') {
            return if self.is_identity(name) { Class::Drop } else { classify_fixed(name) };
        }
        let mut buffer = [0; MAX_NAME_BYTES];
        let folded = fold(name, &mut buffer);
        let matters = self.is_identity(folded)
            || classify_fixed(folded) != Class::Keep
            || OVERWRITTEN.contains(&folded);
        if matters { Class::Drop } else { Class::Keep }
    }

    fn is_identity(&self, folded: &[u8]) -> bool {
        self.identity.iter().any(|name| **name == *folded)
    }
}

/// The first [`MAX_NAME_BYTES`] of a name, folded.
pub(super) fn fold<'b>(name: &[u8], buffer: &'b mut [u8; MAX_NAME_BYTES]) -> &'b [u8] {
    let length = name.len().min(MAX_NAME_BYTES);
    for (to, from) in buffer.iter_mut().zip(name) {
        *to = if from.is_ascii_alphanumeric() { from.to_ascii_lowercase() } else { b'-' };
    }
    &buffer[..length]
}

/// First bytes of everything in [`classify_fixed`] and [`OVERWRITTEN`].
const FIXED_STARTS: &[u8] = b"acefhkptux";

/// Set by us on every request; their twins are dropped.
const OVERWRITTEN: [&[u8]; 4] =
    [b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-request-id"];

/// `name` is folded, or needs no folding.
pub(super) fn classify_fixed(name: &[u8]) -> Class {
    match name {
        b"authorization" => Class::Authorization,
        b"connection" => Class::Connection,
        b"content-length" => Class::ContentLength,
        b"forwarded" => Class::Forwarded,
        b"upgrade" => Class::Upgrade,
        // Hop-by-hop (RFC 9110 §7.6.1, RFC 9112 §6.1); `Expect` is answered by our own server, and
        // `Proxy` is a CGI variable (httpoxy, CVE-2016-5385).
        b"expect"
        | b"http2-settings"
        | b"keep-alive"
        | b"proxy"
        | b"te"
        | b"trailer"
        | b"transfer-encoding"
        // Frameworks let these replace the method or the target after our decision.
        | b"x-envoy-original-path"
        | b"x-http-method"
        | b"x-http-method-override"
        | b"x-method-override"
        | b"x-original-host"
        | b"x-original-method"
        | b"x-original-path"
        | b"x-original-uri"
        | b"x-original-url"
        | b"x-override-url"
        | b"x-rewrite-uri"
        | b"x-rewrite-url" => Class::Drop,
        b"x-forwarded-for" | b"x-forwarded-host" | b"x-forwarded-proto" => Class::Keep,
        // Balancers and networks write these; frameworks believe them.
        b"cf-connecting-ip"
        | b"client-ip"
        | b"true-client-ip"
        | b"x-client-ip"
        | b"x-cluster-client-ip"
        | b"x-forwarded"
        | b"x-real-ip" => Class::Forwarding,
        _ if name.starts_with(b"x-forwarded-") => Class::Forwarding,
        _ if name.starts_with(b"proxy-") => Class::Drop,
        _ => Class::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_every_spelling() {
        let identity = ["x-user-id", "sub"].map(|name| Box::from(name.as_bytes()));
        let names = WatchedNames::new(identity.into_iter());
        for (name, class) in [
            ("accept", Class::Keep),
            ("user-agent", Class::Keep),
            ("x-custom_name", Class::Keep),
            ("x-request-id", Class::Keep),
            ("x_request_id", Class::Drop),
            ("authorization", Class::Authorization),
            ("x-user-id", Class::Drop),
            ("x_user_id", Class::Drop),
            ("x.user.id", Class::Drop),
            ("x-user_id", Class::Drop),
            ("x!user~id", Class::Drop),
            ("x-user-ids", Class::Keep),
            ("x--user-id", Class::Keep),
            ("sub", Class::Drop),
            ("transfer_encoding", Class::Drop),
            ("content_length", Class::Drop),
            ("content-length", Class::ContentLength),
            ("proxy-connection", Class::Drop),
            ("proxy_x", Class::Drop),
            ("x-forwarded-for", Class::Keep),
            ("x_forwarded_for", Class::Drop),
            ("x-forwarded-prefix", Class::Forwarding),
            ("x-forwarded_prefix", Class::Drop),
            ("x-real.ip", Class::Drop),
            ("forwarded", Class::Forwarded),
        ] {
            assert_eq!(names.classify(name), class, "{name}");
        }
        let long = format!("x-forwarded-{}", "a".repeat(200));
        assert_eq!(names.classify(&long), Class::Forwarding);
        assert_eq!(names.classify(&long.replace('-', "_")), Class::Drop);
        assert_eq!(names.classify(&format!("x-user-id{}_", "a".repeat(100))), Class::Keep);
    }

    #[test]
    fn the_first_bytes_cover_every_fixed_name() {
        let starts = |byte: u8| FIXED_STARTS.contains(&byte);
        for name in [
            "authorization",
            "connection",
            "expect",
            "forwarded",
            "http2-settings",
            "keep-alive",
            "proxy",
            "te",
            "upgrade",
            "x-real-ip",
        ] {
            assert!(starts(name.as_bytes()[0]), "{name}");
        }
        assert!(OVERWRITTEN.iter().all(|name| starts(name[0])));
    }
}
