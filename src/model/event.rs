//! What happened.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{SessionId, UserId, words};

/// Something that happened to an account, or was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `UUIDv7`.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// How it went.
    pub outcome: Outcome,
    /// Why, as a stable `snake_case` word.
    pub reason: Option<String>,
    /// Who did it, when it is not the user: `cli`, another user's id, or an API key as
    /// `key:` and its prefix.
    pub actor: Option<String>,
    /// Whose account, when known.
    pub user_id: Option<UserId>,
    /// The address that was tried, cleaned (see [`clean_text`](super::clean_text)).
    pub email: Option<String>,
    /// Which session.
    pub session_id: Option<SessionId>,
    /// From where.
    pub address: Option<IpAddr>,
    /// What the client called itself, cleaned.
    pub user_agent: Option<String>,
    /// The request's `X-Request-Id`, cleaned.
    pub request_id: Option<String>,
}

/// An event with its place in its writer's gapless row.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// The process that wrote it.
    pub writer: Uuid,
    /// 1, 2, 3, … for each writer: a gap is a lost event.
    pub number: i64,
    /// The event.
    pub event: Event,
}

impl StoredEvent {
    /// As programs get it: the command line prints such objects, exports and webhooks have them.
    pub fn to_json(&self) -> Value {
        let event = &self.event;
        json!({
            "id": event.id,
            "time": event.at,
            "kind": event.kind.as_str(),
            "outcome": event.outcome.as_str(),
            "reason": event.reason,
            "actor": event.actor,
            "user_id": event.user_id.as_ref().map(UserId::as_str),
            "email": event.email,
            "session_id": event.session_id,
            "address": event.address,
            "user_agent": event.user_agent,
            "request_id": event.request_id,
            "writer": self.writer,
            "number": self.number,
        })
    }
}

words! {
    /// Kinds of events.
    EventKind {
        /// A route refused a role, a bad token, or everybody; or somebody is no administrator.
        AccessDenied = "access_denied",
        /// An API key was made.
        ApiKeyCreated = "api_key_created",
        /// An API key was ended.
        ApiKeyRevoked = "api_key_revoked",
        /// An API key got a successor, and an end.
        ApiKeyRotated = "api_key_rotated",
        /// A program got a token for its API key.
        ClientTokenIssued = "client_token_issued",
        /// A program was refused a token.
        ClientTokenRefused = "client_token_refused",
        /// A program's token was given up.
        ClientTokenRevoked = "client_token_revoked",
        /// A mail to confirm an address was asked for.
        ConfirmationRequested = "confirmation_requested",
        /// A change of address was refused.
        EmailChangeFailed = "email_change_failed",
        /// The user wants another address.
        EmailChangeRequested = "email_change_requested",
        /// The address was changed.
        EmailChanged = "email_changed",
        /// Events were exported by an administrator.
        EventsExported = "events_exported",
        /// Events older than the retention were removed; the reason says how many.
        EventsPruned = "events_pruned",
        /// An administrator gave up what the webhook still was to be told of.
        EventsSkipped = "events_skipped",
        /// A second factor was enrolled; it counts when it is verified.
        FactorEnrolled = "factor_enrolled",
        /// A code of a second factor was refused.
        FactorFailed = "factor_failed",
        /// A second factor was removed.
        FactorRemoved = "factor_removed",
        /// A session showed a second factor.
        FactorVerified = "factor_verified",
        /// An administrator's import of accounts came to its end.
        ImportFinished = "import_finished",
        /// An administrator invited somebody.
        Invited = "invited",
        /// An administrator made a link to hand on.
        LinkGenerated = "link_generated",
        /// A mailed link or code was refused.
        LinkRefused = "link_refused",
        /// A mailed link or code was used; with a session it was a login.
        LinkUsed = "link_used",
        /// A login.
        Login = "login",
        /// A refused login.
        LoginFailed = "login_failed",
        /// A session was ended by its user.
        Logout = "logout",
        /// An administrator forgot what a limit had counted, or the failed logins of an account.
        LimitReset = "limit_reset",
        /// A link to log in was asked for.
        MagicLinkRequested = "magic_link_requested",
        /// A mail was taken out of the outbox by an administrator.
        MailDropped = "mail_dropped",
        /// A mail was given up.
        MailFailed = "mail_failed",
        /// A mail that was given up is tried again, by an administrator.
        MailRetried = "mail_retried",
        /// A mail was handed to its server.
        MailSent = "mail_sent",
        /// A path named somebody else.
        OwnerMismatch = "owner_mismatch",
        /// A role let somebody act on another user's path.
        OwnerOverride = "owner_override",
        /// A password change was refused.
        PasswordChangeFailed = "password_change_failed",
        /// The password was changed.
        PasswordChanged = "password_changed",
        /// A limit was reached.
        RateLimited = "rate_limited",
        /// A code to show again who has the session was asked for.
        ReauthenticationRequested = "reauthentication_requested",
        /// A recovery code was used in place of a second factor.
        RecoveryCodeUsed = "recovery_code_used",
        /// Recovery codes were made; earlier ones are void.
        RecoveryCodesMade = "recovery_codes_made",
        /// A link for a forgotten password was asked for.
        RecoveryRequested = "recovery_requested",
        /// A used refresh token came back.
        RefreshReuse = "refresh_reuse",
        /// An administrator set roles.
        RolesChanged = "roles_changed",
        /// Secrets in the database were brought under another key.
        SecretsReencrypted = "secrets_reencrypted",
        /// A session was ended by an administrator.
        SessionRevoked = "session_revoked",
        /// A login ended the oldest sessions of a user who had as many as are allowed.
        SessionsTrimmed = "sessions_trimmed",
        /// A signing key was made, imported or retired.
        SigningKeyChanged = "signing_key_changed",
        /// An account was made.
        Signup = "signup",
        /// A refused sign-up.
        SignupFailed = "signup_failed",
        /// A session was refreshed.
        TokenRefreshed = "token_refreshed",
        /// An address was proved by a link, or marked as confirmed by an administrator.
        UserConfirmed = "user_confirmed",
        /// An account was made by an administrator.
        UserCreated = "user_created",
        /// An account was deleted.
        UserDeleted = "user_deleted",
        /// The data of an account was handed out.
        UserDataExported = "user_data_exported",
        /// An account was disabled.
        UserDisabled = "user_disabled",
        /// An account was enabled again.
        UserEnabled = "user_enabled",
        /// An account was deleted but for its id.
        UserSoftDeleted = "user_soft_deleted",
        /// Metadata was changed, by the user or an administrator.
        UserUpdated = "user_updated",
        /// An administrator exported all accounts, with their password hashes.
        UsersExported = "users_exported",
        /// An administrator imported accounts; the reason says how many.
        UsersImported = "users_imported",
    }
}

words! {
    /// How it went.
    Outcome {
        /// It was done.
        Success = "success",
        /// It was refused.
        Failure = "failure",
    }
}
