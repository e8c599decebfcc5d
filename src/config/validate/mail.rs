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
    const FORM: &str = "must be an address such as \"https://app.example.com\"";
    let url = url::Url::parse(site).map_err(|_| FORM)?;
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
    Ok(())
}

pub(super) fn mail(config: &Config, found: &mut Found) {
    let mail = &config.mail;
    found.not_zero("mail.timeout", mail.timeout);
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
    if mail.transport != MailTransport::None && config.site_url().is_none() {
        let message = "is missing: tokens.issuer is no address that it could be taken from";
        found.add("links.site_url", message);
    }
}
