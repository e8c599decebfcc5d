//! Letters and the links in them.

use super::Found;
use crate::config::{Config, MailTransport};
use crate::outgoing::Peer;

pub(super) fn links(config: &Config, found: &mut Found) {
    for (key, interval) in [
        ("links.lifetime", config.links.lifetime),
        ("links.invite_lifetime", config.links.invite_lifetime),
        ("links.code_lifetime", config.links.code_lifetime),
        ("mail.max_age", config.mail.max_age),
    ] {
        found.not_zero(key, interval);
    }
    if let Some(Err(message)) = config.links.site_url.as_deref().map(check_site) {
        found.add("links.site_url", message);
    }
}

/// Letters speak of the site, and tokens are sent there.
fn check_site(site: &str) -> Result<(), &'static str> {
    parse(site).map(drop)
}

/// Links in letters begin with the issuer, and their tokens are sent there.
fn check_issuer(issuer: &str, prefix: &str) -> Result<(), String> {
    let why = "links in letters begin with it";
    let url = parse(issuer).map_err(|message| format!("{message}; {why}"))?;
    // `/auth/v1` is served as `/auth` is.
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path);
    if path.ends_with(prefix.trim_end_matches('/')) {
        Ok(())
    } else {
        Err(format!("must end in `{prefix}`, as server.auth_prefix does: {why}"))
    }
}

/// An address that tokens may be sent to.
fn parse(address: &str) -> Result<url::Url, &'static str> {
    const FORM: &str = "must be an address such as \"https://app.example.com\"";
    let url = url::Url::parse(address).map_err(|_| FORM)?;
    let (Some(host), Some(port), "http" | "https") =
        (url.host_str(), url.port_or_known_default(), url.scheme())
    else {
        return Err(FORM);
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user or password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a query or fragment");
    }
    let is_here = Peer::new(host, port).is_ok_and(|peer| peer.is_loopback());
    if url.scheme() == "http" && !is_here {
        return Err(
            "must begin with https://: tokens are sent there. http:// is for this machine \
                    only",
        );
    }
    Ok(url)
}

pub(super) fn mail(config: &Config, found: &mut Found) {
    let mail = &config.mail;
    found.not_zero("mail.timeout", mail.timeout);
    if !(1..=64).contains(&mail.concurrency) {
        found.add("mail.concurrency", "must be from 1 to 64");
    }
    if mail.max_waiting == 0 {
        found.add("mail.max_waiting", "must be at least 1");
    }
    match mail.transport {
        MailTransport::Smtp => {
            if mail.url.is_none() {
                let message = "is missing: transport \"smtp\" needs the mail server, such as \
                               smtps://USER:PASSWORD@mail.example.com";
                found.add("mail.url", message);
            }
            if mail.from.is_none() {
                let message = "is missing: letters need a sender, such as \
                               \"Example <no-reply@example.com>\"";
                found.add("mail.from", message);
            }
        }
        MailTransport::Webhook if mail.webhook.is_none() => {
            found.add("mail.webhook", "is missing: transport \"webhook\" needs its url and secret");
        }
        MailTransport::None | MailTransport::Webhook | MailTransport::Log => {}
    }
    if config.signup.confirm_email && mail.transport == MailTransport::None {
        let message = "needs letters: set mail.transport";
        found.add("signup.confirm_email", message);
    }
    if mail.transport != MailTransport::None
        && let Err(message) = check_issuer(&config.tokens.issuer, &config.server.auth_prefix)
    {
        found.add("tokens.issuer", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_begin_with_an_address_of_the_endpoints() {
        for (issuer, prefix, is_fine) in [
            ("https://a.example/auth", "/auth", true),
            ("https://a.example/auth/", "/auth", true),
            ("https://a.example/auth/v1", "/auth", true),
            ("https://a.example/shop/auth", "/auth", true),
            ("https://a.example/id", "/id", true),
            ("https://a.example", "/auth", false),
            ("https://a.example/v1", "/auth", false),
            ("https://a.example/oauth", "/auth", false),
            ("https://a.example/auth/v2", "/auth", false),
            ("https://a.example/x?y=/auth", "/auth", false),
        ] {
            assert_eq!(check_issuer(issuer, prefix).is_ok(), is_fine, "{issuer} {prefix}");
        }
    }
}
