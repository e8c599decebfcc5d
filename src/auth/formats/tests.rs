//! What other programs made, and what nobody did.

use std::sync::Arc;

use ::argon2::Params;
use serde::Deserialize;

use super::*;
use crate::auth::equal_time::Plan;
use crate::model::PasswordHash;

#[derive(Deserialize)]
struct Vector {
    source: String,
    password: String,
    stored: String,
    wrong: String,
    pepper: Option<String>,
}

fn vectors() -> Vec<Vector> {
    let of = |text| serde_json::from_str::<Vec<Vector>>(text).unwrap();
    let generated = of(include_str!("../../../tests/vectors/hashes.json"));
    let published = of(include_str!("../../../tests/vectors/published.json"));
    generated.into_iter().chain(published).collect()
}

/// A bench whose own hashes cost next to nothing.
fn cheap(pepper: Option<&str>) -> (Workbench, Plan) {
    let params = Params::new(8, 1, 1, None).unwrap();
    let plan = Plan::of_own(Class::of_new(&params));
    (Workbench::new(params, pepper.map(Into::into), Arc::default()), plan)
}

fn verify(stored: &str, password: &str) -> Verdict {
    let (mut bench, plan) = cheap(None);
    let stored = PasswordHash(stored.to_owned());
    bench.verify(Some(&stored), password.as_bytes(), &plan).unwrap()
}

fn is_right(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Right { .. })
}

#[test]
fn hashes_of_other_programs_verify_and_are_replaced() {
    let all = vectors();
    assert!(all.len() > 75, "{}", all.len());
    for Vector { source, password, stored, wrong, pepper } in all {
        let (mut bench, plan) = cheap(pepper.as_deref());
        let hash = PasswordHash(stored.clone());
        let right = bench.verify(Some(&hash), password.as_bytes(), &plan).unwrap();
        let Verdict::Right { rehash: Some(fresh) } = right else {
            panic!("{source}: {stored}: {right:?}");
        };
        assert!(fresh.0.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{}", fresh.0);
        let again = bench.verify(Some(&fresh), password.as_bytes(), &plan).unwrap();
        assert_eq!(again, Verdict::Right { rehash: None });
        for wrong in [wrong.as_str(), "", &password[1..]] {
            let verdict = bench.verify(Some(&hash), wrong.as_bytes(), &plan).unwrap();
            assert_eq!(verdict, Verdict::Wrong, "{source}: {stored}: {wrong}");
        }
        let disabled = bench.verify_disabled(Some(&hash), password.as_bytes(), &plan);
        assert_eq!(disabled, Verdict::Right { rehash: None }, "{source}");
    }
}

/// Every reader, and the whole of what it reads: a flipped character anywhere makes the password
/// wrong or the text unusable, but for the spare bits of Base64 (bcrypt's are ignored).
#[test]
fn a_changed_text_does_not_verify() {
    for Vector { source, password, stored, pepper, .. } in vectors() {
        let mut last = stored.clone().into_bytes();
        // In the output, away from its last character, whose low bits may be spare.
        let place = last.len() - 9;
        last[place] = if last[place] == b'a' { b'b' } else { b'a' };
        let changed = PasswordHash(String::from_utf8(last).unwrap());
        let (mut bench, plan) = cheap(pepper.as_deref());
        let verdict = bench.verify(Some(&changed), password.as_bytes(), &plan).unwrap();
        assert!(!is_right(&verdict), "{source}: {}", changed.0);
        for cut in [stored.len() - 1, stored.len() / 2, 4] {
            let verdict = verify(&stored[..cut], &password);
            assert!(!is_right(&verdict), "{source}: {}", &stored[..cut]);
        }
        for longer in [format!("{stored}$"), format!("{stored}AAAA"), format!("{stored} ")] {
            assert!(!is_right(&verify(&longer, &password)), "{source}: {longer}");
        }
    }
}

#[test]
fn classes_say_what_a_check_costs() {
    let table = [
        ("$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "bcrypt/12"),
        (
            "$argon2id$v=19$m=7168,t=5,p=1$LRScGShC7shkdoU5B1UgUQ$xKjWvB9+0sSP6wTqI1JoEI7w+iA0x9VDhPgmrOHRG80",
            "argon2id/7168/5/1",
        ),
        (
            "$aspnet$AAABAgMEBQYHCAkKCwwNDg+ukCEMDf0yyQ29NYubggHIVY0sdEUfdyeM+E1LtH1uJg==",
            "pbkdf2-sha1/1000/2",
        ),
        (
            "$aspnet$AQAAAAEAACcQAAAAEAABAgMEBQYHCAkKCwwNDg+yWU7rLgUwPZb1Itsmra7cbxw2EFpwpVFIEtP+JIuUEw==",
            "pbkdf2-sha256/10000",
        ),
    ];
    for (stored, word) in table {
        assert_eq!(Scheme::parse(stored).unwrap().class().to_string(), word);
    }
    for Vector { stored, .. } in vectors() {
        let class = Scheme::parse(&stored).unwrap().class();
        assert_eq!(class.to_string().parse(), Ok(class), "{stored}");
    }
}

#[test]
fn own_hashes_are_salted_phc_strings_that_verify() {
    let (mut bench, plan) = cheap(None);
    let (one, two) = (bench.hash(b"Pass\0w\xf6rd").unwrap(), bench.hash(b"Pass\0w\xf6rd").unwrap());
    assert!(one.0.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{}", one.0);
    assert!(one != two);
    let right = Verdict::Right { rehash: None };
    assert_eq!(bench.verify(Some(&one), b"Pass\0w\xf6rd", &plan).unwrap(), right);
    assert_eq!(bench.verify(Some(&one), b"Pass", &plan).unwrap(), Verdict::Wrong);
    assert_eq!(bench.verify(None, b"Pass", &plan).unwrap(), Verdict::Wrong);
    assert_eq!(bench.verify_disabled(None, b"Pass", &plan), Verdict::Wrong);
}

#[test]
fn other_costs_verify_and_are_replaced() {
    let params = Params::new(64, 2, 2, None).unwrap();
    let dear = Workbench::new(params, None, Arc::default()).hash(b"secret").unwrap();
    let Verdict::Right { rehash: Some(fresh) } = verify(&dear.0, "secret") else {
        panic!("right, and to be replaced");
    };
    assert!(fresh.0.starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
    assert_eq!(verify(&fresh.0, "secret"), Verdict::Right { rehash: None });
    assert_eq!(verify(&dear.0, "Secret"), Verdict::Wrong);
}

/// From the test suite of the reference implementation (argon2i, version 1.3).
#[test]
fn hashes_of_the_reference_implementation_verify() {
    let stored = "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$\
                  iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8";
    assert!(matches!(verify(stored, "password"), Verdict::Right { rehash: Some(_) }));
    assert_eq!(verify(stored, "passwore"), Verdict::Wrong);
}

/// Published vectors of `jBCrypt` and `crypt_blowfish`.
#[test]
fn published_bcrypt_hashes_verify() {
    let table = [
        ("$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.", ""),
        ("$2b$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe", "a"),
        ("$2y$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i", "abc"),
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
    ];
    for (stored, password) in table {
        assert!(matches!(verify(stored, password), Verdict::Right { rehash: Some(_) }), "{stored}");
        assert_eq!(verify(stored, "something else"), Verdict::Wrong);
    }
}

#[test]
fn bcrypt_looks_at_72_bytes_and_no_more() {
    let long = "ä".repeat(36);
    let stored = ::bcrypt::hash(&long, 4).unwrap();
    assert!(is_right(&verify(&stored, &format!("{long}tail"))));
    assert_eq!(verify(&stored, &long[..70]), Verdict::Wrong);
}

#[test]
fn stray_low_bits_in_a_bcrypt_salt_are_ignored() {
    // `.` and `/` differ only in bits beyond the 128th.
    let stray = "$2a$05$CCCCCCCCCCCCCCCCCCCCC/E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    assert!(is_right(&verify(stray, "U*U")));
}

#[test]
fn a_devise_hash_needs_the_pepper() {
    let stored = "$devise$$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    assert_eq!(verify(stored, "U*U"), Verdict::Unusable { why: FormatError::NoPepper });
    let (mut bench, plan) = cheap(Some("*U"));
    let stored = PasswordHash(stored.to_owned());
    assert!(is_right(&bench.verify(Some(&stored), b"U", &plan).unwrap()));
    assert_eq!(bench.verify(Some(&stored), b"U*U", &plan).unwrap(), Verdict::Wrong);
}

#[test]
fn hashes_that_cost_too_much_or_make_no_sense_are_unusable() {
    use FormatError::{Malformed, SignBug, TooExpensive, UnknownKind};
    let argon2 = "c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8";
    let bcrypt = "CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    let out_32 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let hex_64 = "0".repeat(128);
    let table = [
        (format!("$argon2id$v=19$m=262145,t=1,p=1${argon2}"), TooExpensive),
        (format!("$argon2id$v=19$m=64,t=17,p=1${argon2}"), TooExpensive),
        (format!("$argon2id$v=19$m=1024,t=1,p=17${argon2}"), TooExpensive),
        (format!("$argon2id$v=19$m=7,t=1,p=1${argon2}"), Malformed),
        (format!("$argon2x$v=19$m=8,t=1,p=1${argon2}"), UnknownKind),
        ("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ".to_owned(), Malformed),
        ("$argon2id$".to_owned(), Malformed),
        (String::new(), UnknownKind),
        ("plain text".to_owned(), UnknownKind),
        ("$".to_owned(), UnknownKind),
        ("5f4dcc3b5aa765d61d8327deb882cf99".to_owned(), UnknownKind),
        ("md5$salt$67a1e09bb1f83f5007dc119c14d663aa".to_owned(), UnknownKind),
        ("sha1$salt$59b3e8d637cf97edbe2384cf59cb7453dfe30789".to_owned(), UnknownKind),
        ("!PqYNi2Yw5v1qFqjzYxTNL8QyFvWmqDuO".to_owned(), UnknownKind),
        (format!("$2a$15${bcrypt}"), TooExpensive),
        (format!("$2a$03${bcrypt}"), Malformed),
        (format!("$2a$+5${bcrypt}"), Malformed),
        (format!("$2a$5${bcrypt}"), Malformed),
        (format!("$2x$05${bcrypt}"), SignBug),
        (format!("$2a$05${}", &bcrypt[1..]), Malformed),
        (format!("$2a$05$ä{}", &bcrypt[2..]), Malformed),
        (format!("bcrypt_sha256$$2b$15${bcrypt}"), TooExpensive),
        (format!("pbkdf2_sha256$2000001$salt${out_32}="), TooExpensive),
        (format!("pbkdf2_sha256$99999999999999999999$salt${out_32}="), TooExpensive),
        (format!("pbkdf2_sha256$0$salt${out_32}="), Malformed),
        (format!("pbkdf2_sha256$-1$salt${out_32}="), Malformed),
        // An output that a guess could hit.
        ("pbkdf2_sha256$1000$salt$".to_owned(), Malformed),
        ("pbkdf2_sha256$1000$salt$AAAA".to_owned(), Malformed),
        ("$pbkdf2-sha256$i=1000,l=1$AAAA$AA".to_owned(), Malformed),
        ("$pbkdf2-sha256$i=1000,l=0$AAAA$".to_owned(), Malformed),
        ("$scrypt$ln=10,r=8,p=1$AAAA$AAAA".to_owned(), Malformed),
        (format!("$scrypt$ln=255,r=8,p=1$AAAA${out_32}"), TooExpensive),
        (format!("$scrypt$ln=256,r=8,p=1$AAAA${out_32}"), TooExpensive),
        (format!("$scrypt$ln=10,r=4294967295,p=4294967295$AAAA${out_32}"), TooExpensive),
        (format!("scrypt:32769:8:1$salt${hex_64}"), Malformed),
        (format!("scrypt:524288:8:1$salt${hex_64}"), TooExpensive),
        (format!("pbkdf2:sha256$salt${}", &hex_64[..64]), Malformed),
        (format!("pbkdf2:md5:1000$salt${}", &hex_64[..32]), UnknownKind),
        (format!("pbkdf2:sha256:1000$salt${}", "zz".repeat(32)), Malformed),
        ("$aspnet$".to_owned(), Malformed),
        ("$aspnet$Ag==".to_owned(), UnknownKind),
        ("$aspnet$AQAAAAEAACcQ/////w==".to_owned(), Malformed),
        // Without a signer key every password would be right.
        ("$fbscrypt$v=1,n=10,r=8,p=1,ss=,sk=$AAAA$".to_owned(), Malformed),
        ("$fbscrypt$v=1,n=10,r=8,p=1,ss=$AAAA$AAAA".to_owned(), Malformed),
        (format!("$fbscrypt$v=2,n=10,r=8,p=1,ss=,sk={out_32}=$AAAA${out_32}="), Malformed),
        ("a".repeat(5000), Malformed),
    ];
    for (stored, why) in table {
        assert_eq!(verify(&stored, "U*U"), Verdict::Unusable { why }, "{stored:.90}");
    }
}
