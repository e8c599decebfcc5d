//! Links on SQLite.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::params;
use serde_json::Value;

use super::record::owner_columns;
use super::{Db, Fault, Sqlite, micros};
use crate::model::{
    Challenge, EndReason, EndedSession, Event, EventKind, JsonObject, PasswordHash, Purpose,
    SessionId, TokenDigest, User, UserId,
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
    storable, taken_event, trimmed_event, used_event,
};

impl Sqlite {
    pub(in crate::store) async fn put_link(
        &self,
        link: &NewLink,
        not_within: Duration,
        event: &Event,
    ) -> Result<PutLink, StoreError> {
        let (link, event) = (link.clone(), event.clone());
        self.in_tx("put_link", move |db| {
            let is_new = match &link.owner {
                LinkOwner::AddressOrNew(id) => db.insert_prospect(id, &link)?,
                LinkOwner::Id(_) | LinkOwner::Address => false,
            };
            let owner = match &link.owner {
                LinkOwner::Id(id) => db.owner(id)?,
                LinkOwner::Address | LinkOwner::AddressOrNew(_) => db.owner_of(link.email.key())?,
            };
            let Some(owner) = owner else { return Ok(PutLink::NoUser) };
            if link.purpose == Purpose::EmailChangeNew
                && let Some(other) = db.owner_of(link.email.key())?
            {
                return Ok(PutLink::AddressTaken(other.user));
            }
            let mut earlier = Vec::new();
            for purpose in looked_at(link.purpose) {
                earlier.extend(db.link_of(&owner.user.id, purpose)?);
            }
            for rival in contested(&link, &owner, &earlier) {
                db.empty_link(rival)?;
            }
            let (user, link) = match may_put(&link, owner, is_new, earlier, not_within) {
                Ok(allowed) => allowed,
                Err(refusal) => return Ok(*refusal),
            };
            db.insert_link(&link, &user.id)?;
            if link.purpose == Purpose::Invite {
                let sql = "-- invite
                    UPDATE users SET invited_at = ?2, updated_at = max(updated_at, ?2)
                    WHERE id = ?1";
                db.run(sql, params![user.id.as_str(), micros(link.now)])?;
            }
            if is_new {
                db.record(&[Event { user_id: Some(user.id.clone()), ..event }])?;
            }
            Ok(PutLink::Stored(db.user(&user.id)?.unwrap_or(user)))
        })
        .await
    }

    pub(in crate::store) async fn use_link(
        &self,
        link_use: &LinkUse,
    ) -> Result<UseLink, StoreError> {
        let link_use = link_use.clone();
        self.in_tx("use_link", move |db| {
            let (link_use, now) = (&link_use, link_use.now);
            let found = db.shown(&link_use.shown, now)?;
            let link = match opened(&link_use.shown, &found, now) {
                Ok(link) => link,
                Err(why) => {
                    if let Shown::Code { .. } = link_use.shown {
                        for link in &found {
                            db.count_wrong_code(link)?;
                        }
                    }
                    return db.refuse_link(link_use, why, found.first());
                }
            };
            let Some(owner) = db.owner(&link.user_id)? else {
                return db.refuse_link(link_use, "unknown", None);
            };
            let id = &owner.user.id;
            match judge_link(link, &owner, now) {
                LinkVerdict::Refuse(why) => db.refuse_link(link_use, why, Some(link)),
                LinkVerdict::Agree(side) => db.agree(link_use, link, side),
                LinkVerdict::ChangeAddress => {
                    if !db.take_new_email(&owner, now)? {
                        db.delete_links(id, &CHANGE_OF_ADDRESS)?;
                        db.set_new_email(id, None, now)?;
                        db.record(&[taken_event(&link_use.event, id)])?;
                        return Ok(UseLink::EmailTaken);
                    }
                    db.delete_links(id, &[])?;
                    let user = db.user(id)?.unwrap_or_else(|| owner.user.clone());
                    db.post(notice(link_use, &owner.user, &user).as_slice())?;
                    let kind = EventKind::EmailChanged;
                    db.finish(link_use, link, user, Vec::new(), Some(kind))
                }
                LinkVerdict::LogIn => {
                    db.delete_link(link)?;
                    db.finish(link_use, link, owner.user, Vec::new(), None)
                }
                LinkVerdict::Confirm => {
                    let sql = "-- confirm
                        UPDATE users
                        SET email_confirmed_at = ?2, made_by_letter_at = NULL,
                            updated_at = max(updated_at, ?2)
                        WHERE id = ?1";
                    db.run(sql, params![id.as_str(), micros(now)])?;
                    db.delete_links(id, &[])?;
                    let kind = EventKind::UserConfirmed;
                    db.finish(link_use, link, owner.user, Vec::new(), Some(kind))
                }
                LinkVerdict::TakeOver { password, user_metadata } => {
                    let ended =
                        db.end_sessions(id, Sessions::All, EndReason::AddressProved, now)?;
                    db.revoke_api_keys(id, now)?;
                    db.delete_links(id, &[])?;
                    db.delete_factors(id)?;
                    db.take_over(id, password.as_ref(), user_metadata, now)?;
                    let kind = EventKind::UserConfirmed;
                    db.finish(link_use, link, owner.user, ended, Some(kind))
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
        let (verifier, session, event) = (verifier.to_owned(), session.clone(), event.clone());
        self.in_tx("trade_pkce", move |db| {
            let shown = Shown::Link { digest: code, purposes: vec![Purpose::Pkce] };
            let found = db.shown(&shown, now)?;
            let (link, why, refusal) = match (opened(&shown, &found, now), found.first()) {
                (Ok(link), _) if !fits(link, &verifier) => {
                    (link, "wrong_verifier", TradePkce::WrongVerifier)
                }
                (Ok(link), _) => {
                    db.delete_link(link)?;
                    let login = session.login_of(&link.user_id, method_of(link.purpose), now);
                    if let Some(user) = db.log_in_by_link(&link.user_id, now)? {
                        login.fit.check(&user, &login.session)?;
                        let ended = db.insert_login(&login)?;
                        let id = Some(login.session.id);
                        db.record(&[used_event(&event, link.purpose, &user.id, id)])?;
                        if !ended.is_empty() {
                            db.record(&[trimmed_event(&event, &login)])?;
                        }
                        return Ok(TradePkce::LoggedIn { user, session: login.session, ended });
                    }
                    (link, "user_disabled", TradePkce::Expired)
                }
                (Err(why @ "expired"), Some(link)) => (link, why, TradePkce::Expired),
                (Err(why), _) => {
                    db.record(&[refused_event(&event, why, None)])?;
                    return Ok(TradePkce::NotFound);
                }
            };
            db.delete_link(link)?;
            db.record(&[refused_event(&event, why, Some(link))])?;
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
        let (user, session) = (user.clone(), *session);
        self.in_tx("check_nonce", move |db| {
            let Some(link) = db.link_of(&user, Purpose::Reauthentication)? else {
                return Ok(false);
            };
            let is_right = is_nonce(&link, session, &code, now);
            if !is_right {
                db.count_wrong_code(&link)?;
            }
            Ok(is_right)
        })
        .await
    }
}

/// The links of a change of address.
pub(super) const CHANGE_OF_ADDRESS: [Purpose; 2] =
    [Purpose::EmailChangeCurrent, Purpose::EmailChangeNew];

impl Db<'_> {
    fn owner(self, user: &UserId) -> Result<Option<Owner>, Fault> {
        let sql =
            concat!("-- owner\nSELECT ", owner_columns!(), " FROM users AS u WHERE u.id = ?1");
        self.one(sql, [user.as_str()], |row| record::owner(row, 0))
    }

    fn owner_of(self, email_key: &str) -> Result<Option<Owner>, Fault> {
        let sql = concat!(
            "-- owner_of\nSELECT ",
            owner_columns!(),
            " FROM users AS u WHERE u.email_key = ?1"
        );
        self.one(sql, [email_key], |row| record::owner(row, 0))
    }

    /// An account that nobody has proved to own. Whether the address was free.
    fn insert_prospect(self, id: &UserId, link: &NewLink) -> Result<bool, Fault> {
        let sql = "-- insert_prospect
            INSERT INTO users (id, email, email_key, roles, app_metadata, user_metadata, created_at,
                updated_at, made_by_letter_at)
            VALUES (?1, ?2, ?3, '[]', '{}', '{}', ?4, ?4, ?4)
            ON CONFLICT (email_key) DO NOTHING";
        let now = micros(link.now);
        let params = params![id.as_str(), link.email.address(), link.email.key(), now];
        Ok(self.run(sql, params)? > 0)
    }

    pub(super) fn link_of(
        self,
        user: &UserId,
        purpose: Purpose,
    ) -> Result<Option<FoundLink>, Fault> {
        let sql = concat!(
            "-- link_of\nSELECT ",
            link_columns!(),
            " FROM one_time_tokens AS t WHERE t.user_id = ?1 AND t.purpose = ?2"
        );
        self.one(sql, [user.as_str(), purpose.as_str()], |row| record::link(row, 0))
    }

    fn insert_link(self, link: &NewLink, user: &UserId) -> Result<(), Fault> {
        self.delete_links(user, &[link.purpose])?;
        let sql = "-- insert_link
            INSERT INTO one_time_tokens (digest, user_id, purpose, email_key, code, redirect_to,
                code_challenge, code_challenge_method, password_hash, user_metadata, session_id,
                created_at, expires_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let metadata = link.user_metadata.as_ref();
        let params = params![
            link.digest.0,
            user.as_str(),
            link.purpose.as_str(),
            link.email.key(),
            link.code,
            link.redirect_to,
            link.challenge.as_ref().map(Challenge::text),
            link.challenge.as_ref().map(|challenge| challenge.method().as_str()),
            link.password.as_ref().map(|hash| hash.0.as_str()),
            metadata.map(|metadata| Value::Object(storable(metadata)).to_string()),
            link.session_id,
            micros(link.now),
            micros(link.expires_at),
        ];
        self.run(sql, params)?;
        Ok(())
    }

    /// Leaves a code for the client that asked for the link.
    fn insert_pkce(self, code: &PkceCode, link: &FoundLink, now: Timestamp) -> Result<(), Fault> {
        self.delete_links(&link.user_id, &[Purpose::Pkce])?;
        let sql = "-- insert_pkce
            INSERT INTO one_time_tokens (digest, user_id, purpose, email_key, code_challenge,
                code_challenge_method, created_at, expires_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let params = params![
            code.digest.0,
            link.user_id.as_str(),
            Purpose::Pkce.as_str(),
            link.email_key,
            link.challenge.as_ref().map(Challenge::text),
            link.challenge.as_ref().map(|challenge| challenge.method().as_str()),
            micros(now),
            micros(code.expires_at),
        ];
        self.run(sql, params)?;
        Ok(())
    }

    /// Deletes the user's links of these purposes, or all.
    pub(super) fn delete_links(self, user: &UserId, purposes: &[Purpose]) -> Result<(), Fault> {
        if purposes.is_empty() {
            let sql = "-- delete_links: all\nDELETE FROM one_time_tokens WHERE user_id = ?1";
            self.run(sql, [user.as_str()])?;
        }
        for purpose in purposes {
            let sql = "-- delete_links
                DELETE FROM one_time_tokens WHERE user_id = ?1 AND purpose = ?2";
            self.run(sql, [user.as_str(), purpose.as_str()])?;
        }
        Ok(())
    }

    pub(super) fn delete_link(self, link: &FoundLink) -> Result<(), Fault> {
        let sql = "-- delete_link\nDELETE FROM one_time_tokens WHERE digest = ?1";
        self.run(sql, [link.digest.0])?;
        Ok(())
    }

    /// Has a link bring nothing to the account that it proves.
    fn empty_link(self, link: &FoundLink) -> Result<(), Fault> {
        let sql = "-- empty_link
            UPDATE one_time_tokens SET password_hash = NULL, user_metadata = '{}'
            WHERE digest = ?1";
        self.run(sql, [link.digest.0])?;
        Ok(())
    }

    /// The links that the shown thing may open.
    fn shown(self, shown: &Shown, now: Timestamp) -> Result<Vec<FoundLink>, Fault> {
        match shown {
            Shown::Link { digest, .. } => {
                let sql = concat!(
                    "-- shown: link\nSELECT ",
                    link_columns!(),
                    " FROM one_time_tokens AS t WHERE t.digest = ?1"
                );
                self.all(sql, [digest.0], |row| record::link(row, 0))
            }
            Shown::Code { email, codes } => {
                // Several users may want the same new address: the newest wish counts, or each
                // would be one more chance to guess.
                let sql = concat!(
                    "-- shown: code\nSELECT ",
                    link_columns!(),
                    " FROM one_time_tokens AS t
                     WHERE t.email_key = ?1 AND t.purpose = ?2 AND t.code IS NOT NULL
                       AND t.expires_at > ?3
                     ORDER BY t.created_at DESC, t.digest LIMIT 1"
                );
                let mut found = Vec::new();
                for (purpose, _) in codes {
                    let params = params![email.key(), purpose.as_str(), micros(now)];
                    found.extend(self.one(sql, params, |row| record::link(row, 0))?);
                }
                Ok(found)
            }
        }
    }

    fn count_wrong_code(self, link: &FoundLink) -> Result<(), Fault> {
        let sql = "-- count_wrong_code
            UPDATE one_time_tokens
            SET attempts = attempts + 1, code = CASE WHEN attempts + 1 < ?2 THEN code END
            WHERE digest = ?1";
        self.run(sql, params![link.digest.0, CODE_TRIES])?;
        Ok(())
    }

    fn refuse_link(
        self,
        link_use: &LinkUse,
        why: &str,
        link: Option<&FoundLink>,
    ) -> Result<UseLink, Fault> {
        self.record(&[refused_event(&link_use.event, why, link)])?;
        Ok(UseLink::Refused)
    }

    /// One side agrees to a change of address.
    fn agree(self, link_use: &LinkUse, link: &FoundLink, side: Side) -> Result<UseLink, Fault> {
        self.delete_link(link)?;
        let sql = "-- agree
            UPDATE users SET new_email_agreed = ?2, updated_at = max(updated_at, ?3) WHERE id = ?1";
        self.run(sql, params![link.user_id.as_str(), side.as_str(), micros(link_use.now)])?;
        let Some(user) = self.user(&link.user_id)? else {
            return self.refuse_link(link_use, "unknown", None);
        };
        self.record(&[used_event(&link_use.event, link.purpose, &user.id, None)])?;
        Ok(UseLink::HalfDone { user, redirect_to: link.redirect_to.clone() })
    }

    /// Puts the wanted address in the place of the other; `false` = it is somebody else's.
    fn take_new_email(self, owner: &Owner, now: Timestamp) -> Result<bool, Fault> {
        let sql = "-- take_new_email
            UPDATE users
            SET email = new_email, email_key = new_email_key, email_confirmed_at = ?2,
                new_email = NULL, new_email_key = NULL, new_email_at = NULL,
                new_email_agreed = NULL, updated_at = max(updated_at, ?2)
            WHERE id = ?1 AND NOT EXISTS (
                SELECT 1 FROM users AS other
                WHERE other.email_key = users.new_email_key AND other.id <> ?1)";
        Ok(self.run(sql, params![owner.user.id.as_str(), micros(now)])? > 0)
    }

    /// Sets or forgets the address that the user wants.
    pub(super) fn set_new_email(
        self,
        user: &UserId,
        new: Option<&NewEmail>,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let sql = "-- set_new_email
            UPDATE users
            SET new_email = ?2, new_email_key = ?3, new_email_at = ?4, new_email_agreed = ?5
            WHERE id = ?1";
        let params = params![
            user.as_str(),
            new.map(|new| new.email.address()),
            new.map(|new| new.email.key()),
            new.map(|_| micros(now)),
            new.and_then(|new| agreed_from_start(new.consent)).map(Side::as_str),
        ];
        self.run(sql, params)?;
        Ok(())
    }

    fn take_over(
        self,
        user: &UserId,
        password: Option<&PasswordHash>,
        metadata: JsonObject,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let sql = "-- take_over
            UPDATE users
            SET email_confirmed_at = ?2, made_by_letter_at = NULL, password_hash = ?3,
                password_class = NULL,
                user_metadata = ?4, new_email = NULL, new_email_key = NULL, new_email_at = NULL, new_email_agreed = NULL,
                updated_at = max(updated_at, ?2)
            WHERE id = ?1";
        let password = password.map(|hash| hash.0.as_str());
        let metadata = Value::Object(metadata).to_string();
        self.run(sql, params![user.as_str(), micros(now), password, metadata])?;
        Ok(())
    }

    /// What a link leaves that had its effect: a session, or a code for one.
    fn finish(
        self,
        link_use: &LinkUse,
        link: &FoundLink,
        user: User,
        mut ended: Vec<EndedSession>,
        change: Option<EventKind>,
    ) -> Result<UseLink, Fault> {
        self.forget_sign_up(&link.email_key, link_use.session.address)?;
        let (event, purpose) = (&link_use.event, link.purpose);
        let mut events: Vec<_> =
            change.map(|kind| change_event(event, kind, &user.id)).into_iter().collect();
        let redirect_to = link.redirect_to.clone();
        if let (Some(code), Some(_)) = (&link_use.pkce, &link.challenge) {
            self.insert_pkce(code, link, link_use.now)?;
            events.push(used_event(event, purpose, &user.id, None));
            self.record(&events)?;
            let user = self.user(&user.id)?.unwrap_or(user);
            return Ok(UseLink::PkceCode { user, purpose, redirect_to, ended });
        }
        let login = link_use.session.login_of(&user.id, method_of(purpose), link_use.now);
        let surplus = self.insert_login(&login)?;
        let user = self.log_in_by_link(&user.id, link_use.now)?.unwrap_or(user);
        login.fit.check(&user, &login.session)?;
        events.push(used_event(event, purpose, &user.id, Some(login.session.id)));
        if !surplus.is_empty() {
            events.push(trimmed_event(event, &login));
            ended.extend(surplus);
        }
        self.record(&events)?;
        Ok(UseLink::LoggedIn { user, session: login.session, purpose, redirect_to, ended })
    }

    /// The user, with this as the last login; `None` = disabled.
    fn log_in_by_link(self, user: &UserId, now: Timestamp) -> Result<Option<User>, Fault> {
        let sql = "-- log_in_by_link
            UPDATE users SET last_sign_in_at = max(coalesce(last_sign_in_at, ?2), ?2)
            WHERE id = ?1 AND (disabled_until IS NULL OR disabled_until <= ?2)";
        if self.run(sql, params![user.as_str(), micros(now)])? == 0 {
            return Ok(None);
        }
        self.user(user)
    }
}
