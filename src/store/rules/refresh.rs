//! Whether a shown refresh token is traded.

use std::time::Duration;

use jiff::Timestamp;

use super::whole_micros;
use crate::model::{Session, User};
use crate::store::cases::{Refresh, Rotation};

/// A refresh token as it was found, with what hangs on it. The session's row is locked.
pub(in crate::store) struct ShownToken {
    pub(in crate::store) user: User,
    pub(in crate::store) session: Session,
    /// When it was traded and for what.
    pub(in crate::store) used: Option<(Timestamp, Vec<u8>)>,
    /// Whether the token that it was traded for was traded in turn.
    pub(in crate::store) successor_used: bool,
}

/// What to do about a shown refresh token.
#[expect(clippy::large_enum_variant, reason = "one for each refresh, taken apart at once")]
#[derive(Debug, PartialEq)]
pub(in crate::store) enum Verdict {
    /// Trade it.
    Rotate,
    /// Give out the same successor again.
    Repeat(Vec<u8>),
    /// End the session: somebody else has the token too (RFC 9700 §4.14.2).
    EndSession,
    /// Answer, change nothing.
    Refuse(Refresh),
}

/// Judges a refresh token. A client that never saw the answer to its refresh (lost connection, two
/// tabs at once) shows the old token again; as long as nobody used the successor, or for
/// `reuse_window`, that is no theft.
pub(in crate::store) fn judge(token: &ShownToken, r: &Rotation) -> Verdict {
    let now = whole_micros(r.now);
    let session = &token.session;
    if let Some((_, reason)) = session.ended {
        return Verdict::Refuse(Refresh::Ended(reason));
    }
    if now >= session.expires_at || is_longer(session.last_seen_at, now, r.idle) {
        return Verdict::Refuse(Refresh::Expired);
    }
    if token.user.is_disabled(now) {
        return Verdict::Refuse(Refresh::Disabled);
    }
    match &token.used {
        None => Verdict::Rotate,
        Some((used_at, sealed))
            if !token.successor_used || !is_longer(*used_at, now, r.reuse_window) =>
        {
            Verdict::Repeat(sealed.clone())
        }
        Some(_) => Verdict::EndSession,
    }
}

/// Whether more than `limit` lies between the two times.
fn is_longer(from: Timestamp, to: Timestamp, limit: Duration) -> bool {
    Duration::try_from(to.duration_since(from)).is_ok_and(|passed| passed > limit)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{EndReason, Event, EventKind, Outcome, TokenDigest};
    use crate::store::Fit;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn token() -> ShownToken {
        let user_id: crate::model::UserId = "u-1".parse().unwrap();
        ShownToken {
            user: User::new(user_id.clone(), "ann@example.com", at(0)),
            session: Session {
                id: Uuid::nil(),
                user_id,
                created_at: at(0),
                last_seen_at: at(0),
                expires_at: at(1000),
                access_expires_at: at(100),
                address: None,
                user_agent: None,
                methods: Vec::new(),
                factor_id: None,
                ended: None,
            },
            used: None,
            successor_used: false,
        }
    }

    fn rotation(now: Timestamp) -> Rotation {
        Rotation {
            shown: TokenDigest([1; 32]),
            successor: TokenDigest([2; 32]),
            sealed_successor: vec![3],
            now,
            reuse_window: Duration::from_secs(10),
            idle: Duration::from_secs(500),
            access_expires_at: at(200),
            fit: Fit::always(),
            event: Event {
                id: Uuid::nil(),
                at: now,
                kind: EventKind::TokenRefreshed,
                outcome: Outcome::Success,
                reason: None,
                actor: None,
                user_id: None,
                email: None,
                session_id: None,
                address: None,
                user_agent: None,
                request_id: None,
            },
        }
    }

    #[test]
    fn refresh_tokens_are_judged_by_use_age_and_session() {
        type Change = fn(&mut ShownToken);
        let cases: &[(&str, i64, Change, Verdict)] = &[
            ("fresh", 1, |_| {}, Verdict::Rotate),
            ("fresh at the idle limit", 500, |_| {}, Verdict::Rotate),
            ("idle", 501, |_| {}, Verdict::Refuse(Refresh::Expired)),
            (
                "last second of the session",
                999,
                |t| t.session.last_seen_at = at(900),
                Verdict::Rotate,
            ),
            (
                "end of the session",
                1000,
                |t| t.session.last_seen_at = at(900),
                Verdict::Refuse(Refresh::Expired),
            ),
            (
                "used just now, successor used",
                11,
                |t| (t.used, t.successor_used) = (Some((at(1), vec![9])), true),
                Verdict::Repeat(vec![9]),
            ),
            (
                "used long ago, successor never used",
                300,
                |t| t.used = Some((at(1), vec![9])),
                Verdict::Repeat(vec![9]),
            ),
            (
                "used before the window, successor used",
                12,
                |t| (t.used, t.successor_used) = (Some((at(1), vec![9])), true),
                Verdict::EndSession,
            ),
            (
                "used in the future of another clock",
                5,
                |t| (t.used, t.successor_used) = (Some((at(9), vec![9])), true),
                Verdict::Repeat(vec![9]),
            ),
            (
                "ended",
                1,
                |t| t.session.ended = Some((at(1), EndReason::Logout)),
                Verdict::Refuse(Refresh::Ended(EndReason::Logout)),
            ),
            (
                "disabled user",
                1,
                |t| t.user.disabled_until = Some(at(2)),
                Verdict::Refuse(Refresh::Disabled),
            ),
            (
                "user enabled again by time",
                2,
                |t| t.user.disabled_until = Some(at(2)),
                Verdict::Rotate,
            ),
        ];
        for (name, second, change, verdict) in cases {
            let mut token = token();
            change(&mut token);
            assert_eq!(judge(&token, &rotation(at(*second))), *verdict, "{name}");
        }
    }
}
