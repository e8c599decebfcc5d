//! Logins that last, and the keys that sign their tokens.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Aal, UserId, words};
use crate::config::Algorithm;
use crate::secrets::Protection;

/// A session's id; `UUIDv4`, as it is near a credential.
pub type SessionId = Uuid;
/// A login that lasts until it is ended, goes unused, or reaches its limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Named by every access token of the session.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// When it began: the password was checked, or a link used.
    pub created_at: Timestamp,
    /// Last refresh or use, to five minutes.
    pub last_seen_at: Timestamp,
    /// No refresh after this time.
    pub expires_at: Timestamp,
    /// The `exp` of the last access token issued in it: how long an end must be remembered.
    pub access_expires_at: Timestamp,
    /// Where the login came from.
    pub address: Option<IpAddr>,
    /// What the login called itself.
    pub user_agent: Option<String>,
    /// What its user proved, newest first; never empty. The token's `amr`.
    pub methods: Vec<Proof>,
    /// The second factor that was shown in it.
    pub factor_id: Option<Uuid>,
    /// When it ended before its time, and why.
    pub ended: Option<(Timestamp, EndReason)>,
}

impl Session {
    /// How well its user was authenticated.
    pub fn aal(&self) -> Aal {
        if self.factor_id.is_some() { Aal::Two } else { Aal::One }
    }

    /// Whether it has neither ended nor reached its limit.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        self.ended.is_none() && now < self.expires_at
    }
}

words! {
    /// How a user showed who it is: the words of Supabase Auth for `amr` (RFC 8176 has others).
    AuthMethod {
        /// A link or code that agreed to a change of address.
        EmailChange = "email_change",
        /// An invitation.
        Invite = "invite",
        /// Another link or code by mail.
        Otp = "otp",
        /// The password.
        Password = "password",
        /// A recovery code in place of a second factor.
        RecoveryCode = "recovery_code",
        /// A code of a second factor.
        Totp = "totp",
    }
}

impl AuthMethod {
    /// Whether it is a second factor, or stands in for one.
    pub fn is_second(self) -> bool {
        matches!(self, Self::RecoveryCode | Self::Totp)
    }
}

/// One proof that a session's user gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// How.
    pub method: AuthMethod,
    /// When, in Unix seconds.
    pub timestamp: i64,
}

impl Proof {
    /// A proof given at `at`.
    pub fn new(method: AuthMethod, at: Timestamp) -> Self {
        Self { method, timestamp: at.as_second() }
    }
}

/// Why a session ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Somebody else proved to be the owner of the address, which had not been proved before.
    AddressProved,
    /// Its user or an administrator disabled the account.
    Disabled,
    /// The account is gone.
    Deleted,
    /// The account got its first second factor, or lost the one that the session had shown.
    FactorChanged,
    /// Logout.
    Logout,
    /// Another session changed the password.
    PasswordChanged,
    /// A used refresh token was shown again.
    RefreshReuse,
    /// An administrator ended it.
    Revoked,
    /// A newer login of a user who has as many sessions as are allowed.
    TooMany,
}

impl EndReason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::AddressProved,
        Self::Disabled,
        Self::Deleted,
        Self::FactorChanged,
        Self::Logout,
        Self::PasswordChanged,
        Self::RefreshReuse,
        Self::Revoked,
        Self::TooMany,
    ];

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddressProved => "address_proved",
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
            Self::FactorChanged => "factor_changed",
            Self::Logout => "logout",
            Self::PasswordChanged => "password_changed",
            Self::RefreshReuse => "refresh_reuse",
            Self::Revoked => "revoked",
            Self::TooMany => "too_many",
        }
    }

    /// Reads the word in the database.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// SHA-256 of a refresh token, or of the token in a link: all that the database knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDigest(pub [u8; 32]);

/// A session that was ended before its tokens were: its access tokens are refused until `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSession {
    /// The session.
    pub id: SessionId,
    /// When the last of its access tokens has expired by itself.
    pub until: Timestamp,
}

/// A key pair that signs or signed access tokens, as the database keeps it.
#[derive(Clone)]
pub struct SigningKey {
    /// Key id: RFC 7638 thumbprint of the public key.
    pub kid: String,
    /// What the key is for, and nothing else.
    pub algorithm: Algorithm,
    /// PKCS#8 DER.
    pub private_key: zeroize::Zeroizing<Vec<u8>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The newest key whose time has come signs.
    pub active_from: Timestamp,
    /// Not accepted from this time on; `None` = no end in sight.
    pub retire_at: Option<Timestamp>,
}

/// A signing key without its private half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    /// As [`SigningKey::kid`].
    pub kid: String,
    /// As [`SigningKey::algorithm`].
    pub algorithm: Algorithm,
    /// As [`SigningKey::created_at`].
    pub created_at: Timestamp,
    /// As [`SigningKey::active_from`].
    pub active_from: Timestamp,
    /// As [`SigningKey::retire_at`].
    pub retire_at: Option<Timestamp>,
    /// When its tokens were refused at once, whatever `retire_at` is; `None` = never.
    pub revoked_at: Option<Timestamp>,
    /// How its private half is kept.
    pub protection: Protection,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .field("active_from", &self.active_from)
            .field("retire_at", &self.retire_at)
            .finish_non_exhaustive()
    }
}
