//! Links that an administrator hands on by other ways than a letter of ours.

use std::time::Duration;

use url::Url;

use super::super::delivery::{lifetime_of, link_address};
use super::super::links::address_of;
use super::super::session::later;
use super::super::{Accounts, MAX_EMAIL, RETRY_AFTER, failed};
use super::Administrator;
use crate::auth::error::AuthError;
use crate::auth::input;
use crate::auth::otp;
use crate::auth::redirects::Redirects;
use crate::clock::random_bytes;
use crate::config::{self, EmailChange};
use crate::identity::OpaqueToken;
use crate::model::{
    Email, Event, EventKind, PasswordHash, Purpose, User, UserId, clean_text, uuid_v7,
};
use crate::store::{ChangeUser, Consent, LinkOwner, NewEmail, NewLink, PutLink, Store, UserChange};

/// A link, for whoever is to use it.
pub struct MadeLink {
    /// Whose it is.
    pub user: User,
    /// Its address.
    pub address: Url,
    /// The token in it.
    pub token: String,
    /// The code that does the same.
    pub digits: String,
    /// Where it leads.
    pub redirect_to: Url,
    /// What it is good for.
    pub purpose: Purpose,
}

/// What links are made of.
pub struct LinkMaker<'a> {
    /// Where they are kept.
    pub store: &'a Store,
    /// `tokens.issuer`, under which they are followed.
    pub issuer: &'a str,
    /// `[links]`
    pub rules: &'a config::Links,
    /// Where they may lead.
    pub redirects: &'a Redirects,
}

impl Accounts {
    /// Makes a link in place of an earlier one of the same user and purpose. Nothing is mailed.
    /// Without an account, all but a recovery and a change of address make one.
    ///
    /// # Errors
    /// Those of [`LinkMaker::make`], [`AuthError::WeakPassword`]; what hashing may meet.
    pub async fn make_link(
        &self,
        admin: &Administrator,
        wanted: input::LinkWanted,
    ) -> Result<MadeLink, AuthError> {
        let password = match &wanted.password {
            Some(password) if wanted.purpose == Purpose::Signup => {
                Some(self.hash_checked(password, Some(&wanted.email)).await?)
            }
            _ => None,
        };
        let event = admin.event(EventKind::LinkGenerated, None, self.clock.now());
        let maker = LinkMaker {
            store: &self.store,
            issuer: &self.tokens.issuer,
            rules: &self.links,
            redirects: &self.redirects,
        };
        maker.make(wanted, password, &event).await
    }
}

impl LinkMaker<'_> {
    /// Makes a link at the time of `event`, which is stored with what happened to whom filled in.
    /// `password` is that of an account to be.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`], [`AuthError::EmailExists`] when the purpose is an address that is
    /// proved, or a new one that another account has, [`AuthError::UserBanned`],
    /// [`AuthError::ValidationFailed`] when the address need not agree to a change; what storing may
    /// meet.
    pub async fn make(
        &self,
        wanted: input::LinkWanted,
        password: Option<PasswordHash>,
        event: &Event,
    ) -> Result<MadeLink, AuthError> {
        let now = event.at;
        let (owner, to) = match wanted.new_email.clone().filter(|_| is_change(wanted.purpose)) {
            Some(new) => self.wish(&wanted, new, event).await?,
            None if wanted.purpose == Purpose::Recovery => {
                (LinkOwner::Address, wanted.email.clone())
            }
            None => (LinkOwner::AddressOrNew(UserId::generate(now)), wanted.email.clone()),
        };
        let (token, digits) =
            (OpaqueToken::from_random(random_bytes()), otp::digits(random_bytes()));
        let redirect_to = self.redirects.choose(wanted.redirect_to.as_deref());
        let link = NewLink {
            digest: token.digest(),
            owner,
            purpose: wanted.purpose,
            code: Some(otp::code_mac(wanted.purpose, &to, &digits)),
            email: to,
            redirect_to: Some(redirect_to.to_string()),
            challenge: wanted.challenge,
            password,
            // The other links bring nothing, and take nothing from a sign-up that waits for its own.
            user_metadata: makes_account(wanted.purpose).then_some(wanted.user_metadata),
            new_email: wanted.new_email,
            session_id: None,
            now,
            expires_at: later(now, lifetime_of(self.rules, wanted.purpose)),
        };
        let made = Event { kind: EventKind::UserCreated, ..event.clone() };
        let stored = self.store.put_link(&link, Duration::ZERO, &made).await.map_err(failed)?;
        let user = match stored {
            PutLink::Stored(user) => user,
            PutLink::AddressTaken(_) => return Err(AuthError::EmailExists),
            PutLink::Disabled => return Err(AuthError::UserBanned),
            // The wish was there before, and asks one address only, or this one has agreed.
            PutLink::NoUser if is_change(wanted.purpose) => return Err(need_not_agree()),
            PutLink::NoUser => return Err(AuthError::UserNotFound),
            PutLink::TooSoon => {
                let source = "another link for the same was made at the same moment".into();
                return Err(AuthError::Unavailable { retry_after: RETRY_AFTER, source });
            }
        };
        // Nobody has the link yet: without its event it is worth nothing.
        let event = Event {
            id: uuid_v7(now),
            reason: Some(wanted.purpose.as_str().to_owned()),
            email: Some(clean_text(link.email.address().as_bytes(), MAX_EMAIL)),
            user_id: Some(user.id.clone()),
            ..event.clone()
        };
        self.store.record(&[event]).await.map_err(failed)?;
        let token = token.expose();
        let address =
            link_address(self.issuer, &token, wanted.purpose, link.redirect_to.as_deref());
        let address = Url::parse(&address).map_err(|error| AuthError::Internal(error.into()))?;
        Ok(MadeLink { user, address, token, digits, redirect_to, purpose: wanted.purpose })
    }

    /// Notes a wish for another address, unless it is the present one, and says whose link it takes
    /// and where that is sent. What would refuse the link is asked first: the wish is stored before it.
    async fn wish(
        &self,
        wanted: &input::LinkWanted,
        new: Email,
        event: &Event,
    ) -> Result<(LinkOwner, Email), AuthError> {
        let account = self.store.account_by_email(&wanted.email).await.map_err(failed)?;
        let user = account.ok_or(AuthError::UserNotFound)?.user;
        let taken = self.store.account_by_email(&new).await.map_err(failed)?;
        if taken.is_some() {
            return Err(AuthError::EmailExists);
        }
        if user.is_disabled(event.at) {
            return Err(AuthError::UserBanned);
        }
        let is_wished = user
            .new_email
            .as_ref()
            .is_some_and(|wish| wish.parse::<Email>().is_ok_and(|wish| wish.key() == new.key()));
        if !is_wished {
            let asks_current =
                user.email_confirmed_at.is_some() && self.rules.email_change == EmailChange::Both;
            if !asks_current && wanted.purpose == Purpose::EmailChangeCurrent {
                return Err(need_not_agree());
            }
            let consent = if asks_current { Consent::Both } else { Consent::New };
            let new_email = Some(NewEmail { email: new.clone(), consent });
            let change = UserChange { new_email, ..UserChange::default() };
            let changed = self.store.change_user(&user.id, &change, event.at, event).await;
            if changed.map_err(failed)? == ChangeUser::NotFound {
                return Err(AuthError::UserNotFound);
            }
        }
        let to = match wanted.purpose {
            Purpose::EmailChangeCurrent => address_of(&user)?,
            _ => new,
        };
        Ok((LinkOwner::Id(user.id), to))
    }
}

/// Whether the link makes an account where there is none.
fn makes_account(purpose: Purpose) -> bool {
    !is_change(purpose) && purpose != Purpose::Recovery
}

fn need_not_agree() -> AuthError {
    let detail = "This address need not agree to the change, or has agreed";
    AuthError::ValidationFailed(detail.to_owned())
}

fn is_change(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::EmailChangeCurrent | Purpose::EmailChangeNew)
}
