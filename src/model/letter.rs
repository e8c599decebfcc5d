//! A mail that is to be sent, as a wish: whom it is for and what for. It holds no token; that is
//! made when the mail is, so that a stored letter opens nothing.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Challenge, Email, JsonObject, PasswordHash, SessionId, UserId, words};

words! {
    /// What a letter is about.
    LetterKind {
        /// Asks the owner of an address to confirm a sign-up.
        Confirmation = "confirmation",
        /// Asks the current address to agree to a change of address.
        EmailChangeCurrent = "email_change_current",
        /// Asks the new address to agree to a change of address.
        EmailChangeNew = "email_change_new",
        /// Tells the former address that it was changed.
        EmailChanged = "email_changed",
        /// Tells that the account has another second factor.
        FactorAdded = "factor_added",
        /// Tells that a second factor was removed.
        FactorRemoved = "factor_removed",
        /// Invites somebody to take an account.
        Invite = "invite",
        /// A link and a code to log in.
        MagicLink = "magic_link",
        /// Tells that the password was changed.
        PasswordChanged = "password_changed",
        /// A code to show again who has the session.
        Reauthentication = "reauthentication",
        /// Tells that a recovery code stood in for a second factor.
        RecoveryCodeUsed = "recovery_code_used",
        /// A link and a code for somebody who forgot the password.
        Recovery = "recovery",
    }
}

/// A mail that is to be sent.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Letter {
    /// What it is about.
    pub kind: LetterKind,
    /// Where it goes.
    pub email: Email,
    /// Whose account it is about; `None` = of whoever has the address when it is sent.
    pub user_id: Option<UserId>,
    /// Whether an account may be made if nobody has the address.
    pub may_create: bool,
    /// Where the browser goes after the link; was allowed when it was asked for.
    pub redirect_to: Option<String>,
    /// The challenge of the client that asked.
    pub challenge: Option<Challenge>,
    /// Confirmation: the password of that sign-up.
    #[serde(with = "hash_text")]
    pub password: Option<PasswordHash>,
    /// The metadata of an account to be.
    pub user_metadata: Option<JsonObject>,
    /// Change of address: the new one.
    pub new_email: Option<Email>,
    /// Reauthentication: the session that asked.
    pub session_id: Option<SessionId>,
    /// Invitation: the id of an account to be, which was told already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_id: Option<UserId>,
    /// The administrator who wants it sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Who asked, for the events about it.
    pub asked_by: LetterOrigin,
}

impl Letter {
    /// A letter to whoever has an address, and nothing more.
    pub fn new(kind: LetterKind, email: Email, asked_by: LetterOrigin) -> Self {
        Self {
            kind,
            email,
            user_id: None,
            may_create: false,
            redirect_to: None,
            challenge: None,
            password: None,
            user_metadata: None,
            new_email: None,
            session_id: None,
            new_id: None,
            actor: None,
            asked_by,
        }
    }
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Where the wish for a letter came from, cleaned as in events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LetterOrigin {
    /// From where; `None` = the command line.
    pub address: Option<IpAddr>,
    /// What the client called itself.
    pub user_agent: Option<String>,
    /// `X-Request-Id` of the request.
    pub request_id: Option<String>,
}

/// Hashes are written here and nowhere else: [`PasswordHash`] itself cannot be serialised, so that
/// none gets into an answer.
mod hash_text {
    use super::{Deserialize, PasswordHash};

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: serde::Serializer>(
        hash: &Option<PasswordHash>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match hash {
            Some(hash) => serializer.serialize_some(&hash.0),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PasswordHash>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(PasswordHash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChallengeMethod;

    #[test]
    fn a_letter_is_kept_and_read_again_and_prints_no_secrets() {
        let object = serde_json::json!({"name": "Ann"});
        let challenge = Challenge::new(ChallengeMethod::S256, &"c".repeat(43)).unwrap();
        let letter = Letter {
            kind: LetterKind::Confirmation,
            email: "Ann@Example.com".parse().unwrap(),
            user_id: Some("u-1".parse().unwrap()),
            may_create: true,
            redirect_to: Some("https://app.example/in".to_owned()),
            challenge: Some(challenge),
            password: Some(PasswordHash("$argon2id$secret".to_owned())),
            user_metadata: object.as_object().cloned(),
            new_email: Some("ann@new.example".parse().unwrap()),
            session_id: Some(uuid::Uuid::nil()),
            new_id: Some("u-2".parse().unwrap()),
            actor: Some("u-3".to_owned()),
            asked_by: LetterOrigin {
                address: Some("2001:db8::1".parse().unwrap()),
                user_agent: Some("test/1".to_owned()),
                request_id: Some("r-1".to_owned()),
            },
        };
        let kept = serde_json::to_value(&letter).unwrap();
        assert_eq!(serde_json::from_value::<Letter>(kept.clone()).unwrap(), letter);
        let printed = format!("{letter:?}");
        for secret in ["Ann", "argon2id", "app.example"] {
            assert!(!printed.contains(secret), "{printed}");
        }

        // As an earlier version wrote it.
        let mut older = kept.clone();
        older.as_object_mut().unwrap().retain(|key, _| key != "new_id" && key != "actor");
        let expected = Letter { new_id: None, actor: None, ..letter };
        assert_eq!(serde_json::from_value::<Letter>(older).unwrap(), expected);

        let mut odd = kept;
        odd["kind"] = "moon_landing".into();
        assert!(serde_json::from_value::<Letter>(odd).is_err());
    }
}
