//! The life of a signing key, which is only a matter of its times and the clock, so that all gateways
//! on one database agree on it without a word between them:
//!
//! ```text
//!            key_notice                rotate_every                lifetime of a token
//! made ─────────────────▶ signs ──────────────────────▶ verifies ─────────────────────▶ gone
//!   standby, in the JWKS        active                      retiring                     retired
//!        └──────────────────────────┴── keys revoke ────────────┴──────────────────────▶ revoked
//! ```

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::config::{Algorithm, Tokens};
use crate::model::{ListedKey, words};

/// By then every gateway has read a new key: eight times as long as they wait between two looks. One
/// that signs sooner makes tokens that another gateway does not know yet.
pub const SPREAD: Duration = Duration::from_secs(2);

/// Added to the life of the last token: it is issued while the clock still says that the old key
/// signs, and may be stored, signed and sent a little later.
const LAST_TOKEN: Duration = Duration::from_secs(5);

words! {
    /// Where in its life a key is.
    KeyState {
        /// Published, and accepted already; it does not sign yet.
        Standby = "standby",
        /// It signs.
        Active = "active",
        /// It signs no more; its tokens are accepted.
        Retiring = "retiring",
        /// Its time is over.
        Retired = "retired",
        /// It was ended in an emergency.
        Revoked = "revoked",
    }
}

/// What is to be known of a key to choose the one that signs; Unix seconds.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) active_from: i64,
    pub(super) retire_at: Option<i64>,
}

impl Times {
    pub(super) fn is_retired(self, now: i64) -> bool {
        self.retire_at.is_some_and(|at| at <= now)
    }
}

/// The key that signs at `now`, of keys of one algorithm from the newest to the oldest: the newest
/// whose time has come.
///
/// One whose end is set has been superseded, even where its time to sign had not yet come then,
/// and only signs until its successor does: its last tokens must expire before it is retired.
pub(super) fn signer<K>(
    keys: impl Iterator<Item = K> + Clone,
    times: impl Fn(&K) -> Times,
    now: i64,
) -> Option<K> {
    let mut usable = keys.filter(|key| {
        let times = times(key);
        times.active_from <= now && !times.is_retired(now)
    });
    let newest = usable.clone().next();
    usable.find(|key| times(key).retire_at.is_none()).or(newest)
}

/// The state of each key where `algorithm` signs, in the order given.
pub fn states(keys: &[ListedKey], algorithm: Algorithm, now: Timestamp) -> Vec<KeyState> {
    let now = now.as_second();
    let mut order: Vec<&ListedKey> =
        keys.iter().filter(|k| k.algorithm == algorithm && k.revoked_at.is_none()).collect();
    order.sort_by_key(|key| (key.active_from, key.created_at, &key.kid));
    let active = signer(order.into_iter().rev(), |key| times(key), now).map(|key| &key.kid);
    let state = |key: &ListedKey| match times(key) {
        _ if key.revoked_at.is_some() => KeyState::Revoked,
        times if times.is_retired(now) => KeyState::Retired,
        _ if Some(&key.kid) == active => KeyState::Active,
        Times { active_from, retire_at: None } if active_from > now => KeyState::Standby,
        _ => KeyState::Retiring,
    };
    keys.iter().map(state).collect()
}

/// When the last token of a key has expired whose successor signs from `active_from` on.
pub fn retire_at(tokens: &Tokens, active_from: Timestamp) -> Timestamp {
    later(active_from, tokens.access_lifetime.0 + tokens.leeway.0 + LAST_TOKEN)
}

/// Whether a new key is due (`tokens.rotate_every`): the time from which on it is to sign. The keys
/// that sign later than [`oldest`] would make it superfluous.
pub fn due(keys: &[ListedKey], tokens: &Tokens, now: Timestamp) -> Option<Timestamp> {
    let oldest = oldest(tokens, now)?;
    let mut lasting = keys.iter().filter(|key| {
        key.algorithm == tokens.algorithm && key.revoked_at.is_none() && key.retire_at.is_none()
    });
    if lasting.any(|key| key.active_from > oldest) {
        return None;
    }
    // Others wait for the notice only where somebody signs meanwhile.
    let somebody_signs = states(keys, tokens.algorithm, now).contains(&KeyState::Active);
    Some(later(now, if somebody_signs { tokens.key_notice.0 } else { SPREAD }))
}

/// A key that began to sign then, or before, is to be replaced. `None` = none ever is.
pub fn oldest(tokens: &Tokens, now: Timestamp) -> Option<Timestamp> {
    let age = tokens.rotate_every.0.checked_sub(tokens.key_notice.0)?;
    Some(now.checked_sub(SignedDuration::try_from(age).ok()?).unwrap_or(Timestamp::MIN))
}

/// `time` and so much more, or the end of time.
pub fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn times(key: &ListedKey) -> Times {
    Times {
        active_from: key.active_from.as_second(),
        retire_at: key.retire_at.map(Timestamp::as_second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Interval;
    use crate::secrets::Protection;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(kid: &str, active_from: i64, retire_at: Option<i64>) -> ListedKey {
        ListedKey {
            kid: kid.to_owned(),
            algorithm: Algorithm::Es256,
            created_at: at(0),
            active_from: at(active_from),
            retire_at: retire_at.map(at),
            revoked_at: None,
            protection: Protection::Plain,
        }
    }

    #[test]
    fn a_key_goes_through_its_states() {
        use KeyState::{Active, Retired, Retiring, Standby};
        let keys = [key("old", 10, Some(500)), key("new", 100, None)];
        for (now, expected) in [
            (9, [Retiring, Standby]),
            (10, [Active, Standby]),
            (99, [Active, Standby]),
            (100, [Retiring, Active]),
            (499, [Retiring, Active]),
            (500, [Retired, Active]),
        ] {
            assert_eq!(states(&keys, Algorithm::Es256, at(now)), expected, "{now}");
        }
        // Superseded before its time came, and one of another algorithm.
        let mut other = key("other", 50, None);
        other.algorithm = Algorithm::EdDsa;
        let keys = [key("never", 150, Some(900)), key("new", 120, None), other];
        assert_eq!(states(&keys, Algorithm::Es256, at(200)), [Retiring, Active, Retiring]);
        assert_eq!(states(&keys, Algorithm::EdDsa, at(200)), [Retiring, Retiring, Active]);
    }

    #[test]
    fn a_revoked_key_neither_signs_nor_counts() {
        let mut keys = [key("old", 10, Some(500)), key("new", 100, None)];
        keys[1].revoked_at = Some(at(200));
        let states = states(&keys, Algorithm::Es256, at(200));
        assert_eq!(states, [KeyState::Active, KeyState::Revoked]);
    }

    #[test]
    fn a_key_is_replaced_in_time() {
        let tokens = |rotate_every, key_notice| Tokens {
            rotate_every: Interval::seconds(rotate_every),
            key_notice: Interval::seconds(key_notice),
            ..Tokens::default()
        };
        let keys = [key("one", 1000, None)];
        assert_eq!(due(&keys, &tokens(0, 600), at(1_000_000_000)), None);
        let tokens = tokens(10_000, 600);
        assert_eq!(due(&keys, &tokens, at(10_399)), None);
        // So it signs for exactly that long.
        assert_eq!(due(&keys, &tokens, at(10_400)), Some(at(11_000)));
        // It was late: the notice is kept all the same.
        assert_eq!(due(&keys, &tokens, at(20_000)), Some(at(20_600)));
        let keys = [key("one", 1000, Some(99_000)), key("two", 11_000, None)];
        assert_eq!(due(&keys, &tokens, at(10_401)), None, "there is one on standby");
        // Nobody signs.
        let mut revoked = key("one", 1000, None);
        revoked.revoked_at = Some(at(2000));
        assert_eq!(due(&[revoked], &tokens, at(2000)), Some(at(2002)));
        assert_eq!(due(&[], &tokens, at(2000)), Some(at(2002)));

        let tokens = Tokens::default();
        assert_eq!(retire_at(&tokens, at(100)), at(100 + 86_400 + 30 + 5));
    }
}
