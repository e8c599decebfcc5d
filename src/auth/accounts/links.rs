//! Asking for letters. Whoever asks learns nothing of accounts, not even by the time it takes:
//! nobody is looked up here. The wish is stored as it came; who has the address, and whether
//! anything is sent, is found out when the letter is made.

use jiff::Timestamp;

use super::admin::Administrator;
use super::session::later;
use super::{Accounts, Bearer, MAX_EMAIL, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input::{self, InputError};
use crate::auth::otp;
use crate::model::{
    Challenge, Email, Event, EventKind, JsonObject, Letter, LetterKind, Outcome, PasswordHash,
    Purpose, User, UserId, clean_text, uuid_v7,
};
use crate::store::{NewParcel, Parcel, SignUpAttempt};

/// Letters that somebody asks for, who may be anybody.
pub struct Wish {
    /// What they are about.
    pub kinds: &'static [LetterKind],
    /// Where they go; of a change of address, the present one.
    pub email: Email,
    /// Whether an account may be made for the address, with this metadata.
    pub account: Option<JsonObject>,
    /// Where the link is to lead.
    pub redirect_to: Option<String>,
    /// The challenge of the client that asks.
    pub challenge: Option<Challenge>,
}

impl Accounts {
    /// Stores a wish for letters. `event` is what it is called in the record.
    ///
    /// # Errors
    /// [`AuthError::EmailProviderDisabled`] where no letters leave, [`AuthError::Unavailable`] when
    /// too many wait; what storing may meet.
    pub async fn ask(
        &self,
        wish: Wish,
        event: EventKind,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        self.letters_leave()?;
        let now = self.clock.now();
        let event = asked(&wish, event, origin, now);
        let parcels: Vec<_> =
            wish.kinds.iter().map(|&kind| self.parcel(&wish, kind, None, origin, now)).collect();
        self.post(&parcels, &[event]).await
    }

    /// Stores a sign-up. Its account begins when the link in the letter is used. The user that is
    /// returned is made of the request alone, the same for an address that has an account.
    ///
    /// # Errors
    /// [`AuthError::EmailProviderDisabled`] where no letters leave; what hashing and storing may
    /// meet.
    pub async fn sign_up_by_letter(
        &self,
        new: input::SignUp,
        redirect_to: Option<&str>,
        origin: &Origin,
    ) -> Result<User, AuthError> {
        self.letters_leave()?;
        let input::SignUp { email, password, user_metadata, challenge } = new;
        let password = self.hasher.hash(password).await?;
        let now = self.clock.now();
        let user = user_to_be(&email, user_metadata.clone(), now);
        let wish = Wish {
            kinds: &[LetterKind::Confirmation],
            email,
            account: Some(user_metadata),
            redirect_to: redirect_to.map(str::to_owned),
            challenge,
        };
        let event = asked(&wish, EventKind::ConfirmationRequested, origin, now);
        let until = later(now, self.links.lifetime.0);
        let attempt = SignUpAttempt::new(&wish.email, origin.address, password.clone(), until);
        let parcel = self.parcel(&wish, LetterKind::Confirmation, Some(password), origin, now);
        self.post_sign_up(&parcel, &attempt, &event).await?;
        Ok(user)
    }

    /// A letter that is wished for.
    fn parcel(
        &self,
        wish: &Wish,
        kind: LetterKind,
        password: Option<PasswordHash>,
        origin: &Origin,
        now: Timestamp,
    ) -> NewParcel {
        let letter = Letter {
            may_create: wish.account.is_some(),
            redirect_to: Some(self.redirects.choose(wish.redirect_to.as_deref()).into()),
            challenge: wish.challenge.clone(),
            password,
            user_metadata: wish.account.clone(),
            ..Letter::new(kind, wish.email.clone(), origin.asked_by())
        };
        NewParcel { id: uuid_v7(now), parcel: Parcel::Mail(letter), at: now }
    }

    /// Has an administrator invite the owner of an address. The user that is returned is the account
    /// there is, or one made of the request.
    ///
    /// # Errors
    /// [`AuthError::EmailExists`] when the address is proved, [`AuthError::UserBanned`],
    /// [`AuthError::EmailProviderDisabled`]; what storing may meet.
    pub async fn invite(
        &self,
        admin: &Administrator,
        wanted: input::LetterWanted,
        redirect_to: Option<&str>,
    ) -> Result<User, AuthError> {
        self.letters_leave()?;
        let now = self.clock.now();
        let account = self.store.account_by_email(&wanted.email).await.map_err(failed)?;
        let user = match account.map(|account| account.user) {
            Some(user) if user.email_confirmed_at.is_some() => return Err(AuthError::EmailExists),
            Some(user) if user.is_disabled(now) => return Err(AuthError::UserBanned),
            Some(user) => user,
            None => user_to_be(&wanted.email, wanted.user_metadata.clone(), now),
        };
        let event = Event {
            email: Some(clean_text(wanted.email.address().as_bytes(), MAX_EMAIL)),
            ..admin.event(EventKind::Invited, Some(&user.id), now)
        };
        let letter = Letter {
            may_create: true,
            redirect_to: Some(self.redirects.choose(redirect_to).into()),
            user_metadata: Some(wanted.user_metadata),
            new_id: Some(user.id.clone()),
            actor: Some(admin.id().to_string()),
            ..Letter::new(LetterKind::Invite, wanted.email, admin.origin().asked_by())
        };
        let parcel = NewParcel { id: uuid_v7(now), parcel: Parcel::Mail(letter), at: now };
        self.post(&[parcel], &[event]).await?;
        Ok(User { invited_at: Some(now), ..user })
    }

    /// Has a code sent to the bearer, to show again who has the session.
    ///
    /// # Errors
    /// [`AuthError::EmailNotConfirmed`], [`AuthError::EmailProviderDisabled`],
    /// [`AuthError::SessionNotFound`], and what storing may meet.
    pub async fn reauthenticate(
        &self,
        bearer: &Bearer,
        user: &User,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        self.letters_leave()?;
        if user.email_confirmed_at.is_none() {
            return Err(AuthError::EmailNotConfirmed);
        }
        let email = address_of(user)?;
        let now = self.clock.now();
        let event = Event {
            user_id: Some(bearer.user_id.clone()),
            session_id: Some(bearer.session_id),
            ..origin.event(EventKind::ReauthenticationRequested, Outcome::Success, now)
        };
        let letter = Letter {
            user_id: Some(bearer.user_id.clone()),
            session_id: Some(bearer.session_id),
            ..Letter::new(LetterKind::Reauthentication, email, origin.asked_by())
        };
        let parcel = NewParcel { id: uuid_v7(now), parcel: Parcel::Mail(letter), at: now };
        self.post(&[parcel], &[event]).await
    }

    /// The letters that a change of address needs.
    pub(super) fn letters_of_change(
        &self,
        user: &User,
        new: &Email,
        asks_current: bool,
        change: &input::UpdateUser,
        origin: &Origin,
    ) -> Result<Vec<NewParcel>, AuthError> {
        let now = self.clock.now();
        let mut sides = vec![(LetterKind::EmailChangeNew, new.clone())];
        if asks_current {
            sides.push((LetterKind::EmailChangeCurrent, address_of(user)?));
        }
        let parcel = |(kind, email)| {
            let letter = Letter {
                user_id: Some(user.id.clone()),
                redirect_to: Some(self.redirects.choose(change.redirect_to.as_deref()).into()),
                challenge: change.challenge.clone(),
                new_email: Some(new.clone()),
                ..Letter::new(kind, email, origin.asked_by())
            };
            NewParcel { id: uuid_v7(now), parcel: Parcel::Mail(letter), at: now }
        };
        Ok(sides.into_iter().map(parcel).collect())
    }

    /// Tells the user of a new password, who may not have been the one that set it.
    pub(super) fn notice_of_password(
        &self,
        user: &User,
        email: &Email,
        origin: &Origin,
    ) -> NewParcel {
        let now = self.clock.now();
        let letter = Letter {
            user_id: Some(user.id.clone()),
            ..Letter::new(LetterKind::PasswordChanged, email.clone(), origin.asked_by())
        };
        NewParcel { id: uuid_v7(now), parcel: Parcel::Mail(letter), at: now }
    }

    /// Whether this is the code that was mailed to the session.
    pub(super) async fn is_nonce(
        &self,
        bearer: &Bearer,
        email: &Email,
        digits: &str,
    ) -> Result<bool, AuthError> {
        let code = otp::code_mac(Purpose::Reauthentication, email, digits);
        let (user, session) = (&bearer.user_id, &bearer.session_id);
        self.store.check_nonce(user, session, code, self.clock.now()).await.map_err(failed)
    }
}

/// The event of a wish.
fn asked(wish: &Wish, kind: EventKind, origin: &Origin, now: Timestamp) -> Event {
    Event {
        email: Some(clean_text(wish.email.address().as_bytes(), MAX_EMAIL)),
        ..origin.event(kind, Outcome::Success, now)
    }
}

/// An account as a request describes it, before anything is stored.
fn user_to_be(email: &Email, user_metadata: JsonObject, now: Timestamp) -> User {
    User { user_metadata, ..User::new(UserId::generate(now), email.address(), now) }
}

/// An address that was imported may be one that nothing can be sent to.
pub(super) fn address_of(user: &User) -> Result<Email, AuthError> {
    let unsendable = || InputError::Invalid("No mail can be sent to the address".to_owned());
    user.email.parse().map_err(|_| unsendable().into())
}
