//! Access tokens: whose token is it, and is it good?
//!
//! The token's own `iss` chooses among the issuers of the configuration, never a key or an address
//! of a key; the issuer's key and the algorithm pinned to it check the signature; then, and only
//! then, the claims are believed. jsonwebtoken's `decode` is not used: it accepts what we refuse
//! (any `typ`, `crit`, unknown `kid`, lists for `iss`, missing claims, tokens without end), and all
//! of that would have to be read a second time.

mod claims;
mod issue;
#[cfg(test)]
mod tests;

use std::fs;
use std::sync::Arc;

use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use self::claims::{Claims, Rules};
pub use self::issue::{IssueError, IssueOptions, IssuedToken, issue};
use super::caller::{Identity, IssuerIndex, IssuerSet, OURS};
use super::jws::Compact;
use super::keys::{KeyError, KeySet, VerifyingKey, import_public};
use super::rejection::Rejection;
use crate::config::{self, Algorithm, Problem, Tokens};

/// Judges access tokens. Immutable; a change of keys or configuration makes a new one, and caches
/// tell the two apart by their address.
pub struct Verifier {
    ours: Issuer,
    keys: Arc<KeySet>,
    others: Arc<[OtherIssuer]>,
    leeway: i64,
}

/// Who issues tokens, and what they must say.
#[derive(Clone)]
struct Issuer {
    index: IssuerIndex,
    name: Arc<str>,
    iss: String,
    aud: String,
    /// Longest `exp - iat`, in seconds; `None` for issuers whose affair it is.
    max_lifetime: Option<i64>,
}

/// Where a token says it is from.
struct Source<'a> {
    issuer: &'a Issuer,
    /// The key that its `kid` names, and when that is retired.
    key: Option<(&'a VerifyingKey, Option<i64>)>,
}

struct OtherIssuer {
    issuer: Issuer,
    key: VerifyingKey,
    kid: Option<String>,
}

impl Verifier {
    /// Compiles `[tokens]` and `[[issuers]]`, reading the issuers' key files.
    ///
    /// # Errors
    /// Every problem found.
    pub fn compile(
        tokens: &Tokens,
        keys: Arc<KeySet>,
        issuers: &[config::Issuer],
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = check_tokens(tokens);
        let mut others = Vec::new();
        for (position, config) in issuers.iter().enumerate() {
            match OtherIssuer::compile(tokens, issuers, position, config) {
                Ok(other) => others.push(other),
                Err(mut found) => problems.append(&mut found),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let seconds = |interval: config::Interval| {
            i64::try_from(interval.0.as_secs()).expect("checked: lifetimes are below 10 years")
        };
        let ours = Issuer {
            index: IssuerIndex::OURS,
            name: OURS.into(),
            iss: tokens.issuer.clone(),
            aud: tokens.audience.clone(),
            // A second of grace for lifetimes with a fraction.
            max_lifetime: Some(seconds(tokens.access_lifetime) + 1),
        };
        Ok(Self { ours, keys, others: others.into(), leeway: seconds(tokens.leeway) })
    }

    /// A verifier that believes no token: for a configuration that no request is decided by.
    pub fn believes_nothing() -> Self {
        let ours = Issuer {
            index: IssuerIndex::OURS,
            name: OURS.into(),
            iss: String::new(),
            aud: String::new(),
            max_lifetime: Some(0),
        };
        Self { ours, keys: Arc::new(KeySet::empty()), others: Arc::new([]), leeway: 0 }
    }

    /// The same rules with other keys of our own, for a rotation.
    #[must_use]
    pub fn with_keys(&self, keys: Arc<KeySet>) -> Self {
        Self {
            ours: self.ours.clone(),
            keys,
            others: Arc::clone(&self.others),
            leeway: self.leeway,
        }
    }

    /// Our own keys.
    pub fn keys(&self) -> &Arc<KeySet> {
        &self.keys
    }

    /// Judges `token` at `now` (Unix seconds) for a route that accepts `accepted`. Ended sessions
    /// are not looked at; that is [`TokenCache`](super::TokenCache)'s part.
    ///
    /// # Errors
    /// Why the token is not believed.
    pub fn verify(
        &self,
        token: &[u8],
        accepted: IssuerSet,
        now: i64,
    ) -> Result<Identity, Rejection> {
        let jws = Compact::parse(token)?;
        // RFC 8725 §3.11: so that no id token or anything else that an issuer signs passes for an
        // access token. RFC 9068 §2.1 names `at+jwt`; media types are compared in any case.
        let header = jws.header();
        let typ = header.token_type.as_deref().ok_or(Rejection::Header("typ"))?;
        if !typ.eq_ignore_ascii_case("JWT") && !typ.eq_ignore_ascii_case("at+jwt") {
            return Err(Rejection::Header("typ"));
        }
        let claims = Claims::parse(jws.unverified_payload())?;
        let source = self.source(claims.issuer()?, header.key_id.as_deref(), now)?;
        if !accepted.contains(source.issuer.index) {
            return Err(Rejection::IssuerNotAccepted);
        }
        let (key, retire_at) = source.key.ok_or(Rejection::UnknownKey)?;
        jws.verify(key)?;

        let rules = Rules { issuer: source.issuer, leeway: self.leeway, now };
        let mut identity = claims.into_identity(&rules)?;
        if let Some(retire_at) = retire_at {
            identity.good_until = identity.good_until.min(retire_at);
        }
        Ok(identity)
    }

    fn source(&self, iss: &str, kid: Option<&str>, now: i64) -> Result<Source<'_>, Rejection> {
        if iss == self.ours.iss {
            return Ok(Source { issuer: &self.ours, key: self.keys.verifying_key(kid, now) });
        }
        let other = self
            .others
            .iter()
            .find(|other| other.issuer.iss == iss)
            .ok_or(Rejection::WrongIssuer)?;
        let is_named = other.kid.is_none() || other.kid.as_deref() == kid;
        Ok(Source { issuer: &other.issuer, key: is_named.then_some((&other.key, None)) })
    }
}

impl OtherIssuer {
    fn compile(
        tokens: &Tokens,
        all: &[config::Issuer],
        position: usize,
        config: &config::Issuer,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: String| {
            problems.push(Problem::new(format!("issuers[{position}].{field}"), message));
        };
        let index = IssuerIndex::other(position);
        if index.is_none() {
            refuse("name", format!("at most {} issuers are possible", IssuerSet::MAX_OTHERS));
        }
        let earlier = &all[..position];
        if config.name.is_empty() || config.name == OURS {
            refuse("name", format!("must be a name other than `{OURS}`, which is our own issuer"));
        } else if earlier.iter().any(|other| other.name == config.name) {
            refuse("name", format!("another issuer is called `{}` already", config.name));
        }
        // A token's `iss` must lead to one key.
        if config.issuer.is_empty() {
            refuse("issuer", "must be the exact `iss` of the issuer's tokens".to_owned());
        } else if config.issuer == tokens.issuer {
            refuse("issuer", "is the same as tokens.issuer; tell the two apart".to_owned());
        } else if earlier.iter().any(|other| other.issuer == config.issuer) {
            refuse("issuer", "another entry has the same issuer already".to_owned());
        }
        if config.audience.is_empty() {
            refuse("audience", "must be the exact `aud` of tokens meant for this API".to_owned());
        }
        if config.kid.as_ref().is_some_and(String::is_empty) {
            refuse("kid", "must not be empty; leave it out to accept any".to_owned());
        }
        let key = if let [algorithm] = config.algorithms[..] {
            read_key(algorithm, config).map_err(|message| refuse("key_file", message)).ok()
        } else {
            let message = "must name the one algorithm of the key, as in [\"RS256\"]";
            refuse("algorithms", message.to_owned());
            None
        };
        match (index, key) {
            (Some(index), Some(key)) if problems.is_empty() => {
                let issuer = Issuer {
                    index,
                    name: config.name.as_str().into(),
                    iss: config.issuer.clone(),
                    aud: config.audience.clone(),
                    max_lifetime: None,
                };
                Ok(Self { issuer, key, kid: config.kid.clone() })
            }
            _ => Err(problems),
        }
    }
}

/// Reads an issuer's key file: a PEM public key, or for HS256 the secret's bytes with one newline
/// at the end left off, as editors and `echo` put one there.
fn read_key(algorithm: Algorithm, config: &config::Issuer) -> Result<VerifyingKey, String> {
    let path = config.key_file.display();
    let bytes = fs::read(&config.key_file)
        .map(Zeroizing::new)
        .map_err(|error| format!("cannot read {path}: {error}"))?;
    let key = if algorithm == Algorithm::Hs256 {
        let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        VerifyingKey::from_secret(secret.strip_suffix(b"\r").unwrap_or(secret))
    } else {
        import_public(algorithm, &bytes)
    };
    key.map_err(|error| format!("{path}: {error}"))
}

/// The problems of `[tokens]` that show without a database.
pub fn check_tokens(tokens: &Tokens) -> Vec<Problem> {
    const TEN_YEARS: u64 = 10 * 365 * 86_400;
    let mut problems = Vec::new();
    let mut refuse = |key: &str, message: String| {
        problems.push(Problem::new(format!("tokens.{key}"), message));
    };
    if tokens.issuer.is_empty() {
        refuse("issuer", "must not be empty; use the URL under which clients see /auth".to_owned());
    }
    if tokens.audience.is_empty() {
        refuse("audience", "must not be empty".to_owned());
    }
    for (key, interval) in [
        ("access_lifetime", tokens.access_lifetime),
        ("refresh_lifetime", tokens.refresh_lifetime),
        ("refresh_idle", tokens.refresh_idle),
    ] {
        if !(1..=TEN_YEARS).contains(&interval.0.as_secs()) {
            refuse(key, "must be from 1 second to 10 years".to_owned());
        }
    }
    if tokens.leeway.0.as_secs() > 300 {
        refuse("leeway", "must be at most 5 minutes; set the clocks instead".to_owned());
    }
    match (&tokens.secret, tokens.algorithm) {
        (Some(secret), Algorithm::Hs256) => {
            if let Err(error) = VerifyingKey::from_secret(secret.expose_secret().as_bytes()) {
                refuse("secret", error.to_string());
            }
        }
        (None, Algorithm::Hs256) => refuse(
            "secret",
            format!(
                "{}; set PORTCULLIS_TOKENS__SECRET_FILE to a file of 32 random bytes or more",
                KeyError::NoSecret
            ),
        ),
        (Some(_), other) => refuse(
            "secret",
            format!("is for HS256 only; with {} the keys are in the database", other.name()),
        ),
        (None, _) => {}
    }
    problems
}
