//! From a wish for a letter to the letter: who has the address is looked up, a token is made, and
//! its digest stored. Whoever asked has had the answer long before, so that what is found out here
//! shows neither in the answer nor in its time.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use super::links::address_of;
use super::{Accounts, MAX_EMAIL, failed};
use crate::auth::error::AuthError;
use crate::auth::otp;
use crate::auth::shapes;
use crate::clock::random_bytes;
use crate::config::{self, Notice};
use crate::identity::OpaqueToken;
use crate::mail::{Code, Dispatch, Link};
use crate::model::{
    Email, Event, EventKind, JsonObject, Letter, LetterKind, Outcome, Purpose, Template, User,
    UserId, clean_text, uuid_v7,
};
use crate::store::{Claimed, LinkOwner, NewLink, PutLink};

/// What becomes of a wish for a letter.
pub enum Delivery {
    /// This is to be sent.
    Send(Box<Dispatch>),
    /// Nothing, for this reason.
    Nothing(&'static str),
}

impl Accounts {
    /// Makes a letter of a wish for it. From the second attempt on it takes the place of one that did
    /// not leave, but never of a younger wish's.
    ///
    /// Each attempt at a letter with a link or a code is a letter of its own, with an id of its own:
    /// what is new in it makes the one before worthless, so that a receiver who has taken that one and
    /// drops repetitions must not take it for one. What only tells something keeps the parcel's id.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn deliver(&self, claimed: &Claimed, letter: &Letter) -> Result<Delivery, AuthError> {
        let &Claimed { id, attempt, created_at: asked_at, .. } = claimed;
        let Some(purpose) = purpose_of(letter.kind) else {
            return self.notice(id, letter).await;
        };
        let resolved;
        let letter = if purpose == Purpose::EmailChangeNew && letter.user_id.is_none() {
            match self.wish_of(letter).await? {
                Some(found) => resolved = found,
                None => return Ok(Delivery::Nothing("no_account")),
            }
            &resolved
        } else {
            letter
        };
        let now = self.clock.now();
        let (token, digits) =
            (OpaqueToken::from_random(random_bytes()), otp::digits(random_bytes()));
        let lifetime = lifetime_of(&self.links, purpose);
        let link = NewLink {
            digest: token.digest(),
            owner: owner_of(letter, now),
            purpose,
            email: letter.email.clone(),
            code: Some(otp::code_mac(purpose, &letter.email, &digits)),
            redirect_to: letter.redirect_to.clone(),
            challenge: letter.challenge.clone(),
            password: letter.password.clone(),
            user_metadata: letter.user_metadata.clone(),
            new_email: letter.new_email.clone(),
            session_id: letter.session_id,
            now: asked_at,
            expires_at: now.checked_add(lifetime).unwrap_or(Timestamp::MAX),
        };
        let not_within = if attempt == 1 { self.links.resend_interval.0 } else { Duration::ZERO };
        let begun = Event {
            actor: letter.actor.clone(),
            ..letter_event(letter, beginning_of(letter), Outcome::Success, now)
        };
        let user = match self.store.put_link(&link, not_within, &begun).await.map_err(failed)? {
            PutLink::Stored(user) => user,
            PutLink::TooSoon => return Ok(Delivery::Nothing("too_soon")),
            PutLink::NoUser => return Ok(Delivery::Nothing("no_account")),
            PutLink::Disabled => return Ok(Delivery::Nothing("user_disabled")),
            PutLink::AddressTaken(owner) => {
                let is_told = (letter.may_create || purpose == Purpose::EmailChangeNew)
                    && self.letters.notify(Notice::AlreadyRegistered);
                let Some(to) = address_of(&owner).ok().filter(|_| is_told) else {
                    return Ok(Delivery::Nothing("already_confirmed"));
                };
                let dispatch =
                    self.dispatch(id, Template::AlreadyRegistered, to, letter, &owner, now);
                return Ok(Delivery::Send(Box::new(dispatch)));
            }
        };
        let (id, template) = (uuid_v7(now), template_of(letter.kind));
        let mut dispatch = self.dispatch(id, template, letter.email.clone(), letter, &user, now);
        let code = Code { digits, lifetime };
        dispatch.code = template.has_code().then_some(code);
        dispatch.link = template.has_link().then(|| self.link(&token, purpose, letter, lifetime));
        Ok(Delivery::Send(Box::new(dispatch)))
    }

    /// The letter to the address that the owner of the present one wants, when it is asked for again
    /// by the present one.
    async fn wish_of(&self, letter: &Letter) -> Result<Option<Letter>, AuthError> {
        let account = self.store.account_by_email(&letter.email).await.map_err(failed)?;
        let Some(user) = account.map(|account| account.user) else { return Ok(None) };
        let Some(new) = user.new_email.and_then(|new| new.parse::<Email>().ok()) else {
            return Ok(None);
        };
        let (email, new_email) = (new.clone(), Some(new));
        Ok(Some(Letter { user_id: Some(user.id), email, new_email, ..letter.clone() }))
    }

    /// A letter that only tells something.
    async fn notice(&self, id: Uuid, letter: &Letter) -> Result<Delivery, AuthError> {
        let Some(user_id) = &letter.user_id else { return Ok(Delivery::Nothing("no_account")) };
        let Some(user) = self.store.user(user_id).await.map_err(failed)? else {
            return Ok(Delivery::Nothing("no_account"));
        };
        let (template, now) = (template_of(letter.kind), self.clock.now());
        let mut dispatch = self.dispatch(id, template, letter.email.clone(), letter, &user, now);
        if letter.kind == LetterKind::EmailChanged {
            dispatch.old_email = Some(letter.email.address().to_owned());
        }
        Ok(Delivery::Send(Box::new(dispatch)))
    }

    fn dispatch(
        &self,
        id: Uuid,
        kind: Template,
        to: Email,
        letter: &Letter,
        user: &User,
        now: Timestamp,
    ) -> Dispatch {
        // Metadata of an account that nobody has proved may be somebody else's words.
        let is_proved = user.email_confirmed_at.is_some();
        let data = if is_proved { user.user_metadata.clone() } else { JsonObject::new() };
        let shown = User { user_metadata: data.clone(), ..user.clone() };
        let user_shown: Value = shapes::user(&shown, &self.tokens.audience, now);
        Dispatch {
            id,
            kind,
            to,
            link: None,
            code: None,
            redirect_to: letter.redirect_to.clone(),
            old_email: Some(user.email.clone()),
            new_email: letter
                .new_email
                .as_ref()
                .map(|email| email.address().to_owned())
                .or_else(|| user.new_email.clone()),
            data,
            user: user_shown,
        }
    }

    fn link(
        &self,
        token: &OpaqueToken,
        purpose: Purpose,
        letter: &Letter,
        lifetime: Duration,
    ) -> Link {
        let token_hash = token.expose();
        let redirect_to = letter.redirect_to.as_deref();
        let url = link_address(&self.tokens.issuer, &token_hash, purpose, redirect_to);
        Link { url, token_hash, lifetime }
    }
}

/// How long a link is of use.
pub(super) fn lifetime_of(rules: &config::Links, purpose: Purpose) -> Duration {
    match purpose {
        Purpose::Reauthentication => rules.code_lifetime.0,
        Purpose::Invite => rules.invite_lifetime.0,
        _ => rules.lifetime.0,
    }
}

/// Where a link leads.
pub(super) fn link_address(
    issuer: &str,
    token: &str,
    purpose: Purpose,
    redirect_to: Option<&str>,
) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("token", token).append_pair("type", word_of(purpose));
    if let Some(redirect_to) = redirect_to {
        query.append_pair("redirect_to", redirect_to);
    }
    format!("{}/verify?{}", issuer.trim_end_matches('/'), query.finish())
}

/// The `type` that clients know a purpose by.
pub(crate) fn word_of(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::EmailChangeCurrent | Purpose::EmailChangeNew => "email_change",
        other => other.as_str(),
    }
}

/// An event about a letter: who asked for it, and when. One that asks a new address is nobody's:
/// users see their events, and would see there whether somebody else has the address.
pub(crate) fn letter_event(
    letter: &Letter,
    kind: EventKind,
    outcome: Outcome,
    at: Timestamp,
) -> Event {
    Event {
        id: uuid_v7(at),
        at,
        kind,
        outcome,
        reason: None,
        actor: None,
        user_id: letter.user_id.clone().filter(|_| letter.kind != LetterKind::EmailChangeNew),
        email: Some(clean_text(letter.email.address().as_bytes(), MAX_EMAIL)),
        session_id: None,
        address: letter.asked_by.address,
        user_agent: letter.asked_by.user_agent.clone(),
        request_id: letter.asked_by.request_id.clone(),
    }
}

/// What the link in a letter is good for; `None` = there is none.
fn purpose_of(kind: LetterKind) -> Option<Purpose> {
    Some(match kind {
        LetterKind::Confirmation => Purpose::Signup,
        LetterKind::EmailChangeCurrent => Purpose::EmailChangeCurrent,
        LetterKind::EmailChangeNew => Purpose::EmailChangeNew,
        LetterKind::Invite => Purpose::Invite,
        LetterKind::MagicLink => Purpose::MagicLink,
        LetterKind::Reauthentication => Purpose::Reauthentication,
        LetterKind::Recovery => Purpose::Recovery,
        LetterKind::EmailChanged
        | LetterKind::FactorAdded
        | LetterKind::FactorRemoved
        | LetterKind::PasswordChanged
        | LetterKind::RecoveryCodeUsed => return None,
    })
}

fn template_of(kind: LetterKind) -> Template {
    match kind {
        LetterKind::Confirmation => Template::Confirmation,
        LetterKind::EmailChangeCurrent => Template::EmailChangeCurrent,
        LetterKind::EmailChangeNew => Template::EmailChangeNew,
        LetterKind::EmailChanged => Template::EmailChanged,
        LetterKind::FactorAdded => Template::FactorAdded,
        LetterKind::FactorRemoved => Template::FactorRemoved,
        LetterKind::Invite => Template::Invite,
        LetterKind::MagicLink => Template::MagicLink,
        LetterKind::PasswordChanged => Template::PasswordChanged,
        LetterKind::Reauthentication => Template::Reauthentication,
        LetterKind::Recovery => Template::Recovery,
        LetterKind::RecoveryCodeUsed => Template::RecoveryCodeUsed,
    }
}

/// What the beginning of an account is called that the letter makes.
fn beginning_of(letter: &Letter) -> EventKind {
    if letter.actor.is_some() { EventKind::UserCreated } else { EventKind::Signup }
}

fn owner_of(letter: &Letter, now: Timestamp) -> LinkOwner {
    match (&letter.user_id, letter.may_create) {
        (Some(user), _) => LinkOwner::Id(user.clone()),
        (None, true) => {
            let id = letter.new_id.clone().unwrap_or_else(|| UserId::generate(now));
            LinkOwner::AddressOrNew(id)
        }
        (None, false) => LinkOwner::Address,
    }
}
