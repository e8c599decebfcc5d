//! Changing an account: metadata, password, and the wish for another address.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use super::{Accounts, Bearer, MAX_EMAIL, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input::{self, InputError, MAX_METADATA_BYTES};
use crate::auth::otp;
use crate::auth::password::Verdict;
use crate::config::{EmailChange, Notice};
use crate::model::{
    Account, Email, Event, EventKind, Outcome, PasswordHash, Purpose, User, clean_text,
};
use crate::store::{self, CodeMac, Consent, NewEmail, NewParcel};

/// A login younger than this proves well enough who asks to change a password or an address.
const RECENT_LOGIN: Duration = Duration::from_hours(24);

impl Accounts {
    /// Changes the bearer's metadata and password, and has letters sent to prove another address. A
    /// new password ends every other session unless the bearer wants to keep them. Nothing tells whether the address has an account.
    ///
    /// # Errors
    /// [`AuthError::WeakPassword`], [`AuthError::SamePassword`],
    /// [`AuthError::CurrentPasswordRequired`], [`AuthError::CurrentPasswordInvalid`],
    /// [`AuthError::ReauthenticationNeeded`], [`AuthError::ReauthenticationNotValid`],
    /// [`AuthError::InsufficientAal`], [`AuthError::EmailProviderDisabled`],
    /// [`AuthError::ValidationFailed`] for too much
    /// metadata, [`AuthError::SessionNotFound`] when the account is gone; what hashing and storing
    /// may meet.
    pub async fn update_user(
        &self,
        bearer: &Bearer,
        change: input::UpdateUser,
        origin: &Origin,
    ) -> Result<User, AuthError> {
        if change.user_metadata.is_none() && change.password.is_none() && change.email.is_none() {
            return self.user(bearer).await;
        }
        let mut proved = Proved::default();
        if change.password.is_some() || change.email.is_some() {
            proved = self.prove_change(bearer, &change, origin).await?;
        }
        let now = self.clock.now();
        let event = |kind| Event {
            user_id: Some(bearer.user_id.clone()),
            session_id: Some(bearer.session_id),
            ..origin.event(kind, Outcome::Success, now)
        };
        let mut events = Vec::new();
        if change.user_metadata.is_some() {
            events.push(event(EventKind::UserUpdated));
        }
        if proved.new_password.is_some() {
            events.push(event(EventKind::PasswordChanged));
        }
        if let Some(new) = &proved.new_email {
            let email = Some(clean_text(new.email.address().as_bytes(), MAX_EMAIL));
            events.push(Event { email, ..event(EventKind::EmailChangeRequested) });
        }
        let update = store::UserUpdate {
            metadata_patch: change.user_metadata,
            max_metadata_bytes: MAX_METADATA_BYTES,
            new_password: proved.new_password,
            keep_session: bearer.session_id,
            aal: bearer.aal,
            sign_out_others: change.sign_out_others,
            nonce: proved.nonce,
            new_email: proved.new_email,
            parcels: proved.parcels,
        };
        match self
            .store
            .update_user(&bearer.user_id, &update, now, &events)
            .await
            .map_err(failed)?
        {
            store::UpdateUser::Done { user, ended } => {
                self.revocations.end(ended);
                self.letters.ring();
                Ok(user)
            }
            store::UpdateUser::NotFound => Err(AuthError::SessionNotFound),
            // Somebody else changed it in these few milliseconds: what was proved is out of date.
            store::UpdateUser::PasswordChangedMeanwhile => Err(AuthError::ReauthenticationNeeded),
            store::UpdateUser::NeedsAal2 => Err(AuthError::InsufficientAal),
            store::UpdateUser::NonceRefused => Err(AuthError::ReauthenticationNotValid),
            store::UpdateUser::MetadataTooLarge => Err(InputError::metadata_too_large().into()),
        }
    }

    /// Decides whether the bearer may set the password and ask for the address.
    async fn prove_change(
        &self,
        bearer: &Bearer,
        change: &input::UpdateUser,
        origin: &Origin,
    ) -> Result<Proved, AuthError> {
        let account = self.store.account_by_id(&bearer.user_id).await.map_err(failed)?;
        let Account { user, password_hash: stored } = account.ok_or(AuthError::SessionNotFound)?;
        // Neither a password nor a mailbox passes the second factor, so neither may change hands.
        self.second_factor_was_shown(bearer, &user).await?;
        // An address that was imported may be one that we would not take; then it is no password.
        let email = user.email.parse::<Email>().ok();
        if let Some(new) = &change.password {
            let (new, email) = (new.clone(), email.clone());
            self.by_policy(move |policy| policy.check(new.expose_secret(), email.as_ref()))
                .await?
                .map_err(AuthError::WeakPassword)?;
        }
        if change.email.is_some() {
            self.letters_leave()?;
        }
        let nonce = match (&change.current_password, &change.nonce) {
            (Some(current), _) if current.expose_secret().is_empty() => {
                return Err(AuthError::CurrentPasswordRequired);
            }
            (Some(current), _) => {
                let verdict = self.hasher.verify(stored.clone(), current.clone()).await?;
                if !matches!(verdict, Verdict::Right { .. }) {
                    self.record_refused(bearer, change, "wrong_password", origin).await?;
                    return Err(AuthError::CurrentPasswordInvalid);
                }
                None
            }
            (None, Some(nonce)) => {
                let email = email.as_ref().ok_or(AuthError::ReauthenticationNotValid)?;
                let digits = nonce.expose_secret();
                if !self.is_nonce(bearer, email, digits).await? {
                    self.record_refused(bearer, change, "wrong_code", origin).await?;
                    return Err(AuthError::ReauthenticationNotValid);
                }
                Some(otp::code_mac(Purpose::Reauthentication, email, digits))
            }
            (None, None) if self.has_logged_in_recently(bearer).await? => None,
            (None, None) => return Err(AuthError::ReauthenticationNeeded),
        };
        let new_password = match &change.password {
            Some(new) => {
                let current = change.current_password.as_ref();
                Some((self.new_hash(new, current, stored.as_ref()).await?, stored))
            }
            None => None,
        };
        let mut parcels = Vec::new();
        let tells = self.letters.notify(Notice::PasswordChanged);
        if let (Some(_), Some(email), true) = (&new_password, &email, tells) {
            parcels.push(self.notice_of_password(&user, email, origin));
        }
        let is_other = |new: &&Email| email.as_ref().is_none_or(|email| email.key() != new.key());
        let new_email = match change.email.as_ref().filter(is_other) {
            Some(new) => {
                // Nobody answers at an address that was never proved: a typing error, as often as
                // not.
                let asks_current = user.email_confirmed_at.is_some()
                    && self.links.email_change == EmailChange::Both;
                let consent = if asks_current { Consent::Both } else { Consent::New };
                parcels.extend(self.letters_of_change(&user, new, asks_current, change, origin)?);
                Some(NewEmail { email: new.clone(), consent })
            }
            None => None,
        };
        Ok(Proved { new_password, new_email, nonce, parcels })
    }

    /// Hashes a new password that differs from the old one.
    async fn new_hash(
        &self,
        new: &SecretString,
        current: Option<&SecretString>,
        stored: Option<&PasswordHash>,
    ) -> Result<PasswordHash, AuthError> {
        let is_same = if let Some(current) = current {
            let (one, two) = (current.expose_secret(), new.expose_secret());
            bool::from(one.as_bytes().ct_eq(two.as_bytes()))
        } else {
            let verdict = self.hasher.verify(stored.cloned(), new.clone()).await?;
            matches!(verdict, Verdict::Right { .. })
        };
        if is_same {
            return Err(AuthError::SamePassword);
        }
        Ok(self.hasher.hash(new.clone()).await?)
    }

    async fn record_refused(
        &self,
        bearer: &Bearer,
        change: &input::UpdateUser,
        reason: &str,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        let kind = if change.password.is_some() {
            EventKind::PasswordChangeFailed
        } else {
            EventKind::EmailChangeFailed
        };
        let event = Event {
            user_id: Some(bearer.user_id.clone()),
            session_id: Some(bearer.session_id),
            reason: Some(reason.to_owned()),
            ..origin.event(kind, Outcome::Failure, self.clock.now())
        };
        self.store.record(&[event]).await.map_err(failed)
    }

    pub(super) async fn has_logged_in_recently(&self, bearer: &Bearer) -> Result<bool, AuthError> {
        let session = self.running_session(bearer).await?;
        let age = self.clock.now().duration_since(session.created_at);
        Ok(age.unsigned_abs() < RECENT_LOGIN)
    }
}

/// What was decided of a change that needed proof.
#[derive(Default)]
struct Proved {
    /// The hash to store, and the one that must still be there then.
    new_password: Option<(PasswordHash, Option<PasswordHash>)>,
    new_email: Option<NewEmail>,
    /// The code that proved it.
    nonce: Option<CodeMac>,
    parcels: Vec<NewParcel>,
}
