//! Links on PostgreSQL. The user's row is the lock of the user's links: it is taken first, always.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::record::{owner_columns, user_columns};
use super::{Db, Fault, Param, Postgres};
use crate::model::{
    Challenge, EndReason, EndedSession, Event, EventKind, PasswordHash, Purpose, SessionId,
    TokenDigest, User, UserId,
};
use crate::store::cases::Sessions;
use crate::store::error::StoreError;
use crate::store::links::{
    CodeMac, LinkOwner, LinkUse, NewEmail, NewLink, NewSession, PkceCode, PutLink, Shown,
    TradePkce, UseLink,
};
use crate::store::record::{self, link_columns};
use crate::store::rules::{
    CODE_TRIES, FoundLink, LinkVerdict, Owner, Side, agreed_from_start, change_event, contested,
    fits, is_nonce, judge_link, looked_at, may_put, method_of, notice, opened, refused_event,
    storable, taken_event, trimmed_event, used_event, whole_micros,
};

impl Postgres {
    pub(in crate::store) async fn put_link(
        &self,
        link: &NewLink,
        not_within: Duration,
        event: &Event,
    ) -> Result<PutLink, StoreError> {
        self.in_tx("put_link", |db| async move {
            let is_new = match &link.owner {
                LinkOwner::AddressOrNew(id) => db.insert_prospect(id, link).await?,
                LinkOwner::Id(_) | LinkOwner::Address => false,
            };
            let owner = match &link.owner {
                LinkOwner::Id(id) => db.lock_owner(id).await?,
                LinkOwner::Address | LinkOwner::AddressOrNew(_) => {
                    db.lock_owner_of(link.email.key()).await?
                }
            };
            let Some(owner) = owner else { return Ok(PutLink::NoUser) };
            if link.purpose == Purpose::EmailChangeNew
                && let Some(other) = db.user_of(link.email.key()).await?
            {
                return Ok(PutLink::AddressTaken(other));
            }
            let mut earlier = Vec::new();
            for purpose in looked_at(link.purpose) {
                earlier.extend(db.link_of(&owner.user.id, purpose).await?);
            }
            for rival in contested(link, &owner, &earlier) {
                db.empty_link(rival).await?;
            }
            let (user, link) = match may_put(link, owner, is_new, earlier, not_within) {
                Ok(allowed) => allowed,
                Err(refusal) => return Ok(*refusal),
            };
            db.insert_link(&link, &user.id).await?;
            let user = if link.purpose == Purpose::Invite {
                db.invite(&user.id, link.now).await?.unwrap_or(user)
            } else {
                user
            };
            if is_new {
                let event = Event { user_id: Some(user.id.clone()), ..event.clone() };
                db.record(&[event]).await?;
            }
            Ok(PutLink::Stored(user))
        })
        .await
    }

    pub(in crate::store) async fn use_link(
        &self,
        link_use: &LinkUse,
    ) -> Result<UseLink, StoreError> {
        let now = link_use.now;
        self.in_tx("use_link", |db| async move {
            let found = db.lock_shown(&link_use.shown, now).await?;
            let link = match opened(&link_use.shown, &found, now) {
                Ok(link) => link,
                Err(why) => {
                    if let Shown::Code { .. } = link_use.shown {
                        for link in &found {
                            db.count_wrong_code(link).await?;
                        }
                    }
                    return db.refuse_link(link_use, why, found.first()).await;
                }
            };
            let Some(owner) = db.lock_owner(&link.user_id).await? else {
                return db.refuse_link(link_use, "unknown", None).await;
            };
            match judge_link(link, &owner, now) {
                LinkVerdict::Refuse(why) => db.refuse_link(link_use, why, Some(link)).await,
                LinkVerdict::Agree(side) => db.agree(link_use, link, side).await,
                LinkVerdict::ChangeAddress => {
                    let Some(user) = db.take_new_email(&owner.user.id, now).await? else {
                        db.delete_links(&owner.user.id, &CHANGE_OF_ADDRESS).await?;
                        db.set_new_email(&owner.user.id, None, now).await?;
                        db.record(&[taken_event(&link_use.event, &owner.user.id)]).await?;
                        return Ok(UseLink::EmailTaken);
                    };
                    db.delete_links(&user.id, &[]).await?;
                    db.post(notice(link_use, &owner.user, &user).as_slice()).await?;
                    let kind = EventKind::EmailChanged;
                    db.finish(link_use, link, user, Vec::new(), Some(kind)).await
                }
                LinkVerdict::LogIn => {
                    db.delete_link(link).await?;
                    db.finish(link_use, link, owner.user, Vec::new(), None).await
                }
                LinkVerdict::Confirm => {
                    let Some(user) = db.confirm(&owner.user.id, now).await? else {
                        return db.refuse_link(link_use, "unknown", None).await;
                    };
                    db.delete_links(&user.id, &[]).await?;
                    let kind = EventKind::UserConfirmed;
                    db.finish(link_use, link, user, Vec::new(), Some(kind)).await
                }
                LinkVerdict::TakeOver { password, user_metadata } => {
                    let id = &owner.user.id;
                    let ended = db
                        .end_sessions(
                            id,
                            Sessions::All,
                            EndReason::AddressProved,
                            whole_micros(now),
                        )
                        .await?;
                    db.revoke_api_keys(id, now).await?;
                    db.delete_links(id, &[]).await?;
                    db.delete_factors(id).await?;
                    let metadata = Value::Object(user_metadata);
                    let Some(user) = db.take_over(id, password.as_ref(), &metadata, now).await?
                    else {
                        return db.refuse_link(link_use, "unknown", None).await;
                    };
                    db.finish(link_use, link, user, ended, Some(EventKind::UserConfirmed)).await
                }
            }
        })
        .await
    }

    pub(in crate::store) async fn trade_pkce(
        &self,
        code: TokenDigest,
        verifier: &str,
        session: &NewSession,
        now: Timestamp,
        event: &Event,
    ) -> Result<TradePkce, StoreError> {
        self.in_tx("trade_pkce", |db| async move {
            let shown = Shown::Link { digest: code, purposes: vec![Purpose::Pkce] };
            let found = db.lock_shown(&shown, now).await?;
            let (link, why, refusal) = match (opened(&shown, &found, now), found.first()) {
                (Ok(link), _) if !fits(link, verifier) => {
                    (link, "wrong_verifier", TradePkce::WrongVerifier)
                }
                (Ok(link), _) => {
                    db.delete_link(link).await?;
                    let login = session.login_of(&link.user_id, method_of(link.purpose), now);
                    if let Some(user) = db.log_in_by_link(&link.user_id, now).await? {
                        login.fit.check(&user, &login.session)?;
                        let ended = db.insert_login(&login).await?;
                        let id = Some(login.session.id);
                        db.record(&[used_event(event, link.purpose, &user.id, id)]).await?;
                        if !ended.is_empty() {
                            db.record(&[trimmed_event(event, &login)]).await?;
                        }
                        return Ok(TradePkce::LoggedIn { user, session: login.session, ended });
                    }
                    (link, "user_disabled", TradePkce::Expired)
                }
                (Err(why @ "expired"), Some(link)) => (link, why, TradePkce::Expired),
                (Err(why), _) => {
                    db.record(&[refused_event(event, why, None)]).await?;
                    return Ok(TradePkce::NotFound);
                }
            };
            db.delete_link(link).await?;
            db.record(&[refused_event(event, why, Some(link))]).await?;
            Ok(refusal)
        })
        .await
    }

    pub(in crate::store) async fn check_nonce(
        &self,
        user: &UserId,
        session: &SessionId,
        code: CodeMac,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.in_tx("check_nonce", |db| async move {
            db.lock_user(user).await?;
            let Some(link) = db.link_of(user, Purpose::Reauthentication).await? else {
                return Ok(false);
            };
            let is_right = is_nonce(&link, *session, &code, now);
            if !is_right {
                db.count_wrong_code(&link).await?;
            }
            Ok(is_right)
        })
        .await
    }
}

/// The links of a change of address.
pub(super) const CHANGE_OF_ADDRESS: [Purpose; 2] =
    [Purpose::EmailChangeCurrent, Purpose::EmailChangeNew];

impl Db {
    async fn lock_owner(&self, user: &UserId) -> Result<Option<Owner>, Fault> {
        let sql = concat!(
            "-- lock_owner\nSELECT ",
            owner_columns!(),
            " FROM users AS u WHERE u.id = $1 FOR UPDATE"
        );
        self.one(sql, &[&user.as_str()], |row| record::owner(row, 0)).await
    }

    async fn lock_owner_of(&self, email_key: &str) -> Result<Option<Owner>, Fault> {
        let sql = concat!(
            "-- lock_owner_of\nSELECT ",
            owner_columns!(),
            " FROM users AS u WHERE u.email_key = $1 FOR UPDATE"
        );
        self.one(sql, &[&email_key], |row| record::owner(row, 0)).await
    }

    async fn user_of(&self, email_key: &str) -> Result<Option<User>, Fault> {
        let sql = concat!(
            "-- user_of\nSELECT ",
            user_columns!(),
            " FROM users AS u WHERE u.email_key = $1"
        );
        self.one(sql, &[&email_key], |row| record::user(row, 0)).await
    }

    /// An account that nobody has proved to own. Whether the address was free.
    async fn insert_prospect(&self, id: &UserId, link: &NewLink) -> Result<bool, Fault> {
        let sql = "-- insert_prospect
            INSERT INTO users (id, email, email_key, roles, app_metadata, user_metadata, created_at,
                updated_at, made_by_letter_at)
            VALUES ($1, $2, $3, '[]', '{}', '{}', $4, $4, $4)
            ON CONFLICT (email_key) DO NOTHING";
        let now = whole_micros(link.now);
        let params: &[Param<'_>] = &[&id.as_str(), &link.email.address(), &link.email.key(), &now];
        Ok(self.run(sql, params).await? > 0)
    }

    async fn invite(&self, user: &UserId, now: Timestamp) -> Result<Option<User>, Fault> {
        let sql = concat!(
            "-- invite
             UPDATE users AS u SET invited_at = $2, updated_at = greatest(u.updated_at, $2)
             WHERE u.id = $1 RETURNING ",
            user_columns!()
        );
        self.one(sql, &[&user.as_str(), &whole_micros(now)], |row| record::user(row, 0)).await
    }

    pub(super) async fn link_of(
        &self,
        user: &UserId,
        purpose: Purpose,
    ) -> Result<Option<FoundLink>, Fault> {
        let sql = concat!(
            "-- link_of\nSELECT ",
            link_columns!(),
            " FROM one_time_tokens AS t WHERE t.user_id = $1 AND t.purpose = $2"
        );
        self.one(sql, &[&user.as_str(), &purpose.as_str()], |row| record::link(row, 0)).await
    }

    async fn insert_link(&self, link: &NewLink, user: &UserId) -> Result<(), Fault> {
        self.delete_links(user, &[link.purpose]).await?;
        let sql = "-- insert_link
            INSERT INTO one_time_tokens (digest, user_id, purpose, email_key, code, redirect_to,
                code_challenge, code_challenge_method, password_hash, user_metadata, session_id,
                created_at, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
        self.run(
            sql,
            &[
                &&link.digest.0[..],
                &user.as_str(),
                &link.purpose.as_str(),
                &link.email.key(),
                &link.code.as_ref().map(|code| &code[..]),
                &link.redirect_to,
                &link.challenge.as_ref().map(Challenge::text),
                &link.challenge.as_ref().map(|challenge| challenge.method().as_str()),
                &link.password.as_ref().map(|hash| hash.0.as_str()),
                &link.user_metadata.as_ref().map(|data| Value::Object(storable(data))),
                &link.session_id,
                &whole_micros(link.now),
                &whole_micros(link.expires_at),
            ],
        )
        .await?;
        Ok(())
    }

    /// Leaves a code for the client that asked for the link.
    async fn insert_pkce(
        &self,
        code: &PkceCode,
        link: &FoundLink,
        now: Timestamp,
    ) -> Result<(), Fault> {
        self.delete_links(&link.user_id, &[Purpose::Pkce]).await?;
        let sql = "-- insert_pkce
            INSERT INTO one_time_tokens (digest, user_id, purpose, email_key, code_challenge,
                code_challenge_method, created_at, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        self.run(
            sql,
            &[
                &&code.digest.0[..],
                &link.user_id.as_str(),
                &Purpose::Pkce.as_str(),
                &link.email_key,
                &link.challenge.as_ref().map(Challenge::text),
                &link.challenge.as_ref().map(|challenge| challenge.method().as_str()),
                &whole_micros(now),
                &whole_micros(code.expires_at),
            ],
        )
        .await?;
        Ok(())
    }

    /// Deletes the user's links of these purposes, or all.
    pub(super) async fn delete_links(
        &self,
        user: &UserId,
        purposes: &[Purpose],
    ) -> Result<(), Fault> {
        let sql = "-- delete_links
            DELETE FROM one_time_tokens
            WHERE user_id = $1 AND (purpose = ANY ($2) OR cardinality($2::text[]) = 0)";
        let purposes: Vec<_> = purposes.iter().map(|purpose| purpose.as_str()).collect();
        self.run(sql, &[&user.as_str(), &purposes]).await?;
        Ok(())
    }

    pub(super) async fn delete_link(&self, link: &FoundLink) -> Result<(), Fault> {
        let sql = "-- delete_link\nDELETE FROM one_time_tokens WHERE digest = $1";
        self.run(sql, &[&&link.digest.0[..]]).await?;
        Ok(())
    }

    /// Has a link bring nothing to the account that it proves.
    async fn empty_link(&self, link: &FoundLink) -> Result<(), Fault> {
        let sql = "-- empty_link
            UPDATE one_time_tokens SET password_hash = NULL, user_metadata = '{}'
            WHERE digest = $1";
        self.run(sql, &[&&link.digest.0[..]]).await?;
        Ok(())
    }

    /// The links that the shown thing may open, once nobody else works on those of their users.
    async fn lock_shown(&self, shown: &Shown, now: Timestamp) -> Result<Vec<FoundLink>, Fault> {
        match shown {
            Shown::Link { digest, .. } => self.lock_digest(*digest).await,
            Shown::Code { email, codes } => {
                let purposes: Vec<_> = codes.iter().map(|(purpose, _)| purpose.as_str()).collect();
                self.lock_codes(email.key(), &purposes, now).await
            }
        }
    }

    async fn lock_digest(&self, digest: TokenDigest) -> Result<Vec<FoundLink>, Fault> {
        let digest = &digest.0[..];
        let sql = "-- lock_digest
            SELECT FROM users AS u
            WHERE u.id IN (SELECT t.user_id FROM one_time_tokens AS t WHERE t.digest = $1)
            FOR UPDATE";
        self.run(sql, &[&digest]).await?;
        // Read under the lock: it may have been used meanwhile.
        let sql = concat!(
            "-- lock_digest: read\nSELECT ",
            link_columns!(),
            " FROM one_time_tokens AS t WHERE t.digest = $1"
        );
        self.all(sql, &[&digest], |row| record::link(row, 0)).await
    }

    /// Several users may want the same new address: the newest wish counts, or each would be one
    /// more chance to guess.
    async fn lock_codes(
        &self,
        email_key: &str,
        purposes: &[&str],
        now: Timestamp,
    ) -> Result<Vec<FoundLink>, Fault> {
        let now = whole_micros(now);
        let params: &[Param<'_>] = &[&email_key, &purposes, &now];
        // In the order of ids, so that two who want the same rows do not wait for each other.
        let sql = "-- lock_codes
            SELECT FROM users AS u
            WHERE u.id IN (
                SELECT t.user_id FROM one_time_tokens AS t
                WHERE t.email_key = $1 AND t.purpose = ANY ($2) AND t.code IS NOT NULL
                  AND t.expires_at > $3)
            ORDER BY u.id FOR UPDATE";
        self.run(sql, params).await?;
        let sql = concat!(
            "-- lock_codes: read\nSELECT DISTINCT ON (t.purpose) ",
            link_columns!(),
            " FROM one_time_tokens AS t
             WHERE t.email_key = $1 AND t.purpose = ANY ($2) AND t.code IS NOT NULL
               AND t.expires_at > $3
             ORDER BY t.purpose, t.created_at DESC, t.digest"
        );
        self.all(sql, params, |row| record::link(row, 0)).await
    }

    async fn count_wrong_code(&self, link: &FoundLink) -> Result<(), Fault> {
        let sql = "-- count_wrong_code
            UPDATE one_time_tokens
            SET attempts = attempts + 1, code = CASE WHEN attempts + 1 < $2 THEN code END
            WHERE digest = $1";
        let tries = i32::from(CODE_TRIES);
        self.run(sql, &[&&link.digest.0[..], &tries]).await?;
        Ok(())
    }

    async fn refuse_link(
        &self,
        link_use: &LinkUse,
        why: &str,
        link: Option<&FoundLink>,
    ) -> Result<UseLink, Fault> {
        self.record(&[refused_event(&link_use.event, why, link)]).await?;
        Ok(UseLink::Refused)
    }

    /// One side agrees to a change of address.
    async fn agree(
        &self,
        link_use: &LinkUse,
        link: &FoundLink,
        side: Side,
    ) -> Result<UseLink, Fault> {
        self.delete_link(link).await?;
        let sql = concat!(
            "-- agree
             UPDATE users AS u
             SET new_email_agreed = $2, updated_at = greatest(u.updated_at, $3)
             WHERE u.id = $1 RETURNING ",
            user_columns!()
        );
        let params: &[Param<'_>] =
            &[&link.user_id.as_str(), &side.as_str(), &whole_micros(link_use.now)];
        let Some(user) = self.one(sql, params, |row| record::user(row, 0)).await? else {
            return self.refuse_link(link_use, "unknown", None).await;
        };
        self.record(&[used_event(&link_use.event, link.purpose, &user.id, None)]).await?;
        Ok(UseLink::HalfDone { user, redirect_to: link.redirect_to.clone() })
    }

    /// Puts the wanted address in the place of the other; `None` = it is somebody else's.
    async fn take_new_email(&self, user: &UserId, now: Timestamp) -> Result<Option<User>, Fault> {
        let sql = concat!(
            "-- take_new_email
             UPDATE users AS u
             SET email = u.new_email, email_key = u.new_email_key, email_confirmed_at = $2,
                 new_email = NULL, new_email_key = NULL, new_email_at = NULL,
                 new_email_agreed = NULL, updated_at = greatest(u.updated_at, $2)
             WHERE u.id = $1 RETURNING ",
            user_columns!()
        );
        let params: &[Param<'_>] = &[&user.as_str(), &whole_micros(now)];
        self.unless_taken(self.one(sql, params, |row| record::user(row, 0))).await
    }

    /// Sets or forgets the address that the user wants.
    pub(super) async fn set_new_email(
        &self,
        user: &UserId,
        new: Option<&NewEmail>,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let sql = "-- set_new_email
            UPDATE users
            SET new_email = $2, new_email_key = $3, new_email_at = $4, new_email_agreed = $5
            WHERE id = $1";
        self.run(
            sql,
            &[
                &user.as_str(),
                &new.map(|new| new.email.address()),
                &new.map(|new| new.email.key()),
                &new.map(|_| whole_micros(now)),
                &new.and_then(|new| agreed_from_start(new.consent)).map(Side::as_str),
            ],
        )
        .await?;
        Ok(())
    }

    async fn confirm(&self, user: &UserId, now: Timestamp) -> Result<Option<User>, Fault> {
        let sql = concat!(
            "-- confirm
             UPDATE users AS u
             SET email_confirmed_at = $2, made_by_letter_at = NULL,
                 updated_at = greatest(u.updated_at, $2)
             WHERE u.id = $1 RETURNING ",
            user_columns!()
        );
        self.one(sql, &[&user.as_str(), &whole_micros(now)], |row| record::user(row, 0)).await
    }

    async fn take_over(
        &self,
        user: &UserId,
        password: Option<&PasswordHash>,
        metadata: &Value,
        now: Timestamp,
    ) -> Result<Option<User>, Fault> {
        let sql = concat!(
            "-- take_over
             UPDATE users AS u
             SET email_confirmed_at = $2, made_by_letter_at = NULL, password_hash = $3,
                 password_class = NULL,
                 user_metadata = $4, new_email = NULL, new_email_key = NULL, new_email_at = NULL, new_email_agreed = NULL,
                 updated_at = greatest(u.updated_at, $2)
             WHERE u.id = $1 RETURNING ",
            user_columns!()
        );
        let password = password.map(|hash| hash.0.as_str());
        let params: &[Param<'_>] = &[&user.as_str(), &whole_micros(now), &password, metadata];
        self.one(sql, params, |row| record::user(row, 0)).await
    }

    /// What a link leaves that had its effect: a session, or a code for one.
    async fn finish(
        &self,
        link_use: &LinkUse,
        link: &FoundLink,
        user: User,
        mut ended: Vec<EndedSession>,
        change: Option<EventKind>,
    ) -> Result<UseLink, Fault> {
        self.forget_sign_up(&link.email_key, link_use.session.address).await?;
        let (event, purpose) = (&link_use.event, link.purpose);
        let mut events: Vec<_> =
            change.map(|kind| change_event(event, kind, &user.id)).into_iter().collect();
        let redirect_to = link.redirect_to.clone();
        if let (Some(code), Some(_)) = (&link_use.pkce, &link.challenge) {
            self.insert_pkce(code, link, link_use.now).await?;
            events.push(used_event(event, purpose, &user.id, None));
            self.record(&events).await?;
            return Ok(UseLink::PkceCode { user, purpose, redirect_to, ended });
        }
        let login = link_use.session.login_of(&user.id, method_of(purpose), link_use.now);
        let surplus = self.insert_login(&login).await?;
        let user = self.log_in_by_link(&user.id, link_use.now).await?.unwrap_or(user);
        login.fit.check(&user, &login.session)?;
        events.push(used_event(event, purpose, &user.id, Some(login.session.id)));
        if !surplus.is_empty() {
            events.push(trimmed_event(event, &login));
            ended.extend(surplus);
        }
        self.record(&events).await?;
        Ok(UseLink::LoggedIn { user, session: login.session, purpose, redirect_to, ended })
    }

    /// The user, with this as the last login; `None` = disabled.
    async fn log_in_by_link(&self, user: &UserId, now: Timestamp) -> Result<Option<User>, Fault> {
        let sql = concat!(
            "-- log_in_by_link
             UPDATE users AS u SET last_sign_in_at = greatest(u.last_sign_in_at, $2)
             WHERE u.id = $1 AND (u.disabled_until IS NULL OR u.disabled_until <= $2)
             RETURNING ",
            user_columns!()
        );
        self.one(sql, &[&user.as_str(), &whole_micros(now)], |row| record::user(row, 0)).await
    }
}
