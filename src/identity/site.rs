//! Which pages may act by a cookie. A browser sends a cookie whoever makes it send the request, so
//! the word of a cookie counts only when the request says which page it comes from, and that is one
//! of ours or one that `[cors]` trusts with credentials (OWASP, "Cross-Site Request Forgery
//! Prevention", Fetch Metadata and the check of `Origin`). Tokens in `Authorization` need none of
//! this: no page can make a browser add them.

use http::Method;
use url::Url;

use crate::config::Config;
use crate::message::{Fields, Known};

/// What is known of the page that a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// It may act by a cookie.
    Trusted,
    /// It may not, or the request does not say which it is.
    Foreign,
}

/// Whether a request acts: what a page of another site must not make a browser do. The handshake of
/// a WebSocket is a `GET`, but what follows acts.
pub fn acts(method: &Method, websocket: bool) -> bool {
    !method.is_safe() || websocket
}

/// How a request came to us.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Over TLS.
    pub over_tls: bool,
    /// From a peer whose `X-Forwarded-Proto` and `X-Forwarded-Host` are believed.
    pub peer_is_trusted: bool,
}

/// The origins that may act by a cookie, beside the one that a request was sent to.
#[derive(Debug)]
pub struct Sites {
    /// The site's own, where a proxy hides which one the browser knows.
    own: Option<Box<str>>,
    /// `cors.allowed_origins`, when they may send credentials.
    allowed: Vec<Box<str>>,
}

impl Sites {
    /// Those of a configuration. Origins to which `[cors]` grants no credentials are not among them:
    /// they may read what everybody may, not act for somebody.
    pub fn compile(config: &Config) -> Self {
        let own = config.site_url().and_then(|url| Url::parse(&url).ok());
        let own = own.map(|url| url.origin()).filter(url::Origin::is_tuple);
        let named = config.cors.allowed_origins.iter().filter(|origin| *origin != "*");
        let named = named.filter(|_| config.cors.allow_credentials);
        Self {
            own: own.map(|origin| origin.ascii_serialization().into()),
            allowed: named.map(|origin| origin.as_str().into()).collect(),
        }
    }

    /// The page that a request with these fields comes from.
    pub fn page(&self, fields: Fields<'_>, arrival: Arrival) -> Page {
        if self.is_trusted(fields, arrival) { Page::Trusted } else { Page::Foreign }
    }

    fn is_trusted(&self, fields: Fields<'_>, arrival: Arrival) -> bool {
        let (Ok(site), Ok(origin)) = (fields.sole(Known::SecFetchSite), fields.sole(Known::Origin))
        else {
            return false;
        };
        match (site, origin) {
            // `none`: somebody typed the address, or opened a bookmark.
            (Some(b"same-origin" | b"none"), _) => true,
            (Some(_), Some(origin)) => self.allows(origin),
            (None, Some(origin)) => self.allows(origin) || self.is_own(origin, fields, arrival),
            (_, None) => false,
        }
    }

    fn allows(&self, origin: &[u8]) -> bool {
        self.allowed.iter().any(|allowed| allowed.as_bytes() == origin)
    }

    /// Whether the request was sent to the origin that it comes from.
    fn is_own(&self, origin: &[u8], fields: Fields<'_>, arrival: Arrival) -> bool {
        if self.own.as_deref().is_some_and(|own| own.as_bytes() == origin) {
            return true;
        }
        let believed =
            |known| fields.sole(known).ok().flatten().filter(|_| arrival.peer_is_trusted);
        let is_https = match believed(Known::XForwardedProto) {
            Some(proto) if proto.eq_ignore_ascii_case(b"https") => true,
            Some(proto) if proto.eq_ignore_ascii_case(b"http") => false,
            _ => arrival.over_tls,
        };
        let host = believed(Known::XForwardedHost).or_else(|| fields.first(Known::Host));
        // A browser leaves the port of the scheme out of both.
        let (scheme, port): (&[u8], &[u8]) =
            if is_https { (b"https://", b":443") } else { (b"http://", b":80") };
        let Some((authority, host)) = origin.strip_prefix(scheme).zip(host) else { return false };
        authority.eq_ignore_ascii_case(host.strip_suffix(port).unwrap_or(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FieldList;

    const HERE: Arrival = Arrival { over_tls: true, peer_is_trusted: false };

    fn sites(credentials: bool) -> Sites {
        let mut config = Config::default();
        config.links.site_url = Some("https://www.example/welcome".to_owned());
        config.cors.allowed_origins = vec!["https://app.example".to_owned(), "*".to_owned()];
        config.cors.allow_credentials = credentials;
        Sites::compile(&config)
    }

    fn page(sites: &Sites, lines: &[(&str, &str)], arrival: Arrival) -> Page {
        let list: FieldList = [("host", "api.example")].iter().chain(lines).copied().collect();
        sites.page(list.view(), arrival)
    }

    #[test]
    fn a_page_is_trusted_by_what_the_browser_says_of_it() {
        let (site, origin) = ("sec-fetch-site", "origin");
        for (lines, expected) in [
            // Browsers say it themselves, and no page can change that.
            (&[(site, "same-origin")] as &[_], Page::Trusted),
            (&[(site, "none")], Page::Trusted),
            (&[(site, "same-origin"), (origin, "https://api.example")], Page::Trusted),
            (&[(site, "same-origin"), (origin, "null")], Page::Trusted),
            (&[(site, "same-site")], Page::Foreign),
            (&[(site, "cross-site")], Page::Foreign),
            (&[(site, "cross-site"), (origin, "https://evil.example")], Page::Foreign),
            (&[(site, "cross-site"), (origin, "null")], Page::Foreign),
            (&[(site, "same-site"), (origin, "https://app.example")], Page::Trusted),
            (&[(site, "cross-site"), (origin, "https://app.example")], Page::Trusted),
            // It says that the page is of another origin, so it is not this one's.
            (&[(site, "same-site"), (origin, "https://api.example")], Page::Foreign),
            (&[(site, "cross-site"), (origin, "https://www.example")], Page::Foreign),
            // Words that no browser says.
            (&[(site, "")], Page::Foreign),
            (&[(site, "Same-Origin")], Page::Foreign),
            (&[(site, "same-origin, cross-site")], Page::Foreign),
            (&[(site, "same-origin"), (site, "same-origin")], Page::Foreign),
            // Old browsers say only this.
            (&[(origin, "https://api.example")], Page::Trusted),
            (&[(origin, "https://API.example")], Page::Trusted),
            (&[(origin, "https://www.example")], Page::Trusted),
            (&[(origin, "https://app.example")], Page::Trusted),
            (&[(origin, "http://api.example")], Page::Foreign),
            (&[(origin, "https://api.example:8443")], Page::Foreign),
            (&[(origin, "https://api.example.evil.example")], Page::Foreign),
            (&[(origin, "https://xapi.example")], Page::Foreign),
            (&[(origin, "https://app.example:443")], Page::Foreign),
            (&[(origin, "https://api.example/")], Page::Foreign),
            (&[(origin, "api.example")], Page::Foreign),
            (&[(origin, "null")], Page::Foreign),
            (&[(origin, "*")], Page::Foreign),
            (&[(origin, "")], Page::Foreign),
            (&[(origin, "https://api.example"), (origin, "https://api.example")], Page::Foreign),
            (&[], Page::Foreign),
        ] {
            assert_eq!(page(&sites(true), lines, HERE), expected, "{lines:?}");
        }
    }

    #[test]
    fn origins_without_credentials_are_not_trusted() {
        for lines in [
            &[("origin", "https://app.example")] as &[_],
            &[("sec-fetch-site", "same-site"), ("origin", "https://app.example")],
        ] {
            assert_eq!(page(&sites(false), lines, HERE), Page::Foreign, "{lines:?}");
        }
    }

    #[test]
    fn the_own_origin_is_what_the_browser_sees_of_us() {
        let plain = Arrival { over_tls: false, peer_is_trusted: false };
        let proxied = Arrival { over_tls: false, peer_is_trusted: true };
        let forwarded: &[(&str, &str)] =
            &[("x-forwarded-proto", "https"), ("x-forwarded-host", "shop.example:8443")];
        for (host, lines, origin, arrival, expected) in [
            ("a.example:8080", &[] as &[_], "http://a.example:8080", plain, Page::Trusted),
            ("a.example:80", &[], "http://a.example", plain, Page::Trusted),
            ("a.example:443", &[], "https://a.example", HERE, Page::Trusted),
            ("a.example:443", &[], "http://a.example:443", plain, Page::Trusted),
            ("a.example", &[], "http://a.example:80", plain, Page::Foreign),
            ("[::1]:8080", &[], "http://[::1]:8080", plain, Page::Trusted),
            ("a.example", forwarded, "https://shop.example:8443", proxied, Page::Trusted),
            ("a.example", forwarded, "http://a.example", proxied, Page::Foreign),
            // A client that is no proxy of ours cannot say where it is.
            ("a.example", forwarded, "https://shop.example:8443", plain, Page::Foreign),
            (
                "a.example",
                &[("x-forwarded-proto", "ftp")],
                "http://a.example",
                proxied,
                Page::Trusted,
            ),
        ] {
            let list: FieldList =
                [("host", host), ("origin", origin)].iter().chain(lines).copied().collect();
            assert_eq!(sites(true).page(list.view(), arrival), expected, "{host} {origin}");
        }
    }
}
