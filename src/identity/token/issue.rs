//! Makes the access tokens of our own users (contract §5), in the shape that client libraries for
//! Supabase Auth expect.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use crate::identity::caller::Identity;
use crate::identity::jws::MAX_TOKEN_BYTES;
use crate::identity::keys::{KeyError, Signer};
use crate::model::{Aal, JsonObject, Proof, Session, SessionId, User};

/// What a token says beside its user and session.
#[derive(Clone, Copy, Debug)]
pub struct IssueOptions<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `aud`.
    pub audience: &'a str,
    /// From now to `exp`; fractions of a second are left off.
    pub lifetime: Duration,
    /// `jti`, a fresh random UUID.
    pub jti: Uuid,
    /// How much it says.
    pub extent: Extent,
}

/// How much a user's token says of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything that client libraries look for.
    Whole,
    /// What fits into a cookie: of both metadata the roles only, which the gateway needs.
    ForCookie,
}

impl Extent {
    /// Longest token. A browser drops a cookie whose name and value have more than 4096 bytes (RFC
    /// 6265bis §5.7), some already when its attributes make it longer than that.
    fn max_bytes(self) -> usize {
        match self {
            Self::Whole => MAX_TOKEN_BYTES,
            Self::ForCookie => 3900,
        }
    }
}

/// A signed access token. Prints nothing of it.
pub struct IssuedToken {
    /// The text.
    pub token: String,
    /// `exp`, in Unix seconds.
    pub expires_at: i64,
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Why no token was made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// What it says makes the token longer than anybody would accept it.
    #[error("the token would be longer than {0} bytes")]
    TooLong(usize),
    /// The signature failed.
    #[error("sign the token")]
    Sign(#[source] KeyError),
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    iat: i64,
    jti: Uuid,
    session_id: SessionId,
    email: &'a str,
    /// Not in the user's metadata, where Supabase Auth has it: clients write those themselves.
    email_verified: bool,
    role: &'a str,
    app_metadata: JsonObject,
    user_metadata: UserMetadata<'a>,
    aal: Aal,
    /// The user has a second factor, which the session has not shown.
    #[serde(skip_serializing_if = "is_false")]
    mfa_pending: bool,
    amr: &'a [Proof],
    is_anonymous: bool,
}

/// `None` = an empty object.
struct UserMetadata<'a>(Option<&'a JsonObject>);

impl Serialize for UserMetadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(object) => object.serialize(serializer),
            None => JsonObject::new().serialize(serializer),
        }
    }
}

#[derive(Serialize)]
struct ClientClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    iat: i64,
    jti: Uuid,
    client_id: &'a str,
    key_id: Option<Uuid>,
    scope: String,
    email: Option<&'a str>,
    email_verified: bool,
    role: &'a str,
    app_metadata: Roles<'a>,
}

#[derive(Serialize)]
struct Roles<'a> {
    roles: &'a [String],
}

/// Signs a token for `user` in `session`, good from `now`.
///
/// # Errors
/// [`IssueError`].
pub fn issue(
    signer: &Signer,
    user: &User,
    session: &Session,
    options: &IssueOptions<'_>,
    now: Timestamp,
) -> Result<IssuedToken, IssueError> {
    let claims = claims(user, session, options, now);
    let token = sign(signer, "JWT", &claims, options.extent.max_bytes())?;
    Ok(IssuedToken { token, expires_at: claims.exp })
}

/// Whether [`issue`] would find the token short enough. Signs nothing.
pub fn fits(
    signer: &Signer,
    user: &User,
    session: &Session,
    options: &IssueOptions<'_>,
    now: Timestamp,
) -> bool {
    let claims = claims(user, session, options, now);
    unsigned(signer, "JWT", &claims, options.extent.max_bytes()).is_ok()
}

fn claims<'a>(
    user: &'a User,
    session: &'a Session,
    options: &IssueOptions<'a>,
    now: Timestamp,
) -> Claims<'a> {
    let issued_at = now.as_second();
    let lifetime = i64::try_from(options.lifetime.as_secs()).unwrap_or(i64::MAX);
    let expires_at = issued_at.saturating_add(lifetime);
    let (app_metadata, user_metadata) = match options.extent {
        Extent::Whole => (user.public_app_metadata(), Some(&user.user_metadata)),
        Extent::ForCookie => {
            let roles = Value::from(user.roles.clone());
            (JsonObject::from_iter([("roles".to_owned(), roles)]), None)
        }
    };
    Claims {
        iss: options.issuer,
        sub: user.id.as_str(),
        aud: options.audience,
        exp: expires_at,
        iat: issued_at,
        jti: options.jti,
        session_id: session.id,
        email: &user.email,
        email_verified: user.email_confirmed_at.is_some(),
        role: "authenticated",
        app_metadata,
        user_metadata: UserMetadata(user_metadata),
        aal: session.aal(),
        mfa_pending: session.aal() == Aal::One && user.has_second_factor(),
        amr: &session.methods,
        is_anonymous: false,
    }
}

/// Signs a token for a program that has shown its API key, with some of the key's scopes (RFC 9068).
/// It names no session and has no metadata: nobody has logged in.
///
/// # Errors
/// [`IssueError`].
pub fn issue_to_client(
    signer: &Signer,
    key: &Identity,
    scopes: &[String],
    options: &IssueOptions<'_>,
    now: Timestamp,
) -> Result<IssuedToken, IssueError> {
    let issued_at = now.as_second();
    let lifetime = i64::try_from(options.lifetime.as_secs()).unwrap_or(i64::MAX);
    // Never longer than the key.
    let expires_at = issued_at.saturating_add(lifetime).min(key.expires_at);
    let machine = key.machine.as_deref();
    let claims = ClientClaims {
        iss: options.issuer,
        sub: &key.subject,
        aud: options.audience,
        exp: expires_at,
        iat: issued_at,
        jti: options.jti,
        client_id: machine.map_or("", |machine| &machine.client),
        key_id: machine.and_then(|machine| machine.key_id),
        scope: scopes.join(" "),
        email: key.email.as_deref(),
        email_verified: key.email_verified,
        role: "authenticated",
        app_metadata: Roles { roles: &key.roles },
    };
    let token = sign(signer, "at+jwt", &claims, MAX_TOKEN_BYTES)?;
    Ok(IssuedToken { token, expires_at })
}

fn sign(
    signer: &Signer,
    typ: &str,
    claims: &impl Serialize,
    max_bytes: usize,
) -> Result<String, IssueError> {
    let mut token = unsigned(signer, typ, claims, max_bytes)?;
    let signature = signer.sign(token.as_bytes()).map_err(IssueError::Sign)?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// All of a token but its signature, for which there is room.
fn unsigned(
    signer: &Signer,
    typ: &str,
    claims: &impl Serialize,
    max_bytes: usize,
) -> Result<String, IssueError> {
    let header = Header { alg: signer.algorithm().name(), kid: signer.kid(), typ };
    let mut token = String::with_capacity(1024);
    encode(&header, &mut token);
    token.push('.');
    encode(claims, &mut token);
    // A dot, and base64 without padding.
    let rest = 1 + (signer.signature_bytes() * 4).div_ceil(3);
    if token.len() + rest > max_bytes { Err(IssueError::TooLong(max_bytes)) } else { Ok(token) }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

fn encode(value: &impl Serialize, text: &mut String) {
    let json = serde_json::to_vec(value).expect("string keys and plain values always serialise");
    URL_SAFE_NO_PAD.encode_string(json, text);
}
