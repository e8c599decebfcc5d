//! Tokens that are believed, and what becomes of them; those that are not are in [`refused`].

mod refused;

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::config::Interval;
use crate::identity::Machine;
use crate::identity::caller::Assurance;
use crate::identity::jws::MAX_TOKEN_BYTES;
use crate::identity::keys::{Signer, generate};
use crate::model::{Aal, AuthMethod, Factor, FactorKind, Proof, Session, SigningKey, User};
use Rejection::{
    Algorithm as WrongAlgorithm, Claim, Expired, Header, IssuerNotAccepted, Malformed, NotYetValid,
    Signature, TooLong, UnknownKey, WrongAudience, WrongIssuer,
};

const NOW: i64 = 1_800_000_000;
const SESSION: &str = "5f0c4a3e-0b1d-4f6a-9c55-0d3c8a3b9f10";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Our own ES256 issuer beside one with RSA and a `kid`, and one with a shared secret.
struct World {
    verifier: Verifier,
    ours: KeySet,
    corp: KeySet,
    legacy: KeySet,
    /// A key pair that nobody trusts.
    stranger: KeySet,
    /// Every kind of public key text that an attacker can have.
    public_pem: Vec<u8>,
    _files: TempDir,
}

fn public_pem(key: &SigningKey) -> Vec<u8> {
    // openssl's way round: the SubjectPublicKeyInfo of an RSA key, from its RSAPublicKey.
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::signature::{KeyPair as _, RsaKeyPair};
    let pair = RsaKeyPair::from_pkcs8(&key.private_key).unwrap();
    let spki = pair.public_key().as_der().unwrap();
    let body = STANDARD.encode(spki.as_ref());
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n").into_bytes()
}

fn issuer(name: &str, algorithm: Algorithm, key_file: PathBuf) -> config::Issuer {
    config::Issuer::of_key_file(name, algorithm, key_file)
}

fn tokens() -> Tokens {
    Tokens {
        issuer: "https://gate.example/auth".to_owned(),
        access_lifetime: Interval::seconds(3600),
        ..Tokens::default()
    }
}

impl World {
    fn new() -> Self {
        let files = TempDir::new().unwrap();
        let new_key = |algorithm| generate(algorithm, at(0), at(0)).unwrap();
        let set =
            |key: &SigningKey| KeySet::from_keys(key.algorithm, std::slice::from_ref(key)).unwrap();
        let own = new_key(Algorithm::Es256);
        let mut corp = new_key(Algorithm::Rs256);
        corp.kid = "corp-1".to_owned();
        let public_pem = public_pem(&corp);
        fs::write(files.path().join("corp.pem"), &public_pem).unwrap();
        fs::write(files.path().join("legacy.key"), [SECRET, b"\n"].concat()).unwrap();

        let mut corp_config = issuer("corp", Algorithm::Rs256, files.path().join("corp.pem"));
        corp_config.kid = Some("corp-1".to_owned());
        let legacy_config = issuer("legacy", Algorithm::Hs256, files.path().join("legacy.key"));
        let verifier =
            Verifier::compile(&tokens(), Arc::new(set(&own)), &[corp_config, legacy_config])
                .unwrap();
        Self {
            verifier,
            ours: set(&own),
            corp: set(&corp),
            legacy: KeySet::from_secret(SECRET).unwrap(),
            stranger: set(&SigningKey { kid: own.kid, ..new_key(Algorithm::Es256) }),
            public_pem,
            _files: files,
        }
    }

    fn own_header(&self) -> Value {
        json!({"alg": "ES256", "typ": "JWT", "kid": self.signer().kid()})
    }

    fn signer(&self) -> &Signer {
        self.ours.signer(at(NOW)).unwrap()
    }

    fn verify(&self, token: &str) -> Result<Identity, Rejection> {
        let all = ["self", "corp", "legacy"].map(str::to_owned);
        let dummy = |name| issuer(name, Algorithm::Es256, PathBuf::new());
        let accepted = IssuerSet::named(&all, &[dummy("corp"), dummy("legacy")]).unwrap();
        self.verifier.verify(token.as_bytes(), accepted, NOW)
    }

    /// A token of ours with changed claims, properly signed.
    fn own(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = own_claims();
        change(&mut claims);
        sign(self.signer(), &self.own_header().to_string(), &claims.to_string())
    }

    /// A token of ours with a changed header, properly signed.
    fn own_with_header(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut header = self.own_header();
        change(&mut header);
        sign(self.signer(), &header.to_string(), &own_claims().to_string())
    }

    /// A token of ours whose payload is this text, properly signed.
    fn own_payload(&self, payload: &str) -> String {
        sign(self.signer(), &self.own_header().to_string(), payload)
    }

    fn corp(&self, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let mut header = json!({"alg": "RS256", "typ": "JWT", "kid": "corp-1"});
        let mut claims = foreign_claims("corp");
        change(&mut header, &mut claims);
        let signer = self.corp.signer(at(NOW)).unwrap();
        sign(signer, &header.to_string(), &claims.to_string())
    }

    fn legacy(&self, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let mut header = json!({"alg": "HS256", "typ": "JWT"});
        let mut claims = foreign_claims("legacy");
        change(&mut header, &mut claims);
        let signer = self.legacy.signer(at(NOW)).unwrap();
        sign(signer, &header.to_string(), &claims.to_string())
    }
}

fn own_claims() -> Value {
    json!({
        "iss": "https://gate.example/auth", "sub": "u-1001", "aud": "authenticated",
        "exp": NOW + 600, "iat": NOW - 60, "jti": "j-1", "session_id": SESSION,
        "email": "ann@example.com", "email_verified": true, "role": "authenticated",
        "app_metadata": {"provider": "email", "roles": ["staff", "admin"]},
        "user_metadata": {"roles": ["root"]}, "roles": ["root"], "is_anonymous": false,
    })
}

fn foreign_claims(name: &str) -> Value {
    json!({
        "iss": format!("https://{name}.example/"), "sub": "auth0|5f7c", "aud": "api",
        "exp": NOW + 600,
    })
}

fn join(header: &str, payload: &str, signature: impl AsRef<[u8]>) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (header, payload) = (encode(header.as_bytes()), encode(payload.as_bytes()));
    format!("{header}.{payload}.{}", encode(signature.as_ref()))
}

fn sign(signer: &Signer, header: &str, payload: &str) -> String {
    let unsigned = join(header, payload, "");
    let input = unsigned.strip_suffix('.').unwrap();
    let signature = signer.sign(input.as_bytes()).unwrap();
    join(header, payload, signature)
}

fn hmac(secret: &[u8], header: &str, payload: &str) -> String {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    let unsigned = join(header, payload, "");
    let input = unsigned.strip_suffix('.').unwrap();
    join(header, payload, sign(&Key::new(HMAC_SHA256, secret), input.as_bytes()))
}

#[test]
fn good_tokens_are_believed() {
    let world = World::new();
    let set =
        |name: &'static str, value: Value| move |claims: &mut Value| claims[name] = value.clone();
    for (name, token) in [
        ("plain", world.own(|_| {})),
        ("at+jwt", world.own_with_header(|h| h["typ"] = "at+jwt".into())),
        ("typ in any case", world.own_with_header(|h| h["typ"] = "AT+JWT".into())),
        ("typ in lower case", world.own_with_header(|h| h["typ"] = "jwt".into())),
        (
            "no kid, one key",
            world.own_with_header(|h| drop(h.as_object_mut().unwrap().remove("kid"))),
        ),
        ("unknown header member", world.own_with_header(|h| h["cty"] = "x".into())),
        ("aud list", world.own(set("aud", json!(["other", "authenticated"])))),
        ("expired within leeway", world.own(set("exp", json!(NOW - 29)))),
        ("iat ahead within leeway", world.own(set("iat", json!(NOW + 30)))),
        ("nbf ahead within leeway", world.own(set("nbf", json!(NOW + 30)))),
        ("nbf in the past", world.own(set("nbf", json!(NOW - 30)))),
        (
            "longest lifetime",
            world.own(|c| {
                c["iat"] = json!(NOW);
                c["exp"] = json!(NOW + 3601);
            }),
        ),
        ("white space in JSON", world.own_payload(&format!(" {:#}\n", own_claims()))),
        ("repeated member deeper down", world.own(set("user_metadata", json!({"a": {"a": 1}})))),
        ("other issuer", world.corp(|_, _| {})),
        ("other issuer, no lifetime cap", world.corp(|_, c| c["exp"] = json!(NOW + 999_999_999))),
        ("other issuer, fractions", world.corp(|_, c| c["exp"] = json!(1_800_000_000.5))),
        ("other issuer, exponent", world.legacy(|_, c| c["exp"] = json!(1.9e9))),
        ("shared secret", world.legacy(|_, _| {})),
        ("shared secret, any kid", world.legacy(|h, _| h["kid"] = "whatever".into())),
        ("longest subject", world.legacy(|_, c| c["sub"] = "s".repeat(255).into())),
    ] {
        assert_eq!(world.verify(&token).map(|_| ()), Ok(()), "{name}");
    }
}

/// Who shows an API key that ends at `NOW + ends`.
fn program(ends: i64) -> Identity {
    let roles = ["staff".to_owned()];
    let machine = Machine {
        key_id: Some(Uuid::from_u128(7)),
        token: None,
        client: "pck_00000007".into(),
        scopes: ["read", "write"].map(str::to_owned).to_vec(),
    };
    let ann = Identity::synthetic("u-1001", &roles, IssuerIndex::OURS, OURS.into()).unwrap();
    let ann = Identity { expires_at: NOW + ends, ..ann };
    Identity { email: Some("ann@example.com".to_owned()), email_verified: true, ..ann }
        .with_machine(machine)
        .unwrap()
}

fn options(lifetime: u64) -> IssueOptions<'static> {
    IssueOptions {
        issuer: "https://gate.example/auth",
        audience: "authenticated",
        lifetime: Duration::from_secs(lifetime),
        jti: Uuid::from_u128(9),
        extent: Extent::Whole,
    }
}

#[test]
fn a_programs_token_belongs_to_its_key_and_to_no_session() {
    let world = World::new();
    let issued = |ends, scopes: &[&str]| {
        let scopes: Vec<_> = scopes.iter().map(|&scope| scope.to_owned()).collect();
        issue_to_client(world.signer(), &program(ends), &scopes, &options(600), at(NOW)).unwrap()
    };
    let token = issued(9999, &["read"]);
    assert_eq!(token.expires_at, NOW + 600);
    let found = world.verify(&token.token).unwrap();
    let machine = found.machine.as_deref().unwrap();
    assert_eq!(machine.key_id, Some(Uuid::from_u128(7)));
    assert_eq!(machine.token, Some(Uuid::from_u128(9)));
    assert_eq!((&*machine.client, &*machine.scopes), ("pck_00000007", &["read".to_owned()][..]));
    assert_eq!((&*found.subject, &*found.roles), ("u-1001", &["staff".to_owned()][..]));
    assert_eq!((found.session, found.revoked_by()), (None, Some(Uuid::from_u128(9))));
    assert_eq!(found.headers.scopes.as_ref().unwrap(), "read");
    assert_eq!(found.headers.email.as_ref().unwrap(), "ann@example.com");

    let brief = issued(60, &[]);
    assert_eq!(brief.expires_at, NOW + 60, "not longer than the key");
    let found = world.verify(&brief.token).unwrap();
    assert_eq!(found.machine.unwrap().scopes, [""; 0]);
    assert_eq!(found.headers.scopes.as_ref().unwrap(), "", "it tells that a program calls");
}

#[test]
fn a_programs_token_must_name_its_key() {
    let world = World::new();
    let (key, jti) = (Uuid::from_u128(7).to_string(), Uuid::from_u128(9).to_string());
    let token = |change: &dyn Fn(&mut Value)| {
        world.own(|claims| {
            claims["client_id"] = "pck_00000007".into();
            claims["key_id"] = key.as_str().into();
            claims["jti"] = jti.as_str().into();
            claims["scope"] = "read".into();
            change(claims);
        })
    };
    let found = world.verify(&token(&|_| {})).unwrap();
    assert_eq!(found.session, None, "whatever it says of one");
    for (name, value) in [
        ("client_id", json!(7)),
        ("client_id", Value::Null),
        ("key_id", Value::Null),
        ("key_id", json!("7")),
        ("key_id", json!("00000000-0000-0000-0000-00000000000A")),
        ("jti", json!("j-1")),
        ("scope", json!(["read"])),
        ("scope", json!("READ")),
        ("scope", json!("read\twrite")),
    ] {
        let refused = world.verify(&token(&|claims| claims[name] = value.clone()));
        assert_eq!(refused.err(), Some(Claim(name)), "{name} {value}");
    }
}

#[test]
fn an_identity_is_what_the_token_says() {
    let world = World::new();
    let ann = world.verify(&world.own(|_| {})).unwrap();
    assert!(ann.is_ours());
    assert_eq!((&*ann.subject, &*ann.issuer_name), ("u-1001", "self"));
    assert_eq!(ann.roles, ["admin", "staff"], "from app_metadata only");
    assert_eq!(ann.session, Some(SESSION.parse().unwrap()));
    assert_eq!((ann.issued_at, ann.expires_at), (Some(NOW - 60), NOW + 600));
    assert_eq!(ann.headers.subject, "u-1001");
    assert_eq!(ann.headers.email.as_ref().unwrap(), "ann@example.com");
    assert_eq!(ann.headers.roles.as_ref().unwrap(), "admin,staff");
    assert_eq!(ann.headers.session.as_ref().unwrap(), SESSION);
    assert!(!format!("{ann:?}").contains("ann@"), "{ann:?}");
    assert!(ann.is_current(NOW + 629) && !ann.is_current(NOW + 630));
    assert!(ann.is_current(NOW - 90) && !ann.is_current(NOW - 91));

    for change in [json!(false), json!("true"), json!(1), Value::Null] {
        let ann = world.verify(&world.own(|c| c["email_verified"] = change)).unwrap();
        assert_eq!(ann.headers.email, None);
        assert_eq!(ann.email.as_deref(), Some("ann@example.com"));
    }

    let roles = |claims: Value| {
        let token = world
            .corp(|_, c| c.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone()));
        world.verify(&token).unwrap().roles
    };
    assert_eq!(roles(json!({"roles": ["b", "a", "b"]})), ["a", "b"]);
    assert_eq!(roles(json!({"app_metadata": {"roles": ["a"]}, "roles": ["b"]})), ["a"]);
    for odd in
        [json!("admin"), json!(["a", "B c"]), json!(["a", 1]), json!({"a": 1}), json!(["a,b"])]
    {
        assert!(roles(json!({"roles": odd})).is_empty());
    }
    let guest = world.verify(&world.corp(|_, _| {})).unwrap();
    assert!(!guest.is_ours() && guest.session.is_none() && guest.headers.roles.is_none());
    assert_eq!(&*guest.issuer_name, "corp");
}

#[test]
fn a_route_accepts_only_its_issuers() {
    let world = World::new();
    let corp = world.corp(|_, _| {});
    let verify =
        |token: &str| world.verifier.verify(token.as_bytes(), IssuerSet::OURS, NOW).map(|_| ());
    assert_eq!(verify(&world.own(|_| {})), Ok(()));
    assert_eq!(verify(&corp), Err(IssuerNotAccepted));
    // Also said of a token with a bad signature: it is cheaper, and helps nobody.
    assert_eq!(verify(&format!("{}AAAA", &corp[..corp.len() - 4])), Err(IssuerNotAccepted));
}

#[test]
fn a_token_ends_with_its_key() {
    let world = World::new();
    let mut key = generate(Algorithm::Es256, at(0), at(0)).unwrap();
    key.retire_at = Some(at(NOW + 100));
    let keys = Arc::new(KeySet::from_keys(Algorithm::Es256, &[key]).unwrap());
    let verifier = world.verifier.with_keys(Arc::clone(&keys));
    let signer = keys.signer(at(NOW)).unwrap();
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": signer.kid()}).to_string();
    let token = sign(signer, &header, &own_claims().to_string());
    let verify = |now| verifier.verify(token.as_bytes(), IssuerSet::OURS, now);
    let identity = verify(NOW + 99).unwrap();
    assert!(identity.is_current(NOW + 99) && !identity.is_current(NOW + 100));
    assert_eq!(verify(NOW + 100).err(), Some(UnknownKey));
    // The rotation took the old key out altogether.
    let old = world.own(|_| {});
    assert_eq!(verifier.verify(old.as_bytes(), IssuerSet::OURS, NOW).err(), Some(UnknownKey));
}

fn user() -> User {
    User {
        roles: vec!["admin".to_owned()],
        user_metadata: json!({"name": "Ann"}).as_object().unwrap().clone(),
        ..User::new("u-1001".parse().unwrap(), "ann@example.com", at(0))
    }
}

fn session() -> Session {
    Session {
        id: SESSION.parse().unwrap(),
        user_id: "u-1001".parse().unwrap(),
        created_at: at(NOW - 1000),
        last_seen_at: at(NOW),
        expires_at: at(NOW + 100_000),
        access_expires_at: at(NOW),
        address: None,
        user_agent: None,
        methods: vec![Proof::new(AuthMethod::Password, at(NOW - 1000))],
        factor_id: None,
        ended: None,
    }
}

const OPTIONS: IssueOptions<'_> = IssueOptions {
    issuer: "https://gate.example/auth",
    audience: "authenticated",
    lifetime: Duration::from_hours(1),
    jti: Uuid::from_u128(7),
    extent: Extent::Whole,
};

#[test]
fn a_token_for_a_cookie_has_the_roles_of_all_metadata_and_an_end() {
    let world = World::new();
    let options = IssueOptions { extent: Extent::ForCookie, ..OPTIONS };
    let whole = issue(world.signer(), &user(), &session(), &OPTIONS, at(NOW)).unwrap();
    let small = issue(world.signer(), &user(), &session(), &options, at(NOW)).unwrap();
    let claims = |token: &str| -> Value {
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        serde_json::from_slice(&payload).unwrap()
    };
    let mut expected = claims(&whole.token);
    expected["app_metadata"] = json!({ "roles": user().roles });
    expected["user_metadata"] = json!({});
    assert_eq!(claims(&small.token), expected);
    let identity = world.verifier.verify(small.token.as_bytes(), IssuerSet::OURS, NOW).unwrap();
    assert!(!identity.roles.is_empty() && identity.has_any_role(&user().roles));

    let many = (0..200).map(|n| format!("role-of-some-length-{n}")).collect();
    let many = User { roles: many, ..user() };
    let refused = issue(world.signer(), &many, &session(), &options, at(NOW));
    assert_eq!(refused.err(), Some(IssueError::TooLong(3900)));
    assert!(issue(world.signer(), &many, &session(), &OPTIONS, at(NOW)).is_ok());
}

#[test]
fn what_fits_is_issued_and_nothing_else() {
    let pair = |algorithm| {
        KeySet::from_keys(algorithm, &[generate(algorithm, at(0), at(0)).unwrap()]).unwrap()
    };
    for keys in [
        pair(Algorithm::Es256),
        pair(Algorithm::EdDsa),
        pair(Algorithm::Rs256),
        KeySet::from_secret(SECRET).unwrap(),
    ] {
        let signer = keys.signer(at(NOW)).unwrap();
        for (extent, most) in [(Extent::Whole, MAX_TOKEN_BYTES), (Extent::ForCookie, 3900)] {
            let options = IssueOptions { extent, ..OPTIONS };
            // A byte at a time over the edge.
            let length = |n: usize| {
                let user = User { roles: vec!["r".repeat(n)], ..user() };
                let issued = issue(signer, &user, &session(), &options, at(NOW));
                assert_eq!(issued.is_ok(), fits(signer, &user, &session(), &options, at(NOW)));
                issued.map(|issued| issued.token.len())
            };
            let edge = (0..most).find(|&n| length(most - n).is_ok()).map(|n| most - n).unwrap();
            assert!(length(edge).unwrap() + 1 >= most && length(edge).unwrap() <= most);
            assert_eq!(length(edge + 1), Err(IssueError::TooLong(most)));
        }
    }
}

#[test]
fn issued_tokens_have_the_promised_claims_and_are_believed() {
    let world = World::new();
    let issued = issue(world.signer(), &user(), &session(), &OPTIONS, at(NOW)).unwrap();
    assert_eq!(issued.expires_at, NOW + 3600);
    assert!(!format!("{issued:?}").contains(&issued.token));

    let segment = |n: usize| -> Value {
        let text = issued.token.split('.').nth(n).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    };
    assert_eq!(segment(0), world.own_header());
    assert_eq!(
        segment(1),
        json!({
            "iss": "https://gate.example/auth", "sub": "u-1001", "aud": "authenticated",
            "exp": NOW + 3600, "iat": NOW, "jti": Uuid::from_u128(7), "session_id": SESSION,
            "email": "ann@example.com", "email_verified": false, "role": "authenticated",
            "app_metadata": {"provider": "email", "providers": ["email"], "roles": ["admin"]},
            "user_metadata": {"name": "Ann"}, "aal": "aal1",
            "amr": [{"method": "password", "timestamp": NOW - 1000}], "is_anonymous": false,
        })
    );
    let ann = world.verify(&issued.token).unwrap();
    assert_eq!((&*ann.subject, &ann.roles[..]), ("u-1001", &["admin".to_owned()][..]));
    assert_eq!(ann.headers.email, None, "the address is not confirmed");

    let confirmed = User { email_confirmed_at: Some(at(0)), ..user() };
    let issued = issue(world.signer(), &confirmed, &session(), &OPTIONS, at(NOW)).unwrap();
    assert!(world.verify(&issued.token).unwrap().headers.email.is_some());

    let long = json!({"x": "x".repeat(MAX_TOKEN_BYTES)}).as_object().unwrap().clone();
    let long = User { user_metadata: long, ..user() };
    let refused = issue(world.signer(), &long, &session(), &OPTIONS, at(NOW));
    assert_eq!(refused.err(), Some(IssueError::TooLong(MAX_TOKEN_BYTES)));
}

#[test]
fn tokens_say_how_well_their_user_is_known() {
    let world = World::new();
    let claims_of = |user: &User, session: &Session| -> (Value, Assurance) {
        let issued = issue(world.signer(), user, session, &OPTIONS, at(NOW)).unwrap();
        let text = issued.token.split('.').nth(1).unwrap();
        let claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
        (claims, world.verify(&issued.token).unwrap().assurance)
    };
    let factor = |verified_at| Factor {
        id: Uuid::from_u128(1),
        kind: FactorKind::Totp,
        friendly_name: String::new(),
        verified_at,
        last_challenged_at: None,
        created_at: at(0),
        updated_at: at(0),
    };
    let password = Proof::new(AuthMethod::Password, at(NOW - 1000));
    let enrolled = User { factors: vec![factor(None)], ..user() };
    let protected = User { factors: vec![factor(None), factor(Some(at(1)))], ..user() };
    let shown = Session {
        factor_id: Some(Uuid::from_u128(1)),
        methods: vec![Proof::new(AuthMethod::Totp, at(NOW - 10)), password],
        ..session()
    };
    let one = |mfa_pending| Assurance { aal: Aal::One, mfa_pending, proved_at: Some(NOW - 1000) };
    for user in [user(), enrolled] {
        let (claims, assurance) = claims_of(&user, &session());
        assert_eq!((&claims["aal"], claims.get("mfa_pending")), (&json!("aal1"), None));
        assert_eq!(assurance, one(false));
    }
    let (claims, assurance) = claims_of(&protected, &session());
    assert_eq!((&claims["aal"], &claims["mfa_pending"]), (&json!("aal1"), &json!(true)));
    assert_eq!(assurance, one(true));
    let (claims, assurance) = claims_of(&protected, &shown);
    assert_eq!((&claims["aal"], claims.get("mfa_pending")), (&json!("aal2"), None));
    assert_eq!(
        claims["amr"],
        json!([{"method": "totp", "timestamp": NOW - 10}, {"method": "password", "timestamp": NOW - 1000}])
    );
    assert_eq!(
        assurance,
        Assurance { aal: Aal::Two, mfa_pending: false, proved_at: Some(NOW - 10) }
    );
    assert!(assurance.is_fresh(10, NOW) && !assurance.is_fresh(9, NOW));
}

#[test]
fn every_algorithm_issues_tokens_that_it_believes() {
    let options = IssueOptions { lifetime: Duration::from_mins(10), ..OPTIONS };
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256, Algorithm::Hs256] {
        let keys = if algorithm == Algorithm::Hs256 {
            KeySet::from_secret(SECRET).unwrap()
        } else {
            KeySet::from_keys(algorithm, &[generate(algorithm, at(0), at(0)).unwrap()]).unwrap()
        };
        let keys = Arc::new(keys);
        let mut tokens = Tokens { algorithm, ..tokens() };
        if algorithm == Algorithm::Hs256 {
            tokens.secret = Some("0123456789abcdef0123456789abcdef".into());
        }
        let verifier = Verifier::compile(&tokens, Arc::clone(&keys), &[]).unwrap();
        let signer = keys.signer(at(NOW)).unwrap();
        let issued = issue(signer, &user(), &session(), &options, at(NOW)).unwrap();
        let verified = verifier.verify(issued.token.as_bytes(), IssuerSet::OURS, NOW);
        assert_eq!(verified.map(|_| ()), Ok(()), "{algorithm:?}");
    }
}

#[test]
fn mistakes_in_the_configuration_are_all_named() {
    let files = TempDir::new().unwrap();
    let write = |name: &str, content: &[u8]| {
        fs::write(files.path().join(name), content).unwrap();
        files.path().join(name)
    };
    let rsa = generate(Algorithm::Rs256, at(0), at(0)).unwrap();
    let public = write("public.pem", &public_pem(&rsa));
    let secret = write("secret", SECRET);
    let short = write("short", b"0123456789abcdef0123456789abcde\n");
    let make = |name: &str, algorithm, file: &PathBuf| issuer(name, algorithm, file.clone());
    let issuers = [
        make("self", Algorithm::Rs256, &public),
        make("a", Algorithm::Es256, &public),
        make("b", Algorithm::Hs256, &public),
        make("c", Algorithm::Hs256, &short),
        make("d", Algorithm::Rs256, &secret),
        make("e", Algorithm::Rs256, &files.path().join("missing")),
        config::Issuer { algorithms: vec![], ..make("f", Algorithm::Rs256, &public) },
        config::Issuer {
            algorithms: vec![Algorithm::Rs256, Algorithm::Hs256],
            ..make("g", Algorithm::Rs256, &public)
        },
        make("a", Algorithm::Hs256, &secret),
        config::Issuer {
            issuer: "https://gate.example/auth".to_owned(),
            audience: String::new(),
            kid: Some(String::new()),
            ..make("h", Algorithm::Rs256, &public)
        },
    ];
    let tokens = Tokens { leeway: Interval::hours(1), secret: Some("x".into()), ..tokens() };
    let keys = Arc::new(KeySet::from_keys(Algorithm::Es256, &[]).unwrap());
    let problems = Verifier::compile(&tokens, keys, &issuers).err().unwrap();
    let found: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        found,
        [
            "tokens.leeway",
            "tokens.secret",
            "issuers[0].name",
            "issuers[1].key_file",
            "issuers[2].key_file",
            "issuers[3].key_file",
            "issuers[4].key_file",
            "issuers[5].key_file",
            "issuers[6].algorithms",
            "issuers[7].algorithms",
            "issuers[8].name",
            "issuers[8].issuer",
            "issuers[9].issuer",
            "issuers[9].audience",
            "issuers[9].kid",
        ]
    );
    let says = |n: usize, words: &str| {
        assert!(problems[n].message.contains(words), "{}", problems[n].message);
    };
    says(3, "P-256");
    says(4, "public key");
    says(5, "32 bytes");
    says(7, "cannot read");
}
