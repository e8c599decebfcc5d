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

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use self::claims::{Claims, Rules};
pub use self::issue::{
    Extent, IssueError, IssueOptions, IssuedToken, fits, issue, issue_to_client,
};
use super::caller::{Identity, IssuerIndex, IssuerSet, OURS};
use super::jws::Compact;
use super::keys::{KeyError, KeySet, RemoteKeys, VerifyingKey, import_public};
use super::rejection::Rejection;
use crate::config::{self, Algorithm, ClaimNames, Problem, TokenType, Tokens};

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
    /// The name, for upstreams.
    header: HeaderValue,
    iss: String,
    aud: String,
    /// The claim that must be `aud`.
    aud_claim: String,
    typ: TokenType,
    /// Claims with the texts that they must have.
    require: BTreeMap<String, String>,
    claims: ClaimNames,
    /// Roles of theirs as they are called here; empty: as they call them.
    role_map: BTreeMap<String, String>,
    /// Longest `exp - iat`, in seconds; `None` for issuers whose affair it is.
    max_lifetime: Option<i64>,
}

/// Where a token says it is from.
struct Source<'a> {
    issuer: &'a Issuer,
    /// The key that its `kid` names, and when that is retired.
    key: Result<(&'a VerifyingKey, Option<i64>), Rejection>,
}

#[derive(Clone)]
struct OtherIssuer {
    issuer: Arc<Issuer>,
    keys: OtherKeys,
}

/// Another issuer's keys.
#[derive(Clone)]
enum OtherKeys {
    /// Read from a file.
    File { key: Arc<VerifyingKey>, kid: Option<String> },
    /// Fetched from it; empty before the first time.
    Remote(Arc<RemoteKeys>),
}

impl Issuer {
    /// Our own.
    fn ours(iss: String, aud: String, max_lifetime: i64) -> Self {
        Self {
            index: IssuerIndex::OURS,
            name: OURS.into(),
            header: HeaderValue::from_static(OURS),
            iss,
            aud,
            aud_claim: "aud".to_owned(),
            typ: TokenType::Required,
            require: BTreeMap::new(),
            claims: ClaimNames::default(),
            role_map: BTreeMap::new(),
            max_lifetime: Some(max_lifetime),
        }
    }

    /// Whether its access tokens may have this `typ`. RFC 8725 §3.11: so that no id token or
    /// anything else that an issuer signs passes for one. RFC 9068 §2.1 names `at+jwt`; RFC 7515
    /// §4.1.9 lets `application/` be left out and has media types compared in any case.
    fn takes_type(&self, typ: Option<&str>) -> bool {
        let Some(typ) = typ else { return self.typ == TokenType::Optional };
        let is = |name: &str| typ.eq_ignore_ascii_case(name);
        let is_access_token = is("at+jwt") || is("application/at+jwt");
        is_access_token || self.typ != TokenType::AccessToken && is("JWT")
    }
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
        // A second of grace for lifetimes with a fraction.
        let max_lifetime = seconds(tokens.access_lifetime) + 1;
        let ours = Issuer::ours(tokens.issuer.clone(), tokens.audience.clone(), max_lifetime);
        Ok(Self { ours, keys, others: others.into(), leeway: seconds(tokens.leeway) })
    }

    /// A verifier that believes no token: for a configuration that no request is decided by.
    pub fn believes_nothing() -> Self {
        let ours = Issuer::ours(String::new(), String::new(), 0);
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

    /// The same rules with other keys of issuers whose keys are fetched: those that `known` has
    /// for an issuer's name, for the others those that are there.
    #[must_use]
    pub fn with_remote_keys(&self, known: impl Fn(&str) -> Option<Arc<RemoteKeys>>) -> Self {
        let others = self.others.iter().map(|other| {
            let mut other = other.clone();
            if let OtherKeys::Remote(keys) = &mut other.keys
                && let Some(known) = known(&other.issuer.name)
            {
                *keys = known;
            }
            other
        });
        Self {
            ours: self.ours.clone(),
            keys: Arc::clone(&self.keys),
            others: others.collect(),
            leeway: self.leeway,
        }
    }

    /// The name of the issuer that `token` says it is from, when that issuer's keys are fetched.
    pub fn remote_issuer_of(&self, token: &[u8]) -> Option<Arc<str>> {
        let jws = Compact::parse(token).ok()?;
        let claims = Claims::parse(jws.unverified_payload()).ok()?;
        let iss = claims.issuer().ok()?;
        let other = self.others.iter().find(|other| other.issuer.iss == iss)?;
        matches!(other.keys, OtherKeys::Remote(_)).then(|| Arc::clone(&other.issuer.name))
    }

    /// The name of an issuer of the configuration.
    pub fn name_of(&self, index: IssuerIndex) -> Option<&Arc<str>> {
        let mut others = self.others.iter().map(|other| &other.issuer);
        others.find(|issuer| issuer.index == index).map(|issuer| &issuer.name)
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
        let header = jws.header();
        let claims = Claims::parse(jws.unverified_payload())?;
        let source = self.source(claims.issuer()?, header.key_id.as_deref(), now)?;
        if !source.issuer.takes_type(header.token_type.as_deref()) {
            return Err(Rejection::Header("typ"));
        }
        if !accepted.contains(source.issuer.index) {
            return Err(Rejection::IssuerNotAccepted);
        }
        let (key, retire_at) = source.key?;
        jws.verify(key)?;

        let rules = Rules { issuer: source.issuer, leeway: self.leeway, now };
        let mut identity = claims.into_identity(&rules)?;
        if source.issuer.index == self.ours.index {
            identity.key = self.keys.kid(header.key_id.as_deref(), now).map(Arc::from);
        }
        if let Some(retire_at) = retire_at {
            identity.good_until = identity.good_until.min(retire_at);
        }
        Ok(identity)
    }

    fn source(&self, iss: &str, kid: Option<&str>, now: i64) -> Result<Source<'_>, Rejection> {
        if iss == self.ours.iss {
            let key = self.keys.verifying_key(kid, now).ok_or(Rejection::UnknownKey);
            return Ok(Source { issuer: &self.ours, key });
        }
        let other = self
            .others
            .iter()
            .find(|other| other.issuer.iss == iss)
            .ok_or(Rejection::WrongIssuer)?;
        let issuer = &*other.issuer;
        let key = match &other.keys {
            OtherKeys::File { key, kid: expected } => {
                let is_named = expected.is_none() || expected.as_deref() == kid;
                is_named.then_some((&**key, None)).ok_or(Rejection::UnknownKey)
            }
            // A set that is fetched again cannot help a token that names no key.
            OtherKeys::Remote(keys) => {
                keys.verifying_key(kid).map(|key| (key, None)).ok_or_else(|| {
                    match (keys.is_empty(), kid) {
                        (true, kid) => Rejection::NoIssuerKeys(kid.map(|_| issuer.index)),
                        (false, None) => Rejection::UnknownKey,
                        (false, Some(_)) => Rejection::UnknownRemoteKey(issuer.index),
                    }
                })
            }
        };
        Ok(Source { issuer, key })
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
        let header = HeaderValue::from_str(&config.name)
            .map_err(|_| refuse("name", "must be of visible ASCII characters".to_owned()));
        let keys = match (&config.key_file, &config.jwks_url, &config.algorithms[..]) {
            (Some(file), None, &[algorithm]) => read_key(algorithm, file)
                .map(|key| OtherKeys::File { key: Arc::new(key), kid: config.kid.clone() })
                .map_err(|message| refuse("key_file", message))
                .ok(),
            (Some(_), None, _) => {
                let message = "must name the one algorithm of the key, as in [\"RS256\"]";
                refuse("algorithms", message.to_owned());
                None
            }
            (None, Some(_), algorithms)
                if algorithms.is_empty() || algorithms.contains(&Algorithm::Hs256) =>
            {
                let message = "must name algorithms of public keys, as in [\"RS256\"]";
                refuse("algorithms", message.to_owned());
                None
            }
            (None, Some(_), _) => Some(OtherKeys::Remote(Arc::default())),
            (Some(_), Some(_), _) | (None, None, _) => {
                refuse("key_file", "must be there, or jwks_url, and not both".to_owned());
                None
            }
        };
        match (index, header, keys) {
            (Some(index), Ok(header), Some(keys)) if problems.is_empty() => {
                let issuer = Issuer {
                    index,
                    name: config.name.as_str().into(),
                    header,
                    iss: config.issuer.clone(),
                    aud: config.audience.clone(),
                    aud_claim: config.audience_claim.clone(),
                    typ: config.typ,
                    require: config.require.clone(),
                    claims: config.claims.clone(),
                    role_map: config.role_map.clone(),
                    max_lifetime: config.max_lifetime.map(seconds),
                };
                Ok(Self { issuer: Arc::new(issuer), keys })
            }
            _ => Err(problems),
        }
    }
}

/// Whole seconds.
fn seconds(interval: config::Interval) -> i64 {
    i64::try_from(interval.0.as_secs()).expect("checked: intervals are below 10 years")
}

/// Reads an issuer's key file: a PEM public key, or for HS256 the secret's bytes with one newline
/// at the end left off, as editors and `echo` put one there.
fn read_key(algorithm: Algorithm, file: &Path) -> Result<VerifyingKey, String> {
    let path = file.display();
    let bytes = fs::read(file)
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
