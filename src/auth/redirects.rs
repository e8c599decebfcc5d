//! Where the browser may go after a link: the site, and what `links.redirects` lists. Whoever asks
//! for a link chooses the place, and tokens are sent there, so that nothing else ever gets through.
//!
//! Addresses are parsed once and compared in their normal form: what a browser would make of odd
//! spellings has been decided before anything is compared.

use url::{Host, Url};

use crate::config::{Config, Problem};

/// Longest address, in bytes: it travels in links, which mail programs cut.
const MAX_ADDRESS: usize = 2000;

/// Schemes that run or read something here, instead of going somewhere.
const NEVER: &[&str] = &["about", "blob", "data", "file", "javascript", "vbscript", "view-source"];

/// Where the browser may go. A compiled `[links]`.
pub struct Redirects {
    site: Url,
    listed: Vec<Listed>,
}

/// An entry of `links.redirects`.
enum Listed {
    /// This address.
    Exactly(Url),
    /// All addresses that begin like this one; its path is part of the beginning.
    Below(Url),
    /// All addresses of an app's own scheme.
    Scheme(String),
}

impl Redirects {
    /// Compiles `links.site_url` and `links.redirects`.
    ///
    /// # Errors
    /// What is wrong with the entries.
    pub fn compile(config: &Config) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut listed = Vec::new();
        for (n, text) in config.links.redirects.iter().enumerate() {
            match Listed::parse(text) {
                Ok(entry) => listed.push(entry),
                Err(message) => {
                    problems.push(Problem::new(format!("links.redirects[{n}]"), message));
                }
            }
        }
        // Without an issuer that is an address no letter leaves: validation sees to that.
        let site = config.site_url().and_then(|site| Url::parse(&site).ok());
        let site =
            site.unwrap_or_else(|| Url::parse("http://localhost/").expect("a plain address"));
        if problems.is_empty() { Ok(Self { site, listed }) } else { Err(problems) }
    }

    /// The place that was asked for if it is allowed, else the site.
    pub fn choose(&self, wanted: Option<&str>) -> Url {
        wanted.and_then(|wanted| self.allowed(wanted)).unwrap_or_else(|| self.site.clone())
    }

    /// The address in its normal form if it is allowed.
    fn allowed(&self, text: &str) -> Option<Url> {
        let url = address(text)?;
        // A place of the client's that begins with a fragment could take apart ours.
        if url.fragment().is_some() {
            return None;
        }
        let is_at_site = url.origin().is_tuple() && url.origin() == self.site.origin();
        (is_at_site || self.listed.iter().any(|listed| listed.holds(&url))).then_some(url)
    }
}

impl Listed {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "must be an address such as \"https://app.example.com/welcome\", with \
                            at most one * at the end of its path, or \"myapp://*\"";
        let (beginning, is_open) = match text.strip_suffix('*') {
            Some(beginning) => (beginning, true),
            None => (text, false),
        };
        if beginning.contains(['*', '#']) || is_open && beginning.contains('?') {
            return Err(FORM);
        }
        if let (Some(scheme), true) = (beginning.strip_suffix("://"), is_open) {
            let probe = Url::parse(&format!("{scheme}://x")).map_err(|_| FORM)?;
            if probe.is_special() || NEVER.contains(&probe.scheme()) {
                return Err("must not be open to every host: * stands at the end of a path");
            }
            return Ok(Self::Scheme(probe.scheme().to_owned()));
        }
        let url = address(beginning).ok_or(FORM)?;
        // `https://app.example.com*` would let `https://app.example.com.evil.example` in.
        let has_path = beginning.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        if is_open && !has_path {
            return Err("must have a / before its *, or it would be open to other hosts");
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err("must begin with https://: tokens are sent there. http:// is for this \
                        machine only");
        }
        Ok(if is_open { Self::Below(url) } else { Self::Exactly(url) })
    }

    fn holds(&self, url: &Url) -> bool {
        match self {
            Self::Exactly(listed) => url == listed,
            Self::Below(listed) => {
                let is_there = (url.scheme(), url.host(), url.port())
                    == (listed.scheme(), listed.host(), listed.port());
                is_there && url.path().starts_with(listed.path())
            }
            Self::Scheme(scheme) => url.scheme() == scheme,
        }
    }
}

/// An address that says what it seems to say.
fn address(text: &str) -> Option<Url> {
    // Browsers take a backslash for a slash, and drop tabs and line ends.
    let is_plain = |b: u8| b.is_ascii_graphic() && b != b'\\' || !b.is_ascii();
    if text.len() > MAX_ADDRESS || !text.bytes().all(is_plain) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let (_, rest) = text.split_once("://")?;
    if NEVER.contains(&url.scheme()) || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    // `https:///host` and `https://user@host`, with nothing before the @.
    let authority = rest.split(['/', '?', '#']).next()?;
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    // 2130706433 and 0x7f.1 are 127.0.0.1 to a browser, and something else to a reader.
    if let Some(Host::Ipv4(host)) = url.host()
        && !authority.starts_with(&host.to_string())
    {
        return None;
    }
    Some(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(host)) => host.is_loopback(),
        Some(Host::Ipv6(host)) => host.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(redirects: &[&str]) -> Config {
        let mut config = Config::default();
        config.links.site_url = Some("https://app.example.com/start".to_owned());
        config.links.redirects = redirects.iter().map(|&text| text.to_owned()).collect();
        config
    }

    fn redirects() -> Redirects {
        let listed = [
            "https://shop.example.com/welcome",
            "https://docs.example.com/in/*",
            "https://bücher.example/*",
            "http://localhost:3000/*",
            "myapp://*",
            "other://callback/*",
        ];
        Redirects::compile(&config(&listed)).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    #[test]
    fn what_is_listed_or_at_the_site_is_allowed() {
        for (wanted, chosen) in [
            ("https://app.example.com", "https://app.example.com/"),
            ("https://app.example.com/a?b=c", "https://app.example.com/a?b=c"),
            ("HTTPS://APP.example.com:443/a", "https://app.example.com/a"),
            ("https://shop.example.com/welcome", "https://shop.example.com/welcome"),
            ("https://docs.example.com/in/", "https://docs.example.com/in/"),
            ("https://docs.example.com/in/a/b?c", "https://docs.example.com/in/a/b?c"),
            ("https://docs.example.com/x/../in/a", "https://docs.example.com/in/a"),
            ("https://xn--bcher-kva.example/a", "https://xn--bcher-kva.example/a"),
            ("https://BÜCHER.example/a", "https://xn--bcher-kva.example/a"),
            ("http://localhost:3000/", "http://localhost:3000/"),
            ("myapp://anything/at?all", "myapp://anything/at?all"),
            ("other://callback/x", "other://callback/x"),
        ] {
            assert_eq!(redirects().choose(Some(wanted)).as_str(), chosen, "{wanted}");
        }
    }

    #[test]
    fn everything_else_goes_to_the_site() {
        let long = format!("https://app.example.com/{}", "a".repeat(MAX_ADDRESS));
        for wanted in [
            "",
            "/",
            "//app.example.com/",
            "app.example.com",
            "https:app.example.com",
            "https:/app.example.com",
            "https:///app.example.com",
            "https://evil.example",
            "http://app.example.com/",
            "https://app.example.com:8443/",
            "https://app.example.com.evil.example/",
            "https://app.example.com@evil.example/",
            "https://ann@app.example.com/",
            "https://ann:pw@app.example.com/",
            "https://@app.example.com/",
            "https://app.example.com\\@evil.example/",
            "https://evil.example\\app.example.com/",
            "https://app.example.com/\tx",
            " https://app.example.com/",
            "https://app.example.com/ x",
            "https://app.example.com/#access_token=theirs",
            "https://app.example.com/#",
            "https://shop.example.com/welcome/",
            "https://shop.example.com/welcome?x",
            "https://shop.example.com/",
            "https://docs.example.com/in",
            "https://docs.example.com/in/../out",
            "https://docs.example.com/in/%2e%2e/out",
            "https://docs.example.com.evil.example/in/",
            "http://localhost/",
            "http://localhost:30000/",
            "http://127.0.0.1:3000/",
            "http://2130706433:3000/",
            "other://evil/x",
            "other:callback/x",
            "javascript:alert(1)",
            "javascript://app.example.com/%0aalert(1)",
            "data:text/html,x",
            &long,
        ] {
            let chosen = redirects().choose(Some(wanted));
            assert_eq!(chosen.as_str(), "https://app.example.com/start", "{wanted}");
        }
        assert_eq!(redirects().choose(None).as_str(), "https://app.example.com/start");
    }

    #[test]
    fn entries_that_would_open_more_than_they_say_are_refused() {
        for bad in [
            "",
            "*",
            "app.example.com",
            "https://*",
            "http://*",
            "https://*.example.com/",
            "https://app.example.com*",
            "https://app.example.com:*",
            "https://app.example.com/*/x",
            "https://app.example.com/x?*",
            "https://app.example.com/#x",
            "https://ann@app.example.com/",
            "http://app.example.com/",
            "http://2130706433/",
            "javascript://*",
            "data://*",
            "my app://*",
        ] {
            let problems = Redirects::compile(&config(&[bad])).err();
            assert!(problems.is_some_and(|problems| problems.len() == 1), "{bad}");
        }
    }
}
