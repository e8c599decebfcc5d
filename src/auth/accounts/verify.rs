//! Using links and codes, and what they leave: a session, or a code for the client that asked.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::session::{later, random_uuid};
use super::{Accounts, Issued, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input;
use crate::auth::otp;
use crate::clock::random_bytes;
use crate::config::Notice;
use crate::identity::OpaqueToken;
use crate::identity::refresh::RefreshToken;
use crate::model::{Email, EventKind, Outcome, Purpose};
use crate::store::{self, LinkUse, PkceCode, Shown, TradePkce, UseLink};

/// How long the code of a used link is good for: a client trades it at once, on the page that the
/// browser is sent to. Supabase Auth has the same.
const PKCE_LIFETIME: Duration = Duration::from_mins(5);

/// What a link in a browser led to, and where the browser goes.
pub enum Opened {
    /// A session.
    Session {
        /// The session.
        issued: Box<Issued>,
        /// What the link was for.
        purpose: Purpose,
        /// Where to.
        redirect_to: Url,
    },
    /// A code that the client which asked for the link trades for a session.
    Code {
        /// The code.
        code: SecretString,
        /// Where to.
        redirect_to: Url,
    },
    /// One of two addresses has agreed to a change.
    HalfDone {
        /// Where to.
        redirect_to: Url,
    },
}

impl Accounts {
    /// Uses a link or a code for a session; `None` = one of two addresses agreed to a change, the
    /// other has not yet.
    ///
    /// # Errors
    /// [`AuthError::OtpExpired`] for all that is not good, [`AuthError::EmailExists`],
    /// [`AuthError::TokenTooLarge`], after which the link is as good as before; what storing may meet.
    pub async fn verify(
        &self,
        shown: input::Verify,
        origin: &Origin,
    ) -> Result<Option<Issued>, AuthError> {
        let shown = match shown {
            input::Verify::Link { token_hash, purposes } => {
                shown_link(token_hash.expose_secret(), &purposes)
            }
            input::Verify::Code { email, token, purposes } => {
                shown_code(email, token.expose_secret(), &purposes)
            }
        };
        match self.use_link(shown, None, origin).await? {
            (UseLink::LoggedIn { user, session, .. }, now, refresh_token) => {
                self.issued(user, &session, &refresh_token, origin, now).map(Some)
            }
            (UseLink::HalfDone { .. }, ..) => Ok(None),
            (UseLink::EmailTaken, ..) => Err(AuthError::EmailExists),
            (UseLink::Refused | UseLink::PkceCode { .. }, ..) => Err(AuthError::OtpExpired),
        }
    }

    /// Uses a link that a browser followed, on its way to `hint` unless the link itself leads
    /// elsewhere. A client that showed a challenge gets a code: what is in an address stays in
    /// histories and logs.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub async fn follow(
        &self,
        token: &str,
        purposes: &[Purpose],
        hint: Option<&str>,
        origin: &Origin,
    ) -> Result<Opened, AuthError> {
        let code = OpaqueToken::from_random(random_bytes());
        let shown = shown_link(token, purposes);
        // The configuration may have changed since it was asked for: the place is checked again.
        let place = |row: Option<&str>| self.redirects.choose(row.or(hint));
        match self.use_link(shown, Some(&code), origin).await? {
            (UseLink::LoggedIn { user, session, purpose, redirect_to, .. }, now, refresh_token) => {
                let issued = Box::new(self.issued(user, &session, &refresh_token, origin, now)?);
                Ok(Opened::Session { issued, purpose, redirect_to: place(redirect_to.as_deref()) })
            }
            (UseLink::PkceCode { redirect_to, .. }, ..) => Ok(Opened::Code {
                code: code.expose().into(),
                redirect_to: place(redirect_to.as_deref()),
            }),
            (UseLink::HalfDone { redirect_to, .. }, ..) => {
                Ok(Opened::HalfDone { redirect_to: place(redirect_to.as_deref()) })
            }
            (UseLink::EmailTaken, ..) => Err(AuthError::EmailExists),
            (UseLink::Refused, ..) => Err(AuthError::OtpExpired),
        }
    }

    async fn use_link(
        &self,
        shown: Shown,
        pkce: Option<&OpaqueToken>,
        origin: &Origin,
    ) -> Result<(UseLink, jiff::Timestamp, RefreshToken), AuthError> {
        let now = self.clock.now();
        let (session, refresh_token) = self.new_session(origin, now)?;
        let link_use = LinkUse {
            shown,
            session,
            pkce: pkce.map(|code| PkceCode {
                digest: code.digest(),
                expires_at: later(now, PKCE_LIFETIME),
            }),
            notify_former_address: self.letters.notify(Notice::EmailChanged),
            now,
            event: origin.event(EventKind::LinkUsed, Outcome::Success, now),
        };
        let end = self.store.use_link(&link_use).await.map_err(failed)?;
        if let UseLink::LoggedIn { ended, .. } | UseLink::PkceCode { ended, .. } = &end {
            self.revocations.end(ended.iter().copied());
            // A completed change of address is told to the former one.
            self.letters.ring();
        }
        Ok((end, now, refresh_token))
    }

    /// Trades the code that a link left for a session (RFC 7636 §4.5).
    ///
    /// # Errors
    /// [`AuthError::FlowStateNotFound`], [`AuthError::FlowStateExpired`],
    /// [`AuthError::BadCodeVerifier`], [`AuthError::TokenTooLarge`], and what storing may meet.
    pub async fn trade_code(
        &self,
        shown: &input::Pkce,
        origin: &Origin,
    ) -> Result<Issued, AuthError> {
        let code = OpaqueToken::parse(shown.auth_code.expose_secret());
        let code = code.ok_or(AuthError::FlowStateNotFound)?.digest();
        let now = self.clock.now();
        let (session, refresh_token) = self.new_session(origin, now)?;
        let event = origin.event(EventKind::LinkUsed, Outcome::Success, now);
        let verifier = shown.code_verifier.expose_secret();
        match self.store.trade_pkce(code, verifier, &session, now, &event).await.map_err(failed)? {
            TradePkce::LoggedIn { user, session, ended } => {
                self.revocations.end(ended);
                self.issued(user, &session, &refresh_token, origin, now)
            }
            TradePkce::NotFound => Err(AuthError::FlowStateNotFound),
            TradePkce::Expired => Err(AuthError::FlowStateExpired),
            TradePkce::WrongVerifier => Err(AuthError::BadCodeVerifier),
        }
    }

    /// A session whose user is not known yet, and its first refresh token.
    fn new_session(
        &self,
        origin: &Origin,
        now: jiff::Timestamp,
    ) -> Result<(store::NewSession, RefreshToken), AuthError> {
        let refresh_token = RefreshToken::from_random(random_bytes());
        let session = store::NewSession {
            id: random_uuid(),
            refresh: refresh_token.digest(),
            expires_at: later(now, self.tokens.refresh_lifetime.0),
            access_expires_at: self.access_expires_at(now),
            address: Some(origin.address),
            user_agent: origin.user_agent.clone(),
            max_sessions: self.max_sessions(),
            fit: self.fit(origin, now)?,
        };
        Ok((session, refresh_token))
    }
}

/// What is no token at all is looked up like one: it is refused and recorded alike.
fn shown_link(token: &str, purposes: &[Purpose]) -> Shown {
    let token = OpaqueToken::parse(token);
    let token = token.unwrap_or_else(|| OpaqueToken::from_random(random_bytes()));
    Shown::Link { digest: token.digest(), purposes: purposes.to_vec() }
}

fn shown_code(email: Email, digits: &str, purposes: &[Purpose]) -> Shown {
    let code = |&purpose| (purpose, otp::code_mac(purpose, &email, digits));
    let codes = purposes.iter().map(code).collect();
    Shown::Code { email, codes }
}
