//! Sessions that a browser keeps in cookies: which requests ask for them and may, what is read from
//! them, and how they are set and taken back. A token that came in a cookie never leaves in a body,
//! where a script could read it.

use http::HeaderValue;
use http::header::COOKIE;
use jiff::Timestamp;

use super::{Auth, AuthRequest, Seen};
use crate::auth::accounts::{Issued, Keeper};
use crate::auth::error::AuthError;
use crate::config::SameSite;
use crate::identity::Page;
use crate::identity::cookies::{ACCESS, REFRESH, Several, sole};

impl Auth {
    /// Who is to keep the tokens of the answer: the query says it.
    ///
    /// Who may ask for cookies is looked at before anything else: a page of another site could log
    /// its visitor in to an account of its own, and wait for what is entered there.
    pub(super) fn keeper(&self, request: &AuthRequest) -> Result<Keeper, AuthError> {
        let is_enabled = self.rules.load().cookies.enabled;
        match request.filled_parameter("cookies")?.as_deref() {
            None | Some("false") => return Ok(Keeper::Client),
            Some("true") => {}
            // Where nobody knows of cookies, it is a parameter like any other that means nothing.
            Some(_) if !is_enabled => return Ok(Keeper::Client),
            Some(_) => {
                let sentence = "`cookies` is true or false";
                return Err(AuthError::ValidationFailed(sentence.to_owned()));
            }
        }
        if !is_enabled {
            return Err(AuthError::CookiesDisabled);
        }
        must_be_ours(request)?;
        Ok(Keeper::Browser)
    }

    /// The value of a cookie of ours; none while they are off.
    pub(super) fn cookie<'r>(
        &self,
        request: &'r AuthRequest,
        name: &str,
    ) -> Result<Option<&'r [u8]>, AuthError> {
        if !self.rules.load().cookies.enabled {
            return Ok(None);
        }
        kept(request, name).map_err(|Several| AuthError::MalformedCredential)
    }

    /// Has the browser keep a session.
    pub(super) fn set_cookies(&self, issued: &Issued, seen: &mut Seen) -> Result<(), AuthError> {
        let same_site = self.rules.load().cookies.same_site;
        let left = |until: Timestamp| until.as_second().saturating_sub(issued.at.as_second());
        let access_ends = issued.tokens.expires_at.saturating_sub(issued.at.as_second());
        let refresh_ends = left(issued.refresh_ends);
        for (name, value, seconds) in [
            (ACCESS, &issued.tokens.access_token, access_ends),
            (REFRESH, &issued.tokens.refresh_token, refresh_ends),
        ] {
            let cookie = worded(name, value, seconds.max(0), same_site);
            seen.cookies.push(cookie.map_err(|error| AuthError::Internal(error.into()))?);
        }
        Ok(())
    }

    /// Has the browser forget a session.
    pub(super) fn clear_cookies(&self, seen: &mut Seen) {
        let same_site = self.rules.load().cookies.same_site;
        let cleared = [ACCESS, REFRESH].into_iter();
        seen.cookies = cleared.filter_map(|name| worded(name, "", 0, same_site).ok()).collect();
    }
}

/// Refuses to a page of another site what is a `GET` and yet leaves a trace: a letter, an event, a
/// count. `bearer` refuses the other methods.
pub(super) fn must_be_ours_by_cookie(request: &AuthRequest, seen: &Seen) -> Result<(), AuthError> {
    if seen.by_cookie { must_be_ours(request) } else { Ok(()) }
}

/// Refuses what a page of another site would do by a cookie.
pub(super) fn must_be_ours(request: &AuthRequest) -> Result<(), AuthError> {
    match request.page {
        Page::Trusted => Ok(()),
        Page::Foreign => Err(AuthError::CrossSite),
    }
}

/// The value of a cookie of ours that the browser keeps, also while they are off.
pub(super) fn kept<'r>(request: &'r AuthRequest, name: &str) -> Result<Option<&'r [u8]>, Several> {
    sole(request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes), name)
}

/// RFC 6265bis §4.1.2, with what `__Host-` asks for: `Secure`, `Path=/` and no `Domain`.
fn worded(
    name: &str,
    value: &str,
    seconds: i64,
    same_site: SameSite,
) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let same_site = match same_site {
        SameSite::Lax => "Lax",
        SameSite::Strict => "Strict",
    };
    let mut cookie = HeaderValue::try_from(format!(
        "{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; Secure; SameSite={same_site}"
    ))?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_say_what_their_names_ask_for_and_fit_into_a_browser() {
        assert_eq!(
            worded(ACCESS, "a.b.c", 60, SameSite::Lax).unwrap(),
            "__Host-portcullis-access=a.b.c; Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Lax"
        );
        // The longest token, for the longest time that the configuration can say.
        let longest = worded(ACCESS, &"x".repeat(3900), i64::from(u32::MAX), SameSite::Strict);
        assert!(longest.unwrap().len() <= 4096);
    }
}
