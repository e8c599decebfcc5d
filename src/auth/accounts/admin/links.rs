//! Links that an administrator hands on by other ways than a letter of ours.

use std::time::Duration;

use url::Url;

use super::super::delivery::link_address;
use super::super::links::address_of;
use super::super::session::later;
use super::super::{Accounts, MAX_EMAIL, failed};
use super::Administrator;
use crate::auth::error::AuthError;
use crate::auth::input;
use crate::auth::otp;
use crate::clock::random_bytes;
use crate::config::EmailChange;
use crate::identity::OpaqueToken;
use crate::model::{Email, Event, EventKind, Purpose, User, UserId, clean_text};
use crate::store::{Consent, LinkOwner, NewEmail, NewLink, PutLink, UserChange};

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

impl Accounts {
    /// Makes a link in place of an earlier one of the same user and purpose. Nothing is mailed.
    /// Without an account, all but a recovery and a change of address make one.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`], [`AuthError::EmailExists`] when the purpose is an address that is
    /// proved, or a new one that another account has, [`AuthError::UserBanned`],
    /// [`AuthError::WeakPassword`]; what hashing and storing may meet.
    pub async fn make_link(
        &self,
        admin: &Administrator,
        wanted: input::LinkWanted,
    ) -> Result<MadeLink, AuthError> {
        let now = self.clock.now();
        let password = match &wanted.password {
            Some(password) if wanted.purpose == Purpose::Signup => {
                Some(self.hash_checked(password, Some(&wanted.email)).await?)
            }
            _ => None,
        };
        let (owner, to) = match wanted.new_email.clone().filter(|_| is_change(wanted.purpose)) {
            Some(new) => self.wish(admin, &wanted, new).await?,
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
            user_metadata: Some(wanted.user_metadata),
            new_email: wanted.new_email,
            session_id: None,
            now,
            expires_at: later(now, self.lifetime_of(wanted.purpose)),
        };
        let made = admin.event(EventKind::UserCreated, None, now);
        let stored = self.store.put_link(&link, Duration::ZERO, &made).await.map_err(failed)?;
        let user = match stored {
            PutLink::Stored(user) => user,
            PutLink::AddressTaken(_) => return Err(AuthError::EmailExists),
            PutLink::Disabled => return Err(AuthError::UserBanned),
            PutLink::NoUser | PutLink::TooSoon => return Err(AuthError::UserNotFound),
        };
        // Nobody has the link yet: without its event it is worth nothing.
        let event = Event {
            reason: Some(wanted.purpose.as_str().to_owned()),
            email: Some(clean_text(link.email.address().as_bytes(), MAX_EMAIL)),
            ..admin.event(EventKind::LinkGenerated, Some(&user.id), now)
        };
        self.store.record(&[event]).await.map_err(failed)?;
        let token = token.expose();
        let address =
            link_address(&self.tokens.issuer, &token, wanted.purpose, link.redirect_to.as_deref());
        let address = Url::parse(&address).map_err(|error| AuthError::Internal(error.into()))?;
        Ok(MadeLink { user, address, token, digits, redirect_to, purpose: wanted.purpose })
    }

    /// Notes a wish for another address, unless it is the present one, and says whose link it takes
    /// and where that is sent.
    async fn wish(
        &self,
        admin: &Administrator,
        wanted: &input::LinkWanted,
        new: Email,
    ) -> Result<(LinkOwner, Email), AuthError> {
        let account = self.store.account_by_email(&wanted.email).await.map_err(failed)?;
        let user = account.ok_or(AuthError::UserNotFound)?.user;
        let taken = self.store.account_by_email(&new).await.map_err(failed)?;
        if taken.is_some() {
            return Err(AuthError::EmailExists);
        }
        let now = self.clock.now();
        let is_wished = user
            .new_email
            .as_ref()
            .is_some_and(|wish| wish.parse::<Email>().is_ok_and(|wish| wish.key() == new.key()));
        if !is_wished {
            let asks_current =
                user.email_confirmed_at.is_some() && self.links.email_change == EmailChange::Both;
            let consent = if asks_current { Consent::Both } else { Consent::New };
            let new_email = Some(NewEmail { email: new.clone(), consent });
            let change = UserChange { new_email, ..UserChange::default() };
            self.store_change(admin, &user.id, &change, now).await?;
        }
        let to = match wanted.purpose {
            Purpose::EmailChangeCurrent => address_of(&user)?,
            _ => new,
        };
        Ok((LinkOwner::Id(user.id), to))
    }
}

fn is_change(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::EmailChangeCurrent | Purpose::EmailChangeNew)
}
