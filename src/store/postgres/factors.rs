//! Second factors on PostgreSQL. The user's row is locked first, then the session's, which is the
//! lock of its refresh tokens.

use jiff::Timestamp;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Db, Fault, Param, Postgres};
use crate::model::{
    Aal, EndReason, Event, FactorKind, LetterKind, Session, TokenDigest, User, UserId,
};
use crate::store::cases::{Sessions, UserUpdate};
use crate::store::error::StoreError;
use crate::store::factors::{
    AddFactor, FactorProof, FactorVerification, Holder, NewFactor, OpenChallenge, RemoveFactor,
    Remover, ReplaceRecoveryCodes, VerifyFactor,
};
use crate::store::record::{self, FACTOR_WIDTH, factor_columns, session_columns};
use crate::store::rules::{
    FoundChallenge, FoundFactor, KEEP_UNVERIFIED, before, factor_notice, failed_event, lacks_proof,
    may_add, may_remove, may_verify, methods, pause_after_wrong, raised, used_step,
    verified_events, verified_notices, whole_micros, without_second,
};

impl Postgres {
    pub(in crate::store) async fn add_factor(
        &self,
        holder: &Holder,
        new: &NewFactor,
        secret: &[u8],
        max: usize,
        event: &Event,
    ) -> Result<AddFactor, StoreError> {
        self.in_tx("add_factor", |db| async move {
            let Some((user, session)) = db.lock_holder(holder).await? else {
                return Ok(AddFactor::NoSession);
            };
            let now = whole_micros(holder.now);
            let sql = "-- add_factor: sweep
                DELETE FROM factors WHERE user_id = $1 AND verified_at IS NULL AND created_at < $2";
            let swept = db.run(sql, &[&user.id.as_str(), &before(now, KEEP_UNVERIFIED)]).await?;
            let user = if swept > 0 { db.user(&user.id).await? } else { Some(user) };
            let Some(user) = user else { return Ok(AddFactor::NoSession) };
            if let Some(refusal) = may_add(new, &user, holder, &session, max) {
                return Ok(refusal);
            }
            let sql = concat!(
                "-- add_factor
                 INSERT INTO factors AS f (id, user_id, kind, friendly_name, secret, created_at,
                     updated_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $6) RETURNING ",
                factor_columns!()
            );
            let params: &[Param<'_>] = &[
                &new.id,
                &user.id.as_str(),
                &FactorKind::Totp.as_str(),
                &new.friendly_name,
                &secret,
                &now,
            ];
            let added = db.one(sql, params, |row| record::factor(row, 0)).await?;
            let Some(added) = added else { return Ok(AddFactor::NoSession) };
            db.record(std::slice::from_ref(event)).await?;
            Ok(AddFactor::Added(added.factor))
        })
        .await
    }

    pub(in crate::store) async fn challenge_factor(
        &self,
        holder: &Holder,
        factor: Uuid,
        challenge: Uuid,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        self.at_once("challenge_factor", |db| async move {
            let sql = "-- challenge_factor
                WITH challenged AS (
                    UPDATE factors
                    SET last_challenged_at = greatest(last_challenged_at, $5),
                        updated_at = greatest(updated_at, $5)
                    WHERE id = $3 AND user_id = $1
                    RETURNING id
                )
                INSERT INTO factor_challenges (id, factor_id, session_id, expires_at)
                SELECT $4, challenged.id, s.id, $6
                FROM challenged, sessions AS s
                WHERE s.id = $2 AND s.user_id = $1";
            let params: &[Param<'_>] = &[
                &holder.user.as_str(),
                &holder.session,
                &factor,
                &challenge,
                &whole_micros(holder.now),
                &whole_micros(expires_at),
            ];
            Ok(db.run(sql, params).await? > 0)
        })
        .await
    }

    pub(in crate::store) async fn challenge(
        &self,
        holder: &Holder,
        factor: Uuid,
        challenge: Uuid,
    ) -> Result<Result<Zeroizing<Vec<u8>>, OpenChallenge>, StoreError> {
        self.on_snapshot("challenge", |db| async move {
            let sql = concat!(
                "-- challenge: secret\nSELECT ",
                factor_columns!(),
                ", f.secret FROM factors AS f WHERE f.id = $1 AND f.user_id = $2"
            );
            let found = db
                .one(sql, &[&factor, &holder.user.as_str()], |row| {
                    Ok((record::factor(row, 0)?, record::factor_secret(row, 0, FACTOR_WIDTH)?))
                })
                .await?;
            let Some((found, secret)) = found else { return Ok(Err(OpenChallenge::NoFactor)) };
            let now = holder.now;
            let is_open =
                |challenge: FoundChallenge| challenge.is_open(factor, holder.session, now);
            if !db.found_challenge(challenge).await?.is_some_and(is_open) {
                return Ok(Err(OpenChallenge::NoChallenge));
            }
            Ok(found.pause(now).map_or(Ok(secret), |until| Err(OpenChallenge::Paused(until))))
        })
        .await
    }

    pub(in crate::store) async fn verify_factor(
        &self,
        v: &FactorVerification,
    ) -> Result<VerifyFactor, StoreError> {
        self.in_tx("verify_factor", |db| async move {
            let Some((user, session)) = db.lock_holder(&v.holder).await? else {
                return Ok(VerifyFactor::NoSession);
            };
            let factor = db.factor_of(&user.id, v.factor).await?;
            let challenge = db.found_challenge(v.challenge).await?;
            let allowed = may_verify(v, &user, &session, factor.as_ref(), challenge.as_ref());
            let (factor, challenge) = match allowed {
                Ok(found) => found,
                Err(refusal) => return Ok(refusal),
            };
            let proved = match &v.proof {
                FactorProof::Code(step) => used_step(factor, *step),
                // A code shows nothing of a device that nobody has used yet.
                FactorProof::RecoveryCode(_) if !factor.factor.is_verified() => Err("wrong_code"),
                FactorProof::RecoveryCode(code) => {
                    let is_right = db.use_recovery_code(&user.id, *code).await?;
                    if is_right { Ok(factor.last_step) } else { Err("wrong_recovery_code") }
                }
            };
            match proved {
                Ok(step) => db.raise(v, &user, &session, factor, step).await,
                Err(why) => {
                    db.count_wrong_proof(v, factor, challenge).await?;
                    db.record(&[failed_event(&v.event, why)]).await?;
                    Ok(VerifyFactor::Wrong)
                }
            }
        })
        .await
    }

    pub(in crate::store) async fn remove_factor(
        &self,
        by: &Remover,
        factor: Uuid,
        notify: bool,
        event: &Event,
    ) -> Result<RemoveFactor, StoreError> {
        self.in_tx("remove_factor", |db| async move {
            let now = whole_micros(event.at);
            let (user, asking) = match by {
                Remover::Holder(holder) => match db.lock_holder(holder).await? {
                    Some((user, session)) => (user, Some((holder, session))),
                    None => return Ok(RemoveFactor::NoSession),
                },
                Remover::Administrator(user) => {
                    db.lock_user(user).await?;
                    match db.user(user).await? {
                        Some(user) => (user, None),
                        None => return Ok(RemoveFactor::NoFactor),
                    }
                }
            };
            let removed = user.factors.iter().find(|known| known.id == factor);
            let Some(removed) = removed else { return Ok(RemoveFactor::NoFactor) };
            if let Some((holder, session)) = &asking
                && let Some(refusal) = may_remove(removed, holder, session)
            {
                return Ok(refusal);
            }
            let session = asking.map(|(_, session)| session);
            let sql = "-- remove_factor\nDELETE FROM factors WHERE id = $1";
            db.run(sql, &[&factor]).await?;
            let mut ended = Vec::new();
            if removed.is_verified() {
                let which = match &session {
                    Some(session) => Sessions::OthersOfFactor(session.id, factor),
                    None => Sessions::All,
                };
                ended = db.end_sessions(&user.id, which, EndReason::FactorChanged, now).await?;
                if let Some(session) = session.filter(|session| session.factor_id == Some(factor)) {
                    db.set_proofs(&without_second(&session)).await?;
                }
                if notify {
                    let notice = factor_notice(LetterKind::FactorRemoved, &user, event);
                    db.post(notice.as_slice()).await?;
                }
                if !user.factors.iter().any(|other| other.id != factor && other.is_verified()) {
                    db.delete_recovery_codes(&user.id).await?;
                }
            }
            db.record(std::slice::from_ref(event)).await?;
            Ok(RemoveFactor::Done { ended })
        })
        .await
    }

    pub(in crate::store) async fn replace_recovery_codes(
        &self,
        holder: &Holder,
        codes: &[TokenDigest],
        event: &Event,
    ) -> Result<ReplaceRecoveryCodes, StoreError> {
        self.in_tx("replace_recovery_codes", |db| async move {
            let Some((user, session)) = db.lock_holder(holder).await? else {
                return Ok(ReplaceRecoveryCodes::NoSession);
            };
            if !user.has_second_factor() || lacks_proof(&user, holder, &session) {
                return Ok(ReplaceRecoveryCodes::NeedsAal2);
            }
            db.delete_recovery_codes(&user.id).await?;
            let sql = "-- replace_recovery_codes
                INSERT INTO recovery_codes (user_id, digest) SELECT $1, unnest($2::bytea[])";
            let digests: Vec<_> = codes.iter().map(|code| &code.0[..]).collect();
            db.run(sql, &[&user.id.as_str(), &digests]).await?;
            db.record(std::slice::from_ref(event)).await?;
            Ok(ReplaceRecoveryCodes::Done)
        })
        .await
    }
}

impl Db {
    /// User and session, once nobody else works on either; `None` = the session is over, or the
    /// user disabled.
    async fn lock_holder(&self, holder: &Holder) -> Result<Option<(User, Session)>, Fault> {
        if !self.lock_user(&holder.user).await? {
            return Ok(None);
        }
        let sql = concat!(
            "-- lock_holder\nSELECT ",
            session_columns!(),
            " FROM sessions AS s WHERE s.id = $1 AND s.user_id = $2 FOR UPDATE"
        );
        let params: &[Param<'_>] = &[&holder.session, &holder.user.as_str()];
        let session = self.one(sql, params, |row| record::session(row, 0)).await?;
        let Some(session) = session.filter(|session| session.is_alive(holder.now)) else {
            return Ok(None);
        };
        let user = self.user(&holder.user).await?;
        Ok(user.filter(|user| !user.is_disabled(holder.now)).map(|user| (user, session)))
    }

    async fn factor_of(&self, user: &UserId, factor: Uuid) -> Result<Option<FoundFactor>, Fault> {
        let sql = concat!(
            "-- factor_of\nSELECT ",
            factor_columns!(),
            " FROM factors AS f WHERE f.id = $1 AND f.user_id = $2"
        );
        self.one(sql, &[&factor, &user.as_str()], |row| record::factor(row, 0)).await
    }

    async fn found_challenge(&self, challenge: Uuid) -> Result<Option<FoundChallenge>, Fault> {
        let sql = "-- found_challenge
            SELECT id, factor_id, session_id, attempts, expires_at FROM factor_challenges
            WHERE id = $1";
        self.one(sql, &[&challenge], record::challenge).await
    }

    /// Whether the user had this code.
    async fn use_recovery_code(&self, user: &UserId, code: TokenDigest) -> Result<bool, Fault> {
        let sql = "-- use_recovery_code
            DELETE FROM recovery_codes WHERE user_id = $1 AND digest = $2";
        Ok(self.run(sql, &[&user.as_str(), &&code.0[..]]).await? > 0)
    }

    async fn delete_recovery_codes(&self, user: &UserId) -> Result<(), Fault> {
        let sql = "-- delete_recovery_codes\nDELETE FROM recovery_codes WHERE user_id = $1";
        self.run(sql, &[&user.as_str()]).await?;
        Ok(())
    }

    /// Takes all factors and recovery codes away.
    pub(super) async fn delete_factors(&self, user: &UserId) -> Result<(), Fault> {
        let sql = "-- delete_factors\nDELETE FROM factors WHERE user_id = $1";
        self.run(sql, &[&user.as_str()]).await?;
        self.delete_recovery_codes(user).await
    }

    /// Whether the user has a second factor that the session has not shown, or not when its token was
    /// made. The user's row is locked.
    pub(super) async fn lacks_second_factor(
        &self,
        user: &UserId,
        update: &UserUpdate,
    ) -> Result<bool, Fault> {
        let sql = "-- lacks_second_factor
            SELECT FROM users AS u
            WHERE u.id = $1
              AND EXISTS (SELECT FROM factors AS f
                          WHERE f.user_id = u.id AND f.verified_at IS NOT NULL)
              AND NOT ($3 AND EXISTS (SELECT FROM sessions AS s
                                      WHERE s.id = $2 AND s.user_id = u.id
                                        AND s.factor_id IS NOT NULL))";
        let has_shown = update.aal == Aal::Two;
        Ok(self.run(sql, &[&user.as_str(), &update.keep_session, &has_shown]).await? > 0)
    }

    async fn count_wrong_proof(
        &self,
        v: &FactorVerification,
        factor: &FoundFactor,
        challenge: &FoundChallenge,
    ) -> Result<(), Fault> {
        if challenge.has_one_try_left() {
            let sql = "-- count_wrong_proof: end\nDELETE FROM factor_challenges WHERE id = $1";
            self.run(sql, &[&challenge.id]).await?;
        } else {
            let sql = "-- count_wrong_proof
                UPDATE factor_challenges SET attempts = attempts + 1 WHERE id = $1";
            self.run(sql, &[&challenge.id]).await?;
        }
        if let FactorProof::Code(_) = v.proof {
            let sql = "-- count_wrong_proof: factor
                UPDATE factors SET wrong_codes = wrong_codes + 1, paused_until = $2 WHERE id = $1";
            self.run(sql, &[&v.factor, &pause_after_wrong(factor, v.holder.now)]).await?;
        }
        Ok(())
    }

    /// The effects of a right proof.
    async fn raise(
        &self,
        v: &FactorVerification,
        user: &User,
        session: &Session,
        factor: &FoundFactor,
        step: i64,
    ) -> Result<VerifyFactor, Fault> {
        let now = whole_micros(v.holder.now);
        let sql = "-- verify_factor
            UPDATE factors
            SET verified_at = coalesce(verified_at, $2), last_step = $3, wrong_codes = 0,
                paused_until = NULL, updated_at = greatest(updated_at, $2)
            WHERE id = $1";
        self.run(sql, &[&v.factor, &now, &step]).await?;
        let sql = "-- verify_factor: challenges
            DELETE FROM factor_challenges WHERE session_id = $1";
        self.run(sql, &[&session.id]).await?;
        let mut ended = Vec::new();
        if !factor.factor.is_verified() {
            // They may be of somebody who had the password only.
            let sql = "-- verify_factor: others
                DELETE FROM factors WHERE user_id = $1 AND verified_at IS NULL";
            self.run(sql, &[&user.id.as_str()]).await?;
        }
        if !user.has_second_factor() {
            let others = Sessions::Others(session.id);
            ended = self.end_sessions(&user.id, others, EndReason::FactorChanged, now).await?;
        }
        let mut raised = raised(session, &v.proof, now);
        raised.factor_id = Some(v.factor);
        self.set_proofs(&raised).await?;
        // A refresh token that was stolen before must not lead to what the factor has opened.
        let sql = "-- verify_factor: tokens\nDELETE FROM refresh_tokens WHERE session_id = $1";
        self.run(sql, &[&session.id]).await?;
        let sql = concat!(
            "-- verify_factor: session
             WITH token AS (
                 INSERT INTO refresh_tokens (digest, session_id, created_at) VALUES ($2, $1, $3)
             )
             UPDATE sessions AS s
             SET last_seen_at = greatest(s.last_seen_at, $3),
                 access_expires_at = greatest(s.access_expires_at, $4)
             WHERE s.id = $1 RETURNING ",
            session_columns!()
        );
        let params: &[Param<'_>] =
            &[&session.id, &&v.refresh.0[..], &now, &whole_micros(v.access_expires_at)];
        let session = self.one(sql, params, |row| record::session(row, 0)).await?;
        self.post(&verified_notices(v, &factor.factor, user)).await?;
        self.record(&verified_events(&v.event, &v.proof)).await?;
        let user = self.user(&user.id).await?;
        let (Some(user), Some(session)) = (user, session) else {
            return Ok(VerifyFactor::NoSession);
        };
        v.fit.check(&user, &session)?;
        Ok(VerifyFactor::Done { user: Box::new(user), session: Box::new(session), ended })
    }

    async fn set_proofs(&self, session: &Session) -> Result<(), Fault> {
        let sql = "-- set_proofs
            UPDATE sessions SET factor_id = $2, methods = $3 WHERE id = $1";
        self.run(sql, &[&session.id, &session.factor_id, &methods(session)]).await?;
        Ok(())
    }
}
