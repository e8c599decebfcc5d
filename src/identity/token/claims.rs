//! The claims of a token (RFC 7519 §4.1) and what must hold of them. Every rule is ours; nothing is
//! left to a library's defaults.

use serde_json::Value;
use uuid::Uuid;

use super::Issuer;
use crate::identity::caller::{
    Assurance, HeaderValues, Identity, Machine, is_subject, sorted_roles,
};
use crate::identity::jws::parse_object;
use crate::identity::rejection::Rejection;
use crate::model::{Aal, JsonObject, is_role_name};

/// A token's claims; to be believed only after its signature was checked.
pub(super) struct Claims(JsonObject);

/// What the claims are held against.
pub(super) struct Rules<'a> {
    pub(super) issuer: &'a Issuer,
    /// Seconds.
    pub(super) leeway: i64,
    /// Unix seconds.
    pub(super) now: i64,
}

/// The last second of the year 9999: beyond it times are nonsense, and sums could overflow.
const LAST_SECOND: i64 = 253_402_300_799;

impl Claims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Rejection> {
        parse_object(payload).map(Self)
    }

    /// `iss`, which must be one string; a list of issuers names none (RFC 7519 §4.1.1).
    pub(super) fn issuer(&self) -> Result<&str, Rejection> {
        self.text("iss")?.ok_or(Rejection::Claim("iss"))
    }

    pub(super) fn into_identity(self, rules: &Rules<'_>) -> Result<Identity, Rejection> {
        let issuer = rules.issuer;
        let names = &issuer.claims;
        let ours = issuer.index.is_ours();
        self.check_audience(&issuer.aud_claim, &issuer.aud)?;
        for (name, text) in &issuer.require {
            if self.0.get(name).and_then(Value::as_str) != Some(text) {
                return Err(Rejection::Claim("require"));
            }
        }

        let expires_at = self.time("exp", Round::Down, ours)?.ok_or(Rejection::Claim("exp"))?;
        let not_before = self.time("nbf", Round::Up, ours)?;
        let issued_at = self.time("iat", Round::Up, ours)?;
        if rules.now >= expires_at + rules.leeway {
            return Err(Rejection::Expired);
        }
        let good_from = not_before.max(issued_at).map_or(i64::MIN, |from| from - rules.leeway);
        if rules.now < good_from {
            return Err(Rejection::NotYetValid);
        }
        if let Some(max_lifetime) = issuer.max_lifetime {
            let issued_at = issued_at.ok_or(Rejection::Claim("iat"))?;
            if expires_at - issued_at > max_lifetime {
                return Err(Rejection::Claim("exp"));
            }
        }

        let subject = self.text_of(&names.subject, "sub")?.ok_or(Rejection::Claim("sub"))?;
        if !is_subject(subject, issuer.index) {
            return Err(Rejection::Claim("sub"));
        }
        let machine = if ours { self.machine()? } else { None };
        let session = if ours && machine.is_none() {
            // RFC 7519 §4.1.7. Nothing is looked up by it; a token of ours without one is none.
            self.text("jti")?.filter(|jti| !jti.is_empty()).ok_or(Rejection::Claim("jti"))?;
            Some(self.uuid("session_id")?)
        } else {
            None
        };
        let email = self.text_of(&names.email, "email").ok().flatten();
        let email_verified = self.0.get(&names.email_verified) == Some(&Value::Bool(true));
        let roles = self.roles(issuer)?;
        let assurance = if ours { self.assurance()? } else { Assurance::UNKNOWN };
        let confirmed = email.filter(|_| email_verified);
        let issuer_header = issuer.header.clone();
        let headers = HeaderValues::new(issuer_header, subject, confirmed, &roles, session)?;
        let identity = Identity {
            issuer: issuer.index,
            issuer_name: issuer.name.clone(),
            subject: subject.into(),
            email: email.map(str::to_owned),
            email_verified,
            roles,
            assurance,
            session,
            issued_at,
            expires_at,
            not_before,
            machine: None,
            key: None,
            headers,
            good_from,
            good_until: expires_at + rules.leeway,
        };
        match machine {
            Some(machine) => identity.with_machine(machine),
            None => Ok(identity),
        }
    }

    /// The program that a token of ours was given to (RFC 9068 §2.2: `client_id`, `scope`). Such a
    /// token belongs to an API key and to no session, so that it opens nothing that asks for one.
    fn machine(&self) -> Result<Option<Machine>, Rejection> {
        let Some(client) = self.text("client_id")? else { return Ok(None) };
        let scope = self.text("scope")?.unwrap_or_default();
        let scopes = scope.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned);
        Ok(Some(Machine {
            key_id: Some(self.uuid("key_id")?),
            token: Some(self.uuid("jti")?),
            client: client.into(),
            scopes: scopes.collect(),
        }))
    }

    /// A string, or nothing.
    fn text(&self, name: &'static str) -> Result<Option<&str>, Rejection> {
        self.text_of(name, name)
    }

    /// The same, of a claim that an issuer calls otherwise than we.
    fn text_of(&self, name: &str, usual: &'static str) -> Result<Option<&str>, Rejection> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Rejection::Claim(usual)),
        }
    }

    /// `aud`: one string, or a list of strings with ours among them (RFC 7519 §4.1.3). Some issuers
    /// name the client in another claim instead.
    fn check_audience(&self, claim: &str, expected: &str) -> Result<(), Rejection> {
        let named = match self.0.get(claim) {
            Some(Value::String(audience)) => audience == expected,
            Some(Value::Array(list)) => {
                if !list.iter().all(Value::is_string) {
                    return Err(Rejection::Claim("aud"));
                }
                list.iter().any(|audience| audience == expected)
            }
            _ => return Err(Rejection::Claim("aud")),
        };
        named.then_some(()).ok_or(Rejection::WrongAudience)
    }

    /// A `NumericDate` (RFC 7519 §2). Ours are whole seconds; other issuers may give fractions,
    /// which are rounded to the side on which the token is good for less time.
    fn time(&self, name: &'static str, round: Round, ours: bool) -> Result<Option<i64>, Rejection> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let whole = value.as_i64().or_else(|| {
            let number = value.as_f64().filter(|_| !ours)?;
            let rounded = match round {
                Round::Down => number.floor(),
                Round::Up => number.ceil(),
            };
            #[expect(clippy::cast_possible_truncation, reason = "saturates, then is range-checked")]
            let whole = rounded as i64;
            Some(whole)
        });
        match whole {
            Some(time @ 0..=LAST_SECOND) => Ok(Some(time)),
            _ => Err(Rejection::Claim(name)),
        }
    }

    fn uuid(&self, name: &'static str) -> Result<Uuid, Rejection> {
        let refused = Rejection::Claim(name);
        let text = self.text(name)?.ok_or(refused)?;
        let id = Uuid::try_parse(text).map_err(|_| refused)?;
        // One spelling, as we wrote it.
        (id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text)
            .then_some(id)
            .ok_or(refused)
    }

    /// `aal`, `mfa_pending`, and the newest time in `amr`. What is not there is taken for the least.
    fn assurance(&self) -> Result<Assurance, Rejection> {
        let refused = Rejection::Claim("aal");
        let aal = match self.text("aal")? {
            None => Aal::One,
            Some(word) => Aal::from_word(word).ok_or(refused)?,
        };
        let mfa_pending = match self.0.get("mfa_pending") {
            None => false,
            Some(Value::Bool(pending)) => *pending,
            Some(_) => return Err(Rejection::Claim("mfa_pending")),
        };
        let proofs = self.0.get("amr").and_then(Value::as_array);
        let times =
            proofs.into_iter().flatten().filter_map(|proof| proof.get("timestamp")?.as_i64());
        Ok(Assurance { aal, mfa_pending, proved_at: times.max() })
    }

    /// `app_metadata.roles`, or, from other issuers, a list `roles` at the top or where the
    /// configuration says. Anything but a list of well-formed role names gives no roles at all: to
    /// drop only the odd ones would let a change of spelling at the issuer pass unnoticed. Of our
    /// own tokens it is an error. Where the configuration maps roles, what it does not name is
    /// expected and left out.
    fn roles(&self, issuer: &Issuer) -> Result<Vec<String>, Rejection> {
        let ours = issuer.index.is_ours();
        let nested = || self.0.get("app_metadata").and_then(|metadata| metadata.get("roles"));
        let written = match &issuer.claims.roles {
            _ if ours => nested(),
            None => nested().or_else(|| self.0.get("roles")),
            Some(path) => self.at(path.names()),
        };
        let Some(written) = written else { return Ok(Vec::new()) };
        let list = written.as_array();
        let roles: Option<Vec<String>> = if issuer.role_map.is_empty() {
            let role =
                |role: &Value| role.as_str().filter(|role| is_role_name(role)).map(str::to_owned);
            list.and_then(|list| list.iter().map(role).collect())
        } else {
            let role = |role: &Value| issuer.role_map.get(role.as_str()?).cloned();
            list.map(|list| list.iter().filter_map(role).collect())
        };
        match roles {
            Some(roles) => Ok(sorted_roles(roles)),
            None if ours => Err(Rejection::Claim("app_metadata")),
            None => Ok(Vec::new()),
        }
    }

    fn at(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(first)?, |value, name| value.get(name))
    }
}

#[derive(Clone, Copy)]
enum Round {
    Down,
    Up,
}
