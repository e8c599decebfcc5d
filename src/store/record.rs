//! Rows to values, for both backends: the one place that knows the order of the columns. A value
//! that the schema does not allow is [`StoreError::Corrupt`], never a default.

mod deliveries;
mod trail;

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::api_keys::ChangedApiKey;
use super::cases::KnownToken;
use super::erasure::Erasure;
use super::error::StoreError;
use super::guards::{FoundState, Guard};
use super::imports::ImportProgress;
use super::outbox::{Claimed, OutboxState, Parcel, ParcelKind, Stored};
use super::passwords::Unclassified;
use super::rules::{FoundChallenge, FoundFactor, FoundLink, Owner, Side};
use super::seals::{SealedColumn, SealedRow};
use crate::config::Algorithm;
use crate::model::{
    Account, ApiKey, AuthMethod, Challenge, ChallengeMethod, EndReason, EndedSession, Event,
    EventKind, Factor, FactorKind, JsonObject, ListedKey, Outcome, PasswordHash, Proof, Purpose,
    Session, SessionId, SigningKey, StoredEvent, TokenDigest, User, UserId,
};
use crate::secrets;

/// Columns of [`user`] but the last, from the table under the name `u`. The last is the list of
/// factors, for which each backend has words of its own: `user_columns!` there has them all.
macro_rules! own_columns_of_user {
    () => {
        "u.id, u.email, u.email_confirmed_at, u.roles, u.app_metadata, u.user_metadata, \
         u.last_sign_in_at, u.disabled_until, u.created_at, u.updated_at, u.new_email, u.invited_at, \
         u.deleted_at"
    };
}

/// How many columns [`user`] reads.
pub(super) const USER_WIDTH: usize = 14;

/// Columns of [`session`], from the table under the name `s`.
macro_rules! session_columns {
    () => {
        "s.id, s.user_id, s.created_at, s.last_seen_at, s.expires_at, s.access_expires_at, \
         s.address, s.user_agent, s.ended_at, s.ended_reason, s.methods, \
         s.factor_id"
    };
}

/// How many columns [`session`] reads.
pub(super) const SESSION_WIDTH: usize = 12;

/// Columns of [`event`], from the table under the name `e`.
macro_rules! event_columns {
    () => {
        "e.writer, e.number, e.id, e.at, e.kind, e.outcome, e.reason, e.actor, e.user_id, \
         e.email, e.session_id, e.address, e.user_agent, e.request_id"
    };
}

/// How many columns [`event`] reads.
pub(super) const EVENT_WIDTH: usize = 14;

/// Columns of [`signing_key`], from the table under the name `k`.
macro_rules! key_columns {
    () => {
        "k.kid, k.algorithm, k.private_key, k.created_at, k.active_from, k.retire_at"
    };
}

/// Columns of [`listed_key`], from the table under the name `k`. Of the private half only so much as
/// says how it is kept.
macro_rules! listed_key_columns {
    () => {
        "k.kid, k.algorithm, k.created_at, k.active_from, k.retire_at, k.revoked_at, \
         substr(k.private_key, 1, 36) AS private_key"
    };
}

/// Columns of [`owner`] after those of [`user`], from the table under the name `u`.
macro_rules! columns_of_owner {
    () => {
        "u.email_key, u.new_email_key, u.new_email_agreed"
    };
}

/// Columns of [`link`], from the table under the name `t`.
macro_rules! link_columns {
    () => {
        "t.user_id, t.purpose, t.digest, t.email_key, t.code, t.redirect_to, t.code_challenge, \
         t.code_challenge_method, t.password_hash, t.user_metadata, t.session_id, t.created_at, \
         t.expires_at"
    };
}

/// Columns of [`api_key`], from the table under the name `k`.
macro_rules! api_key_columns {
    () => {
        "k.id, k.user_id, k.name, k.prefix, k.digest, k.scopes, k.created_at, k.created_by, \
         k.expires_at, k.revoked_at, k.last_used_at, k.replaces"
    };
}

/// How many columns [`api_key`] reads.
const API_KEY_WIDTH: usize = 12;

/// Columns of [`factor`], from the table under the name `f`.
macro_rules! factor_columns {
    () => {
        "f.id, f.kind, f.friendly_name, f.verified_at, f.last_challenged_at, f.created_at, \
         f.updated_at, f.last_step, f.wrong_codes, f.paused_until"
    };
}

/// How many columns [`factor`] reads.
pub(super) const FACTOR_WIDTH: usize = 10;

/// Columns of [`stored`].
macro_rules! parcel_columns {
    () => {
        "id, payload, CAST(attempts AS bigint) AS attempts, created_at, due_at, last_error, failed_at"
    };
}

/// Columns of [`import_progress`], from the table under the name `i`.
macro_rules! import_columns {
    () => {
        "i.digest, i.file, i.rows_done, i.imported, i.already_there, i.refused, i.error_bytes, \
         i.started_at, i.finished_at"
    };
}

pub(super) use deliveries::{backlog, backlog_sql, delivery_state, delivery_state_sql, webhook};
pub(super) use trail::{missing, missing_sql, numbered, place_of_event, trail, trails_sql};
pub(super) use {
    api_key_columns, columns_of_owner, factor_columns, import_columns, link_columns, parcel_columns,
};
pub(super) use {
    event_columns, key_columns, listed_key_columns, own_columns_of_user, session_columns,
};

/// A value of another type than its column has.
pub(super) struct WrongType;

type Cell<T> = Result<Option<T>, WrongType>;

/// One row of either driver; columns by position.
pub(super) trait Record {
    fn name(&self, column: usize) -> String;
    fn text(&self, column: usize) -> Cell<String>;
    fn number(&self, column: usize) -> Cell<i64>;
    fn time(&self, column: usize) -> Cell<Timestamp>;
    fn bytes(&self, column: usize) -> Cell<Vec<u8>>;
    fn uuid(&self, column: usize) -> Cell<Uuid>;
    fn address(&self, column: usize) -> Cell<IpAddr>;
    fn json(&self, column: usize) -> Cell<Value>;
}

/// Reads the cells of one row and knows what to say of a bad one.
pub(super) struct Reader<'a, R> {
    record: &'a R,
    table: &'static str,
    row: String,
}

impl<'a, R: Record> Reader<'a, R> {
    /// A reader of a row of `table` whose key, for messages, is in column `key`.
    fn keyed_by_text(record: &'a R, table: &'static str, key: usize) -> Self {
        let row = record.text(key).ok().flatten().unwrap_or_default();
        Self { record, table, row }
    }

    fn keyed_by_uuid(record: &'a R, table: &'static str, key: usize) -> Self {
        let row = record.uuid(key).ok().flatten().map(|id| id.to_string()).unwrap_or_default();
        Self { record, table, row }
    }

    fn corrupt(&self, column: usize) -> StoreError {
        let column = self.record.name(column);
        StoreError::Corrupt { table: self.table, column, row: self.row.clone() }
    }

    /// A cell that may be null.
    fn maybe<T>(
        &self,
        column: usize,
        read: impl FnOnce(&R, usize) -> Cell<T>,
    ) -> Result<Option<T>, StoreError> {
        read(self.record, column).map_err(|WrongType| self.corrupt(column))
    }

    /// A cell that is not null.
    fn must<T>(
        &self,
        column: usize,
        read: impl FnOnce(&R, usize) -> Cell<T>,
    ) -> Result<T, StoreError> {
        self.maybe(column, read)?.ok_or_else(|| self.corrupt(column))
    }

    /// A text that may be null and has a meaning.
    fn maybe_parsed<T>(
        &self,
        column: usize,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        match self.maybe(column, R::text)? {
            None => Ok(None),
            Some(text) => parse(&text).map(Some).ok_or_else(|| self.corrupt(column)),
        }
    }

    /// A text that is not null and has a meaning.
    fn parsed<T>(
        &self,
        column: usize,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        self.maybe_parsed(column, parse)?.ok_or_else(|| self.corrupt(column))
    }

    fn object(&self, column: usize) -> Result<JsonObject, StoreError> {
        match self.must(column, R::json)? {
            Value::Object(object) => Ok(object),
            _ => Err(self.corrupt(column)),
        }
    }

    fn maybe_object(&self, column: usize) -> Result<Option<JsonObject>, StoreError> {
        match self.maybe(column, R::json)? {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(self.corrupt(column)),
        }
    }

    fn list<T: DeserializeOwned>(&self, column: usize) -> Result<Vec<T>, StoreError> {
        serde_json::from_value(self.must(column, R::json)?).map_err(|_| self.corrupt(column))
    }

    /// 32 bytes that may be null.
    fn maybe_digest(&self, column: usize) -> Result<Option<[u8; 32]>, StoreError> {
        let bytes = self.maybe(column, R::bytes)?;
        bytes.map(|b| b.try_into().map_err(|_| self.corrupt(column))).transpose()
    }
}

fn user_id(text: &str) -> Option<UserId> {
    text.parse().ok()
}

/// Reads [`own_columns_of_user`] and the list of factors from column `c` on.
pub(super) fn user<R: Record>(record: &R, c: usize) -> Result<User, StoreError> {
    let r = Reader::keyed_by_text(record, "users", c);
    Ok(User {
        id: r.parsed(c, user_id)?,
        email: r.must(c + 1, R::text)?,
        email_confirmed_at: r.maybe(c + 2, R::time)?,
        roles: r.list(c + 3)?,
        app_metadata: r.object(c + 4)?,
        user_metadata: r.object(c + 5)?,
        last_sign_in_at: r.maybe(c + 6, R::time)?,
        disabled_until: r.maybe(c + 7, R::time)?,
        created_at: r.must(c + 8, R::time)?,
        updated_at: r.must(c + 9, R::time)?,
        new_email: r.maybe(c + 10, R::text)?,
        invited_at: r.maybe(c + 11, R::time)?,
        deleted_at: r.maybe(c + 12, R::time)?,
        factors: factors(&r, c + 13)?,
    })
}

/// Reads a list of factors: JSON objects with the names of the columns.
fn factors<R: Record>(r: &Reader<'_, R>, c: usize) -> Result<Vec<Factor>, StoreError> {
    #[derive(Deserialize)]
    struct Listed {
        id: Uuid,
        kind: FactorKind,
        friendly_name: String,
        verified_at: Option<Moment>,
        last_challenged_at: Option<Moment>,
        created_at: Moment,
        updated_at: Moment,
    }
    let mut factors = Vec::new();
    for listed in r.list::<Listed>(c)? {
        let time = |moment: Moment| moment.time().ok_or_else(|| r.corrupt(c));
        factors.push(Factor {
            id: listed.id,
            kind: listed.kind,
            friendly_name: listed.friendly_name,
            verified_at: listed.verified_at.map(time).transpose()?,
            last_challenged_at: listed.last_challenged_at.map(time).transpose()?,
            created_at: time(listed.created_at)?,
            updated_at: time(listed.updated_at)?,
        });
    }
    factors.sort_by_key(|factor| (factor.created_at, factor.id));
    Ok(factors)
}

/// A time within JSON: PostgreSQL writes text, SQLite its microseconds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Moment {
    Micros(i64),
    Text(Timestamp),
}

impl Moment {
    fn time(self) -> Option<Timestamp> {
        match self {
            Self::Micros(micros) => Timestamp::from_microsecond(micros).ok(),
            Self::Text(time) => Some(time),
        }
    }
}

/// Reads [`factor_columns`] from column `c` on.
pub(super) fn factor<R: Record>(record: &R, c: usize) -> Result<FoundFactor, StoreError> {
    let r = Reader::keyed_by_uuid(record, "factors", c);
    Ok(FoundFactor {
        factor: Factor {
            id: r.must(c, R::uuid)?,
            kind: r.parsed(c + 1, FactorKind::from_word)?,
            friendly_name: r.must(c + 2, R::text)?,
            verified_at: r.maybe(c + 3, R::time)?,
            last_challenged_at: r.maybe(c + 4, R::time)?,
            created_at: r.must(c + 5, R::time)?,
            updated_at: r.must(c + 6, R::time)?,
        },
        last_step: r.must(c + 7, R::number)?,
        wrong_codes: r.must(c + 8, R::number)?,
        paused_until: r.maybe(c + 9, R::time)?,
    })
}

/// Reads the stored `secret` at column `c` of the factor whose id is at `key`.
pub(super) fn factor_secret<R: Record>(
    record: &R,
    key: usize,
    c: usize,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let r = Reader::keyed_by_uuid(record, "factors", key);
    Ok(Zeroizing::new(r.must(c, R::bytes)?))
}

/// Reads `id`, `factor_id`, `session_id`, `attempts`, `expires_at` of a challenge.
pub(super) fn challenge<R: Record>(record: &R) -> Result<FoundChallenge, StoreError> {
    let r = Reader::keyed_by_uuid(record, "factor_challenges", 0);
    Ok(FoundChallenge {
        id: r.must(0, R::uuid)?,
        factor_id: r.must(1, R::uuid)?,
        session_id: r.must(2, R::uuid)?,
        attempts: r.must(3, R::number)?,
        expires_at: r.must(4, R::time)?,
    })
}

/// Reads `password_hash` at column `c` of the user whose id is at `key`.
pub(super) fn password_hash<R: Record>(
    record: &R,
    key: usize,
    c: usize,
) -> Result<Option<String>, StoreError> {
    Reader::keyed_by_text(record, "users", key).maybe(c, R::text)
}

/// Reads an account whose user may be null, a text for whether it is known in a network, until when
/// that network's lane and the lane of strangers are blocked, and the password of a sign-up.
pub(super) fn found_state<R: Record>(record: &R) -> Result<FoundState, StoreError> {
    let r = Reader::keyed_by_text(record, "users", 0);
    let account = match r.maybe(0, R::text)? {
        None => None,
        Some(_) => Some(Account {
            user: user(record, 0)?,
            password_hash: password_hash(record, 0, USER_WIDTH)?.map(PasswordHash),
        }),
    };
    Ok(FoundState {
        account,
        is_known: r.maybe(USER_WIDTH + 1, R::text)?.is_some(),
        at_home: r.maybe(USER_WIDTH + 2, R::time)?,
        strangers: r.maybe(USER_WIDTH + 3, R::time)?,
        signed_up: r.maybe(USER_WIDTH + 4, R::text)?.map(PasswordHash),
    })
}

/// Reads a user's id and address key.
pub(super) fn id_and_key<R: Record>(record: &R) -> Result<(UserId, String), StoreError> {
    let r = Reader::keyed_by_text(record, "users", 0);
    Ok((r.parsed(0, user_id)?, r.must(1, R::text)?))
}

/// Reads [`import_columns`].
pub(super) fn import_progress<R: Record>(record: &R) -> Result<ImportProgress, StoreError> {
    let r = Reader::keyed_by_text(record, "imports", 1);
    let count = |column| -> Result<u64, StoreError> {
        u64::try_from(r.must(column, R::number)?).map_err(|_| r.corrupt(column))
    };
    Ok(ImportProgress {
        digest: r.maybe_digest(0)?.ok_or_else(|| r.corrupt(0))?,
        file: r.must(1, R::text)?,
        rows_done: count(2)?,
        imported: count(3)?,
        already_there: count(4)?,
        refused: count(5)?,
        error_bytes: count(6)?,
        started_at: r.must(7, R::time)?,
        finished_at: r.maybe(8, R::time)?,
    })
}

/// Reads `lane`, `failures`, `failed_at`, `blocked_until`.
pub(super) fn guard<R: Record>(record: &R) -> Result<Guard, StoreError> {
    let r = Reader::keyed_by_text(record, "login_guards", 0);
    Ok(Guard {
        lane: r.must(0, R::text)?,
        failures: r.must(1, R::number)?,
        failed_at: r.must(2, R::time)?,
        blocked_until: r.must(3, R::time)?,
    })
}

/// Reads the failures that a lane has had.
pub(super) fn failures<R: Record>(record: &R) -> Result<i64, StoreError> {
    Reader::keyed_by_text(record, "login_guards", 0).must(0, R::number)
}

/// Reads `pseudonym`, `user_id`, `email`, `requested_at`.
pub(super) fn erasure<R: Record>(record: &R) -> Result<Erasure, StoreError> {
    let r = Reader::keyed_by_text(record, "erasures", 0);
    Ok(Erasure {
        pseudonym: r.must(0, R::text)?,
        user_id: r.must(1, R::text)?,
        email: r.must(2, R::text)?,
        requested_at: r.must(3, R::time)?,
    })
}

/// Reads `email` and `email_key`.
pub(super) fn address_and_key<R: Record>(record: &R) -> Result<(String, String), StoreError> {
    let r = Reader::keyed_by_text(record, "users", 0);
    Ok((r.must(0, R::text)?, r.must(1, R::text)?))
}

/// Reads the place of an event in its table, and its address.
pub(super) fn place_and_address<R: Record>(
    record: &R,
) -> Result<(i64, Option<IpAddr>), StoreError> {
    let r = Reader::keyed_by_text(record, "auth_events", 0);
    Ok((r.must(0, R::number)?, r.maybe(1, R::address)?))
}

/// Reads a text that is not null.
pub(super) fn text<R: Record>(
    record: &R,
    table: &'static str,
    c: usize,
) -> Result<String, StoreError> {
    Reader::keyed_by_text(record, table, c).must(c, R::text)
}

/// Reads a user's id and hash; both are null in the row that says where a look ended.
pub(super) fn found_hash<R: Record>(
    record: &R,
) -> Result<(Option<UserId>, Option<PasswordHash>), StoreError> {
    let r = Reader::keyed_by_text(record, "users", 0);
    let id = r.maybe_parsed(0, user_id)?;
    Ok((id, r.maybe(1, R::text)?.map(PasswordHash)))
}

/// Rows of [`found_hash`], the first of which says where the look ended: with no hash at the last
/// user.
pub(super) fn unclassified(
    rows: impl IntoIterator<Item = (Option<UserId>, Option<PasswordHash>)>,
) -> Unclassified {
    let mut rows = rows.into_iter();
    let (last, goes_on) = rows.next().unwrap_or_default();
    let next = goes_on.and(last);
    let found = rows.filter_map(|(id, hash)| Some((id?, hash?))).collect();
    Unclassified { found, next }
}

/// Reads the columns of [`user`], then [`columns_of_owner`], from column `c` on.
pub(super) fn owner<R: Record>(record: &R, c: usize) -> Result<Owner, StoreError> {
    let r = Reader::keyed_by_text(record, "users", c);
    let user = user(record, c)?;
    let c = c + USER_WIDTH;
    Ok(Owner {
        user,
        email_key: r.must(c, R::text)?,
        new_email_key: r.maybe(c + 1, R::text)?,
        agreed: r.maybe_parsed(c + 2, Side::from_word)?,
    })
}

/// Reads [`link_columns`] from column `c` on.
pub(super) fn link<R: Record>(record: &R, c: usize) -> Result<FoundLink, StoreError> {
    let r = Reader::keyed_by_text(record, "one_time_tokens", c);
    let method = r.maybe_parsed(c + 7, ChallengeMethod::from_word)?;
    let challenge = match (r.maybe(c + 6, R::text)?, method) {
        (None, None) => None,
        (Some(text), Some(method)) => {
            Some(Challenge::new(method, &text).map_err(|_| r.corrupt(c + 6))?)
        }
        _ => return Err(r.corrupt(c + 7)),
    };
    Ok(FoundLink {
        user_id: r.parsed(c, user_id)?,
        purpose: r.parsed(c + 1, Purpose::from_word)?,
        digest: TokenDigest(r.maybe_digest(c + 2)?.ok_or_else(|| r.corrupt(c + 2))?),
        email_key: r.must(c + 3, R::text)?,
        code: r.maybe_digest(c + 4)?,
        redirect_to: r.maybe(c + 5, R::text)?,
        challenge,
        password: r.maybe(c + 8, R::text)?.map(PasswordHash),
        user_metadata: r.maybe_object(c + 9)?,
        session_id: r.maybe(c + 10, R::uuid)?,
        created_at: r.must(c + 11, R::time)?,
        expires_at: r.must(c + 12, R::time)?,
    })
}

/// Reads `id`, `payload`, `attempts`, `created_at` of a parcel of this kind.
pub(super) fn claimed<R: Record>(record: &R, kind: ParcelKind) -> Result<Claimed, StoreError> {
    let r = Reader::keyed_by_uuid(record, "outbox", 0);
    let attempt = u32::try_from(r.must(2, R::number)?).map_err(|_| r.corrupt(2))?;
    Ok(Claimed {
        id: r.must(0, R::uuid)?,
        // One that nobody can read must not keep the others from being sent.
        parcel: record.json(1).ok().flatten().and_then(|p| Parcel::from_payload(kind, p)),
        attempt,
        created_at: r.must(3, R::time)?,
    })
}

/// Reads [`parcel_columns`] of a parcel of this kind.
pub(super) fn stored<R: Record>(record: &R, kind: ParcelKind) -> Result<Stored, StoreError> {
    let r = Reader::keyed_by_uuid(record, "outbox", 0);
    Ok(Stored {
        id: r.must(0, R::uuid)?,
        parcel: record.json(1).ok().flatten().and_then(|p| Parcel::from_payload(kind, p)),
        attempts: u32::try_from(r.must(2, R::number)?).map_err(|_| r.corrupt(2))?,
        created_at: r.must(3, R::time)?,
        due_at: r.must(4, R::time)?,
        last_error: r.maybe(5, R::text)?,
        failed_at: r.maybe(6, R::time)?,
    })
}

/// Reads `kind`, the number that wait, the number given up, and the oldest that waits,
/// from column `c` on.
pub(super) fn outbox_state<R: Record>(record: &R, c: usize) -> Result<OutboxState, StoreError> {
    let r = Reader::keyed_by_text(record, "outbox", c);
    let count = |column| -> Result<u64, StoreError> {
        u64::try_from(r.must(column, R::number)?).map_err(|_| r.corrupt(column))
    };
    Ok(OutboxState {
        kind: r.parsed(c, ParcelKind::from_word)?,
        waiting: count(c + 1)?,
        failed: count(c + 2)?,
        oldest: r.maybe(c + 3, R::time)?,
    })
}

/// Reads [`session_columns`] from column `c` on.
pub(super) fn session<R: Record>(record: &R, c: usize) -> Result<Session, StoreError> {
    let r = Reader::keyed_by_uuid(record, "sessions", c);
    let ended_at = r.maybe(c + 8, R::time)?;
    let ended_reason = r.maybe_parsed(c + 9, EndReason::from_word)?;
    let ended = match (ended_at, ended_reason) {
        (None, None) => None,
        (Some(at), Some(reason)) => Some((at, reason)),
        _ => return Err(r.corrupt(c + 9)),
    };
    let created_at = r.must(c + 2, R::time)?;
    let mut methods: Vec<Proof> = r.list(c + 10)?;
    if methods.is_empty() {
        // Sessions from before there were other ways.
        methods.push(Proof::new(AuthMethod::Password, created_at));
    }
    Ok(Session {
        id: r.must(c, R::uuid)?,
        user_id: r.parsed(c + 1, user_id)?,
        created_at,
        last_seen_at: r.must(c + 3, R::time)?,
        expires_at: r.must(c + 4, R::time)?,
        access_expires_at: r.must(c + 5, R::time)?,
        address: r.maybe(c + 6, R::address)?,
        user_agent: r.maybe(c + 7, R::text)?,
        methods,
        factor_id: r.maybe(c + 11, R::uuid)?,
        ended,
    })
}

/// Reads the session of a refresh token.
pub(super) fn session_of_token<R: Record>(record: &R, c: usize) -> Result<SessionId, StoreError> {
    Reader::keyed_by_uuid(record, "refresh_tokens", c).must(c, R::uuid)
}

/// Reads `used_at`, `sealed_successor` from column `c` on, of a token of the session at `key`.
pub(super) fn use_of_token<R: Record>(
    record: &R,
    key: usize,
    c: usize,
) -> Result<Option<(Timestamp, Vec<u8>)>, StoreError> {
    let r = Reader::keyed_by_uuid(record, "refresh_tokens", key);
    let used_at = r.maybe(c, R::time)?;
    let sealed = r.maybe(c + 1, R::bytes)?;
    match (used_at, sealed) {
        (None, None) => Ok(None),
        (Some(used_at), Some(sealed)) => Ok(Some((used_at, sealed))),
        _ => Err(r.corrupt(c + 1)),
    }
}

/// Reads `user_columns!`, [`session_columns`], `used_at` and `sealed_successor`.
pub(super) fn known_token<R: Record>(record: &R) -> Result<KnownToken, StoreError> {
    Ok(KnownToken {
        user: user(record, 0)?,
        session: session(record, USER_WIDTH)?,
        used: use_of_token(record, USER_WIDTH, USER_WIDTH + SESSION_WIDTH)?.is_some(),
    })
}

/// Reads a session's id and the time until which its end matters.
pub(super) fn ended_session<R: Record>(record: &R, c: usize) -> Result<EndedSession, StoreError> {
    let r = Reader::keyed_by_uuid(record, "revocations", c);
    Ok(EndedSession { id: r.must(c, R::uuid)?, until: r.must(c + 1, R::time)? })
}

/// Reads [`event_columns`] from column `c` on.
pub(super) fn event<R: Record>(record: &R, c: usize) -> Result<StoredEvent, StoreError> {
    let r = Reader::keyed_by_uuid(record, "auth_events", c + 2);
    Ok(StoredEvent {
        writer: r.must(c, R::uuid)?,
        number: r.must(c + 1, R::number)?,
        event: Event {
            id: r.must(c + 2, R::uuid)?,
            at: r.must(c + 3, R::time)?,
            kind: r.parsed(c + 4, EventKind::from_word)?,
            outcome: r.parsed(c + 5, Outcome::from_word)?,
            reason: r.maybe(c + 6, R::text)?,
            actor: r.maybe(c + 7, R::text)?,
            user_id: r.maybe_parsed(c + 8, user_id)?,
            email: r.maybe(c + 9, R::text)?,
            session_id: r.maybe(c + 10, R::uuid)?,
            address: r.maybe(c + 11, R::address)?,
            user_agent: r.maybe(c + 12, R::text)?,
            request_id: r.maybe(c + 13, R::text)?,
        },
    })
}

/// Reads [`key_columns`] from column `c` on.
pub(super) fn signing_key<R: Record>(record: &R, c: usize) -> Result<SigningKey, StoreError> {
    let r = Reader::keyed_by_text(record, "signing_keys", c);
    Ok(SigningKey {
        kid: r.must(c, R::text)?,
        algorithm: r.parsed(c + 1, algorithm)?,
        private_key: r.must(c + 2, R::bytes)?.into(),
        created_at: r.must(c + 3, R::time)?,
        active_from: r.must(c + 4, R::time)?,
        retire_at: r.maybe(c + 5, R::time)?,
    })
}

/// Reads [`listed_key_columns`].
pub(super) fn listed_key<R: Record>(record: &R) -> Result<ListedKey, StoreError> {
    let r = Reader::keyed_by_text(record, "signing_keys", 0);
    Ok(ListedKey {
        kid: r.must(0, R::text)?,
        algorithm: r.parsed(1, algorithm)?,
        created_at: r.must(2, R::time)?,
        active_from: r.must(3, R::time)?,
        retire_at: r.maybe(4, R::time)?,
        revoked_at: r.maybe(5, R::time)?,
        protection: secrets::protection(&r.must(6, R::bytes)?),
    })
}

/// Reads the key, a text or a UUID, and the sealed value of a row.
pub(super) fn sealed_row<R: Record>(
    record: &R,
    column: SealedColumn,
) -> Result<SealedRow, StoreError> {
    let (table, _) = column.as_str().split_once('.').unwrap_or_default();
    let (r, row) = match column {
        SealedColumn::SigningKeys => {
            let r = Reader::keyed_by_text(record, table, 0);
            let row = r.must(0, R::text)?;
            (r, row)
        }
        SealedColumn::Factors => {
            let r = Reader::keyed_by_uuid(record, table, 0);
            let row = r.must(0, R::uuid)?.to_string();
            (r, row)
        }
    };
    Ok(SealedRow { row, stored: r.must(1, R::bytes)?.into() })
}

/// Reads [`api_key_columns`] from column `c` on.
pub(super) fn api_key<R: Record>(record: &R, c: usize) -> Result<ApiKey, StoreError> {
    let r = Reader::keyed_by_uuid(record, "api_keys", c);
    Ok(ApiKey {
        id: r.must(c, R::uuid)?,
        user_id: r.parsed(c + 1, user_id)?,
        name: r.must(c + 2, R::text)?,
        prefix: r.must(c + 3, R::text)?,
        digest: TokenDigest(r.maybe_digest(c + 4)?.ok_or_else(|| r.corrupt(c + 4))?),
        scopes: r.list(c + 5)?,
        created_at: r.must(c + 6, R::time)?,
        created_by: r.must(c + 7, R::text)?,
        expires_at: r.maybe(c + 8, R::time)?,
        revoked_at: r.maybe(c + 9, R::time)?,
        last_used_at: r.maybe(c + 10, R::time)?,
        replaces: r.maybe(c + 11, R::uuid)?,
    })
}

/// Reads the id of a key, [`api_key_columns`] and `user_columns!`; all but the id are null when
/// there is no such key any more.
pub(super) fn changed_api_key<R: Record>(
    record: &R,
    c: usize,
) -> Result<ChangedApiKey, StoreError> {
    let r = Reader::keyed_by_uuid(record, "api_key_changes", c);
    let id = r.must(c, R::uuid)?;
    if r.maybe(c + 1, R::uuid)?.is_none() {
        return Ok((id, None));
    }
    let key = api_key(record, c + 1)?;
    Ok((id, Some((key, user(record, c + 1 + API_KEY_WIDTH)?))))
}

/// Reads a number that is not null.
pub(super) fn count<R: Record>(
    record: &R,
    table: &'static str,
    c: usize,
) -> Result<i64, StoreError> {
    Reader { record, table, row: String::new() }.must(c, R::number)
}

fn algorithm(name: &str) -> Option<Algorithm> {
    [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Hs256, Algorithm::Rs256]
        .into_iter()
        .find(|known| known.name() == name)
}
