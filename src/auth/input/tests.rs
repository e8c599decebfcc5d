use bytes::Bytes;
use http::{HeaderMap, header};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::auth::policy::Policy;
use crate::config;
use crate::model::{Challenge, ChallengeMethod, Purpose};

fn fields(text: &str) -> Fields {
    Fields::parse(text.as_bytes()).unwrap()
}

fn sign_up(text: &str) -> Result<SignUp, InputError> {
    let policy = Policy::compile(&config::Passwords::default()).unwrap();
    SignUp::parse(fields(text), &policy)
}

#[test]
fn bodies_are_strict_json_objects() {
    let deep = |n: usize| format!("{{\"data\":{}{}}}", "[".repeat(n), "]".repeat(n));
    for fine in ["{}", " {\"a\":[1,-2,3.5,true,null,\"x\\u00e4\"]}\n", &deep(15)] {
        assert!(Fields::parse(fine.as_bytes()).is_ok(), "{fine}");
    }
    for bad in [
        "",
        "null",
        "[]",
        "\"text\"",
        "{",
        "{}{}",
        "{} x",
        "{\"a\":1,}",
        "{'a':1}",
        "{\"a\":1,\"a\":1}",
        "{\"data\":{\"a\":1,\"\\u0061\":2}}",
        "{\"a\":NaN}",
        "{\"a\":1e999}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\u{1}\"}",
        "// x\n{}",
        "\u{feff}{}",
        &deep(16),
    ] {
        let refused = Fields::parse(bad.as_bytes());
        assert!(matches!(refused, Err(InputError::BadJson(_))), "{bad}");
    }
    assert!(Fields::parse(b"{\"a\":\"\xff\"}").is_err());
}

#[test]
fn a_refusal_repeats_nothing_of_the_body() {
    for bad in ["{\"password\":\"Tiger-Lily-9\" \"x\"}", "{\"Tiger-Lily-9\":1,\"Tiger-Lily-9\":2}"]
    {
        let Err(error) = Fields::parse(bad.as_bytes()) else { panic!("{bad}") };
        assert!(!error.to_string().contains("Tiger"), "{error}");
    }
}

#[test]
fn only_declared_json_is_read() {
    let read = |types: &[&str], body: &'static str| {
        let mut headers = HeaderMap::new();
        for content_type in types {
            headers.append(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        Fields::read(&headers, Bytes::from_static(body.as_bytes())).map(|_| ())
    };
    assert_eq!(read(&["application/json"], "{}"), Ok(()));
    assert_eq!(read(&["Application/JSON ; charset=utf-8"], "{}"), Ok(()));
    for types in [
        &[][..],
        &["text/plain"],
        &["application/x-www-form-urlencoded"],
        &["application/jsonp"],
        &["text/plain; application/json"],
        &["application/json", "text/plain"],
    ] {
        assert_eq!(read(types, "{}"), Err(InputError::UnsupportedMediaType), "{types:?}");
    }
    for types in [&[][..], &["application/json"]] {
        assert_eq!(read(types, ""), Err(InputError::BadJson("it is empty".to_owned())));
    }
    assert_eq!(read(&["text/plain"], ""), Err(InputError::UnsupportedMediaType));
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    let large = Bytes::from(vec![b' '; MAX_BODY_BYTES + 1]);
    assert_eq!(Fields::read(&headers, large).err(), Some(InputError::TooLarge));
}

#[test]
fn a_sign_up_has_an_address_and_a_password_that_the_rule_accepts() {
    let body = sign_up(
        r#"{"email":"Ann@Example.com","password":" Plover42\u0000","data":{"name":"Ann","x":null},
            "gotrue_meta_security":{},"code_challenge":null,"role":"admin","app_metadata":{"roles":["admin"]}}"#,
    )
    .unwrap();
    assert_eq!(body.email.address(), "Ann@Example.com");
    assert_eq!(body.password.expose_secret(), " Plover42\0");
    assert_eq!(Value::Object(body.user_metadata), json!({"name": "Ann"}));
    for nameless in [
        "{}",
        r#"{"password":"Plover42"}"#,
        r#"{"email":null,"password":"Plover42"}"#,
        r#"{"email":"","phone":"","password":"Plover42"}"#,
    ] {
        assert_eq!(sign_up(nameless).err(), Some(InputError::Anonymous), "{nameless}");
    }
    for bad in [
        r#"{"email":"ann@example.com"}"#,
        r#"{"phone":"+491234","password":"Plover42"}"#,
        r#"{"email":"","phone":1,"password":"Plover42"}"#,
        r#"{"email":"ann","password":"Plover42"}"#,
        r#"{"email":["ann@example.com"],"password":"Plover42"}"#,
        r#"{"email":"ann@example.com","password":12345678}"#,
        r#"{"email":"ann@example.com","password":"Plover42","data":[]}"#,
        r#"{"email":"ann@example.com\u0000","password":"Plover42"}"#,
    ] {
        assert!(matches!(sign_up(bad), Err(InputError::Invalid(_))), "{bad}");
    }
    let weak = sign_up(r#"{"email":"ann@example.com","password":"short"}"#);
    assert!(matches!(weak, Err(InputError::Weak(_))));
}

#[test]
fn an_update_takes_an_address_and_no_phone_number() {
    let update = |text: &str| UpdateUser::parse(fields(text));
    let fine = update(r#"{"data":{"a":1},"password":"x","current_password":"y","email":null}"#);
    let fine = fine.unwrap();
    assert!(fine.user_metadata.is_some() && fine.current_password.is_some());
    assert!(update("{}").unwrap().password.is_none());
    let address = update(r#"{"email":"bob@example.com","nonce":"123456"}"#).unwrap();
    assert_eq!(
        address.email.map(|email| email.address().to_owned()).as_deref(),
        Some("bob@example.com")
    );
    assert!(address.nonce.is_some());
    for bad in [r#"{"email":"bob"}"#, r#"{"phone":"+49"}"#, r#"{"password":1}"#] {
        assert!(matches!(update(bad), Err(InputError::Invalid(_))), "{bad}");
    }
}

#[test]
fn letters_are_asked_for_by_address() {
    let wanted = |text: &str| LetterWanted::parse(fields(text));
    let plain = wanted(r#"{"email":"ann@example.com","phone":"","code_challenge":null}"#).unwrap();
    assert!(plain.may_create && plain.user_metadata.is_empty() && plain.challenge.is_none());
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let full = format!(
        r#"{{"email":"ann@example.com","create_user":false,"data":{{"a":1}},
            "code_challenge":"{challenge}","code_challenge_method":"S256"}}"#
    );
    let full = wanted(&full).unwrap();
    assert!(!full.may_create && full.user_metadata.len() == 1);
    assert_eq!(full.challenge, Challenge::new(ChallengeMethod::S256, challenge).ok());
    for phone in [r#"{"phone":"+49"}"#, r#"{"phone":"+49","email":""}"#] {
        assert_eq!(wanted(phone).err(), Some(InputError::Phone), "{phone}");
    }
    for bad in [
        "{}",
        r#"{"email":"ann"}"#,
        r#"{"email":"ann@example.com","create_user":"no"}"#,
        r#"{"email":"ann@example.com","data":[]}"#,
        r#"{"email":"ann@example.com","code_challenge":"short","code_challenge_method":"s256"}"#,
        r#"{"email":"ann@example.com","code_challenge_method":"s256"}"#,
    ] {
        assert!(matches!(wanted(bad), Err(InputError::Invalid(_))), "{bad}");
    }
    let again = |text: &str| LetterWanted::parse_repeated(fields(text));
    for (kind, repeated) in [("signup", Repeated::Signup), ("email_change", Repeated::EmailChange)]
    {
        let wanted = again(&format!(r#"{{"type":"{kind}","email":"ann@example.com"}}"#));
        let (found, wanted) = wanted.unwrap();
        assert_eq!((found, wanted.may_create), (repeated, false), "{kind}");
    }
    let sms = again(r#"{"type":"sms","phone":"+49"}"#);
    assert_eq!(sms.err(), Some(InputError::Phone));
    for bad in [r#"{"email":"ann@example.com"}"#, r#"{"type":"recovery","email":"a@b.example"}"#] {
        assert!(matches!(again(bad), Err(InputError::Invalid(_))), "{bad}");
    }
}

#[test]
fn links_and_codes_say_what_they_are_for() {
    let verify = |text: &str| Verify::parse(fields(text));
    let link = verify(r#"{"type":"email","token_hash":"x","email":null}"#).unwrap();
    let Verify::Link { purposes, .. } = link else { panic!("{link:?}") };
    assert_eq!(purposes, [Purpose::Signup, Purpose::MagicLink]);
    let code = verify(r#"{"type":"recovery","email":"ann@example.com","token":"123456"}"#);
    assert!(matches!(code, Ok(Verify::Code { .. })), "{code:?}");
    assert_eq!(verify(r#"{"type":"sms","token":"1"}"#).err(), Some(InputError::Phone));
    let long = format!(r#"{{"type":"email","email":"a@b.example","token":"{}"}}"#, "1".repeat(65));
    for bad in [
        "{}",
        r#"{"type":"pkce","token_hash":"x"}"#,
        r#"{"type":"reauthentication","token_hash":"x"}"#,
        r#"{"type":"recovery","token":"123456"}"#,
        r#"{"type":"recovery","email":"ann@example.com"}"#,
        &long,
    ] {
        assert!(matches!(verify(bad), Err(InputError::Invalid(_))), "{bad}");
    }
}

#[test]
fn metadata_of_a_new_account_is_small_and_without_nulls() {
    let object = |value: Value| value.as_object().unwrap().clone();
    let given = object(json!({"a": null, "b": {"y": null}}));
    assert_eq!(new_metadata(given), Ok(object(json!({"b": {"y": null}}))));
    // {"k":"…"} has eight bytes beside the text.
    let sized = |n: usize| new_metadata(object(json!({"k": "x".repeat(n)})));
    assert!(sized(2040).is_ok());
    assert_eq!(sized(2041), Err(InputError::metadata_too_large()));
}

#[test]
fn nothing_secret_is_printed() {
    let body = sign_up(r#"{"email":"ann@example.com","password":"Plover42"}"#).unwrap();
    let printed = format!("{body:?} {:?}", fields(r#"{"password":"Plover42"}"#));
    assert!(!printed.contains("Plover42") && !printed.contains("ann@"), "{printed}");
}
