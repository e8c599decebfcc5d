//! Tokens that must be refused, each with the reason: one line for each trick that has worked on
//! somebody (RFC 8725 §2, the advisories of other gateways and libraries).

use super::*;

#[test]
fn bad_tokens_are_refused_for_what_is_wrong_with_them() {
    let world = World::new();
    let good = world.own(|_| {});
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("three segments") };
    let claims = own_claims().to_string();
    let own_header = world.own_header().to_string();
    let kid = world.signer().kid();

    let own = |name: &'static str, value: Value| world.own(move |c| c[name] = value);
    let without = |name: &str| world.own(|c| drop(c.as_object_mut().unwrap().remove(name)));
    let head = |name: &str, value: Value| world.own_with_header(|h| h[name] = value);
    let headless =
        |name: &str| world.own_with_header(|h| drop(h.as_object_mut().unwrap().remove(name)));
    let payload_with = |member: &str| {
        world.own_payload(&format!("{{{member},{}", claims.strip_prefix('{').unwrap()))
    };
    let corp = |name: &'static str, value: Value| world.corp(move |_, c| c[name] = value);
    let alg = |name: &str| {
        let changed = json!({"alg": name, "typ": "JWT", "kid": kid}).to_string();
        sign(world.signer(), &changed, &claims)
    };
    let none = |name: &str| join(&json!({"alg": name, "typ": "JWT"}).to_string(), &claims, "");
    let hs256 = r#"{"alg":"HS256","typ":"JWT","kid":"corp-1"}"#;
    let hs256_own = json!({"alg": "HS256", "typ": "JWT", "kid": kid}).to_string();
    let corp_claims = foreign_claims("corp").to_string();
    let stranger = world.stranger.signer(at(NOW)).unwrap();
    let flip = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    // The 86th character of an ES256 signature carries two bits of it and four that are spare.
    let spare_bits = {
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let last = alphabet.find(&signature[85..]).unwrap();
        format!("{header}.{payload}.{}{}", &signature[..85], &alphabet[last + 1..last + 2])
    };
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let zero_r = [&[0; 32], &raw[32..]].concat();

    let cases: Vec<(&str, String, Rejection)> = vec![
        // Form.
        ("empty", String::new(), Malformed),
        ("one segment", header.into(), Malformed),
        ("two segments", format!("{header}.{payload}"), Malformed),
        ("four segments", format!("{good}.{signature}"), Malformed),
        ("five segments, as a JWE has", format!("{header}.{payload}.{signature}.AA.AA"), Malformed),
        ("JWE in three segments", head("enc", "A256GCM".into()), Header("enc")),
        ("padding", format!("{good}=="), Malformed),
        ("space in front", format!(" {good}"), Malformed),
        ("line end behind", format!("{good}\n"), Malformed),
        ("space in a segment", format!("{header}.{payload} .{signature}"), Malformed),
        ("line break in a segment", format!("{header}.\r\n{payload}.{signature}"), Malformed),
        ("plain base64 alphabet", format!("{header}.{payload}.+/{}", &signature[2..]), Malformed),
        ("spare bits set", spare_bits, Malformed),
        (
            "JSON serialization",
            json!({"payload": payload, "signature": signature}).to_string(),
            Malformed,
        ),
        ("too long", own("user_metadata", "x".repeat(MAX_TOKEN_BYTES).into()), TooLong),
        ("a megabyte", "A".repeat(1 << 20), TooLong),
        ("NUL", format!("{header}.{payload}.\0"), Malformed),
        // Header.
        ("header is a list", sign(world.signer(), "[]", &claims), Malformed),
        ("header is no JSON", sign(world.signer(), "{alg:ES256}", &claims), Malformed),
        (
            "header is not UTF-8",
            format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode(b"{\"alg\":\"\xff\"}")),
            Malformed,
        ),
        (
            "alg twice",
            sign(world.signer(), &own_header.replacen('{', r#"{"alg":"none","#, 1), &claims),
            Malformed,
        ),
        ("no alg", headless("alg"), Header("alg")),
        ("alg is a list", head("alg", json!(["ES256"])), Header("alg")),
        ("no typ", headless("typ"), Header("typ")),
        ("typ null", head("typ", Value::Null), Header("typ")),
        ("typ of an id token", head("typ", "ID".into()), Header("typ")),
        ("typ of a refresh token", head("typ", "rt+jwt".into()), Header("typ")),
        ("typ of a logout token", head("typ", "logout+jwt".into()), Header("typ")),
        ("typ with a space", head("typ", "JWT ".into()), Header("typ")),
        ("crit", head("crit", json!(["exp"])), Header("crit")),
        ("empty crit", head("crit", json!([])), Header("crit")),
        ("crit of an unknown extension", head("crit", json!(["x"])), Header("crit")),
        ("b64", head("b64", json!(false)), Header("b64")),
        ("zip", head("zip", "DEF".into()), Header("zip")),
        ("jwk", head("jwk", json!({"kty": "oct", "k": "AA"})), Header("jwk")),
        ("jku", head("jku", "https://evil.example/".into()), Header("jku")),
        ("x5u", head("x5u", "https://evil.example/".into()), Header("x5u")),
        // Keys and algorithms.
        ("unknown kid", head("kid", "other".into()), UnknownKey),
        ("empty kid", head("kid", "".into()), UnknownKey),
        ("kid is a number", head("kid", json!(1)), Header("kid")),
        ("kid is a path", head("kid", "../../dev/null".into()), UnknownKey),
        ("kid is SQL", head("kid", "x' UNION SELECT 'key".into()), UnknownKey),
        ("kid of another issuer", head("kid", "corp-1".into()), UnknownKey),
        (
            "configured kid missing",
            world.corp(|h, _| drop(h.as_object_mut().unwrap().remove("kid"))),
            UnknownKey,
        ),
        ("configured kid differs", world.corp(|h, _| h["kid"] = "corp-2".into()), UnknownKey),
        ("none", none("none"), WrongAlgorithm),
        ("None", none("None"), WrongAlgorithm),
        ("NONE", none("NONE"), WrongAlgorithm),
        ("nOnE", none("nOnE"), WrongAlgorithm),
        ("no alg at all, unsigned", none(""), WrongAlgorithm),
        ("none with a signature", alg("none"), WrongAlgorithm),
        ("es256 in lower case", alg("es256"), WrongAlgorithm),
        ("ES384", alg("ES384"), WrongAlgorithm),
        ("ES256K", alg("ES256K"), WrongAlgorithm),
        ("EdDSA", alg("EdDSA"), WrongAlgorithm),
        ("PS256", world.corp(|h, _| h["alg"] = "PS256".into()), WrongAlgorithm),
        ("RS512", world.corp(|h, _| h["alg"] = "RS512".into()), WrongAlgorithm),
        (
            "HS512 for an HS256 secret",
            world.legacy(|h, _| h["alg"] = "HS512".into()),
            WrongAlgorithm,
        ),
        (
            "HS256 with the public key's text",
            hmac(&world.public_pem, hs256, &corp_claims),
            WrongAlgorithm,
        ),
        (
            "HS256 with the public key's text, trimmed",
            hmac(world.public_pem.trim_ascii_end(), hs256, &corp_claims),
            WrongAlgorithm,
        ),
        ("HS256 with an empty key", hmac(b"", &hs256_own, &claims), WrongAlgorithm),
        ("HS256 with the other issuer's secret", hmac(SECRET, &hs256_own, &claims), WrongAlgorithm),
        // Signatures.
        ("no signature", format!("{header}.{payload}."), Signature),
        ("another key", sign(stranger, &own_header, &claims), Signature),
        (
            "another secret",
            hmac(
                b"another",
                r#"{"alg":"HS256","typ":"JWT"}"#,
                &foreign_claims("legacy").to_string(),
            ),
            Signature,
        ),
        (
            "another issuer's key",
            sign(world.corp.signer(at(NOW)).unwrap(), &own_header, &claims),
            Signature,
        ),
        ("signature changed", flip(&good, good.len() - 20), Signature),
        ("signature cut", format!("{header}.{payload}.{}", &signature[..84]), Signature),
        (
            "signature doubled",
            format!(
                "{header}.{payload}.{}",
                URL_SAFE_NO_PAD.encode([raw.clone(), raw.clone()].concat())
            ),
            Signature,
        ),
        ("r and s are zero", join(&own_header, &claims, [0; 64]), Signature),
        ("r is zero", join(&own_header, &claims, zero_r), Signature),
        (
            "payload changed",
            join(&own_header, &claims.replace("u-1001", "u-1002"), &raw),
            Signature,
        ),
        ("header changed", join(&own_header.replace("JWT", "jwt"), &claims, &raw), Signature),
        (
            "payload of another token",
            format!(
                "{header}.{}.{signature}",
                own("sub", "u-1002".into()).split('.').nth(1).unwrap()
            ),
            Signature,
        ),
        (
            "RSA signature of zeros",
            join(r#"{"alg":"RS256","typ":"JWT","kid":"corp-1"}"#, &corp_claims, [0; 256]),
            Signature,
        ),
        (
            "HMAC cut",
            join(r#"{"alg":"HS256","typ":"JWT"}"#, &foreign_claims("legacy").to_string(), [0; 16]),
            Signature,
        ),
        // Payload.
        ("payload is empty", world.own_payload(""), Malformed),
        ("payload is a list", world.own_payload("[]"), Malformed),
        ("payload is a text", world.own_payload("\"x\""), Malformed),
        ("payload is a nested token", world.own_payload(&good), Malformed),
        ("two objects", world.own_payload(&format!("{claims}{claims}")), Malformed),
        ("sub twice", payload_with(r#""sub":"u-1""#), Malformed),
        ("exp twice", payload_with(r#""exp":9999999999"#), Malformed),
        ("sub twice, escaped", payload_with(r#""\u0073ub":"u-1""#), Malformed),
        ("a member nobody reads twice", payload_with(r#""x":1,"x":1"#), Malformed),
        ("lone surrogate", payload_with(r#""x":"\ud800""#), Malformed),
        (
            "deep nesting",
            payload_with(&format!(r#""x":{}1{}"#, "[".repeat(1000), "]".repeat(1000))),
            Malformed,
        ),
        ("byte order mark", world.own_payload(&format!("\u{feff}{claims}")), Malformed),
        // Issuer and audience.
        ("no iss", without("iss"), Claim("iss")),
        ("iss is a list", own("iss", json!(["https://gate.example/auth"])), Claim("iss")),
        ("iss is null", own("iss", Value::Null), Claim("iss")),
        ("unknown iss", own("iss", "https://evil.example/".into()), WrongIssuer),
        ("iss with a slash", own("iss", "https://gate.example/auth/".into()), WrongIssuer),
        ("iss in capitals", own("iss", "https://GATE.example/auth".into()), WrongIssuer),
        ("iss with a space", own("iss", "https://gate.example/auth ".into()), WrongIssuer),
        ("empty iss", own("iss", "".into()), WrongIssuer),
        ("iss of another issuer", own("iss", "https://legacy.example/".into()), WrongAlgorithm),
        ("other issuer takes our iss", corp("iss", "https://gate.example/auth".into()), UnknownKey),
        ("no aud", without("aud"), Claim("aud")),
        ("aud is null", own("aud", Value::Null), Claim("aud")),
        ("aud is a number", own("aud", json!(1)), Claim("aud")),
        ("aud is an object", own("aud", json!({"authenticated": true})), Claim("aud")),
        ("aud list with a number", own("aud", json!(["authenticated", 1])), Claim("aud")),
        ("aud list in a list", own("aud", json!([["authenticated"]])), Claim("aud")),
        ("empty aud", own("aud", "".into()), WrongAudience),
        ("empty aud list", own("aud", json!([])), WrongAudience),
        ("other aud", own("aud", "api".into()), WrongAudience),
        ("aud as a prefix", own("aud", "authenticated2".into()), WrongAudience),
        ("aud in capitals", own("aud", "Authenticated".into()), WrongAudience),
        ("aud with commas", own("aud", "other,authenticated".into()), WrongAudience),
        // Times.
        ("no exp", without("exp"), Claim("exp")),
        ("exp is null", own("exp", Value::Null), Claim("exp")),
        ("exp is a text", own("exp", (NOW + 600).to_string().into()), Claim("exp")),
        ("exp is true", own("exp", json!(true)), Claim("exp")),
        ("exp is a list", own("exp", json!([NOW + 600])), Claim("exp")),
        ("exp has a fraction", own("exp", json!(1_800_000_600.5)), Claim("exp")),
        ("exp is negative", own("exp", json!(-1)), Claim("exp")),
        ("exp is huge", own("exp", json!(u64::MAX)), Claim("exp")),
        ("exp wraps round", own("exp", json!(i64::MAX)), Claim("exp")),
        (
            "exp is 1e400",
            world.own_payload(&claims.replace(&(NOW + 600).to_string(), "1e400")),
            Malformed,
        ),
        ("other issuer, exp is 1e300", corp("exp", json!(1e300)), Claim("exp")),
        ("other issuer, exp is negative", corp("exp", json!(-0.5)), Claim("exp")),
        ("exp in milliseconds", corp("exp", json!(NOW * 1000)), Claim("exp")),
        ("exp is zero", own("exp", json!(0)), Expired),
        ("expired beyond leeway", own("exp", json!(NOW - 30)), Expired),
        ("other issuer, expired by a fraction", corp("exp", json!(1_799_999_970.9)), Expired),
        ("lifetime too long", own("exp", json!(NOW - 60 + 3602)), Claim("exp")),
        ("no end in sight", own("exp", json!(NOW + 999_999_999)), Claim("exp")),
        ("nbf ahead", own("nbf", json!(NOW + 31)), NotYetValid),
        ("nbf is a text", own("nbf", "0".into()), Claim("nbf")),
        ("nbf is null", own("nbf", Value::Null), Claim("nbf")),
        ("nbf is a list", own("nbf", json!([0])), Claim("nbf")),
        ("other issuer, nbf ahead by a fraction", corp("nbf", json!(1_800_000_030.1)), NotYetValid),
        ("other issuer, nbf is huge", corp("nbf", json!(1e300)), Claim("nbf")),
        ("no iat", without("iat"), Claim("iat")),
        ("iat is a text", own("iat", NOW.to_string().into()), Claim("iat")),
        ("iat ahead", own("iat", json!(NOW + 31)), NotYetValid),
        ("other issuer, iat is a text", corp("iat", "now".into()), Claim("iat")),
        // Who.
        ("no sub", without("sub"), Claim("sub")),
        ("empty sub", own("sub", "".into()), Claim("sub")),
        ("sub is null", own("sub", Value::Null), Claim("sub")),
        ("sub is a number", own("sub", json!(1001)), Claim("sub")),
        ("sub is a list", own("sub", json!(["u-1001"])), Claim("sub")),
        ("sub with a slash", own("sub", "u/1001".into()), Claim("sub")),
        ("sub is a dot segment", own("sub", "..".into()), Claim("sub")),
        ("sub with a line end", own("sub", "u\r\nX-User-Roles: admin".into()), Claim("sub")),
        ("sub with NUL", own("sub", "u-1001\0".into()), Claim("sub")),
        ("sub with an escape", own("sub", "\u{1b}[31m".into()), Claim("sub")),
        ("sub with a space", own("sub", "u-1001 ".into()), Claim("sub")),
        ("sub outside ASCII", own("sub", "ü-1001".into()), Claim("sub")),
        ("sub too long", own("sub", "u".repeat(129).into()), Claim("sub")),
        ("other issuer, empty sub", corp("sub", "".into()), Claim("sub")),
        ("other issuer, sub with a line end", corp("sub", "a\nb".into()), Claim("sub")),
        ("other issuer, sub with a space", corp("sub", "a b".into()), Claim("sub")),
        ("other issuer, sub too long", corp("sub", "u".repeat(256).into()), Claim("sub")),
        // How well known.
        ("unknown aal", own("aal", "aal3".into()), Claim("aal")),
        ("aal is a number", own("aal", json!(2)), Claim("aal")),
        ("aal is a list", own("aal", json!(["aal2"])), Claim("aal")),
        ("mfa_pending is a text", own("mfa_pending", "false".into()), Claim("mfa_pending")),
        ("mfa_pending is null", own("mfa_pending", Value::Null), Claim("mfa_pending")),
        (
            "other issuer, no sub",
            world.corp(|_, c| drop(c.as_object_mut().unwrap().remove("sub"))),
            Claim("sub"),
        ),
        ("no session", without("session_id"), Claim("session_id")),
        ("session is a number", own("session_id", json!(7)), Claim("session_id")),
        ("session is no UUID", own("session_id", "s-1".into()), Claim("session_id")),
        (
            "session in capitals",
            own("session_id", SESSION.to_uppercase().into()),
            Claim("session_id"),
        ),
        (
            "session without hyphens",
            own("session_id", SESSION.replace('-', "").into()),
            Claim("session_id"),
        ),
        (
            "session in braces",
            own("session_id", format!("{{{SESSION}}}").into()),
            Claim("session_id"),
        ),
        ("no jti", without("jti"), Claim("jti")),
        ("empty jti", own("jti", "".into()), Claim("jti")),
        ("jti is a number", own("jti", json!(1)), Claim("jti")),
        ("roles are a text", own("app_metadata", json!({"roles": "admin"})), Claim("app_metadata")),
        (
            "a role with a comma",
            own("app_metadata", json!({"roles": ["a,admin"]})),
            Claim("app_metadata"),
        ),
    ];
    assert!(cases.len() >= 60);
    for (name, token, expected) in &cases {
        assert_eq!(world.verify(token).err(), Some(*expected), "{name}");
    }
}
