//! What a request header's name means to the gateway, whatever its spelling.
//!
//! Upstreams fold names: CGI and its heirs (WSGI, PHP, Rack) turn `-` into `_`, PHP also `.`,
//! lighttpd everything that is neither letter nor digit. So `X_User_Id` and `x.user.id` arrive
//! there as the same variable as our `X-User-Id`. Names are compared with all of that folded to
//! `-`, and a twin (an equal in another spelling) of a name that matters is always dropped
//! (oauth2-proxy CVE-2025-64484, Traefik CVE-2026-54763).

/// Longest name that is compared as a whole; longer ones match by prefix only.
pub(super) const MAX_NAME_BYTES: usize = 64;

/// What to do about a request header that is none of [`Known`](crate::message::Known).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Passed on.
    Keep,
    /// Never passed on.
    Drop,
    /// Metadata of a forwarding proxy; believed from a trusted peer.
    Forwarding,
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

    /// `name` in any case.
    pub(super) fn classify(&self, name: &[u8]) -> Class {
        let first = name.first().map_or(0, u8::to_ascii_lowercase);
        if !self.starts[usize::from(first)] {
            return Class::Keep;
        }
        let mut buffer = [0; MAX_NAME_BYTES];
        let folded = fold(name, &mut buffer);
        if self.is_identity(folded) {
            return Class::Drop;
        }
        let plain = name.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-');
        if plain {
            classify_fixed(folded)
        } else if is_watched(folded) {
            // A twin.
            Class::Drop
        } else {
            Class::Keep
        }
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

/// First bytes of everything in [`classify_fixed`] and [`OURS`].
const FIXED_STARTS: &[u8] = b"acefhkptux";

/// Whether a folded name means something to the gateway, so that nobody else may use it.
pub(super) fn is_watched(folded: &[u8]) -> bool {
    classify_fixed(folded) != Class::Keep
        || folded.starts_with(b"x-forwarded-")
        || OURS.contains(&folded)
}

/// Names with a meaning of their own in every request; their twins are dropped.
const OURS: [&[u8]; 9] = [
    b"authorization",
    b"connection",
    b"content-length",
    b"expect",
    b"forwarded",
    b"te",
    b"transfer-encoding",
    b"upgrade",
    b"x-request-id",
];

/// `name` is folded, or needs no folding, and none of [`Known`](crate::message::Known).
fn classify_fixed(name: &[u8]) -> Class {
    match name {
        // Hop-by-hop (RFC 9110 §7.6.1); `Proxy` is a CGI variable (httpoxy, CVE-2016-5385).
        b"http2-settings"
        | b"keep-alive"
        | b"proxy"
        | b"trailer"
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
            ("x_request_id", Class::Drop),
            ("AUTHORIZATION_", Class::Keep),
            ("X-USER-ID", Class::Drop),
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
            ("proxy-connection", Class::Drop),
            ("proxy_x", Class::Drop),
            ("x_forwarded_for", Class::Drop),
            ("x-forwarded-prefix", Class::Forwarding),
            ("x-forwarded_prefix", Class::Drop),
            ("x-real.ip", Class::Drop),
            ("x_forwarded", Class::Drop),
        ] {
            assert_eq!(names.classify(name.as_bytes()), class, "{name}");
        }
        let long = format!("x-forwarded-{}", "a".repeat(200));
        assert_eq!(names.classify(long.as_bytes()), Class::Forwarding);
        assert_eq!(names.classify(long.replace('-', "_").as_bytes()), Class::Drop);
        assert_eq!(
            names.classify(format!("x-user-id{}_", "a".repeat(100)).as_bytes()),
            Class::Keep
        );
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
        assert!(OURS.iter().all(|name| starts(name[0])));
    }
}
