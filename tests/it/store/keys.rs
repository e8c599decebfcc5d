//! Signing keys, and how their private halves are kept.

use portcullis::config::{Algorithm, Secrets};
use portcullis::model::{EventKind, SigningKey};
use portcullis::secrets::{OpenError, Protection};
use portcullis::store::{RetireKey, RevokeKey, SealedColumn, StoreError};

use super::{DAY, Home, at, event, on_both};

on_both![
    of_many_first_keys_one_is_stored,
    keys_rotate_and_retire,
    a_key_that_nothing_would_sign_in_place_of_stays,
    a_key_sooner_than_the_one_on_standby_ends_the_others_sooner,
    of_many_who_replace_an_old_key_one_does,
    a_revoked_key_is_followed_by_one_that_signs,
    private_keys_are_sealed,
    of_two_who_reencrypt_one_does,
];

fn key(kid: &str, algorithm: Algorithm, second: i64) -> SigningKey {
    SigningKey {
        kid: kid.to_owned(),
        algorithm,
        private_key: vec![1, 2, 3].into(),
        created_at: at(second),
        active_from: at(second),
        retire_at: None,
    }
}

async fn of_many_first_keys_one_is_stored(home: Home) {
    let other = home.another();
    let starts = (0..10).map(|n| {
        let store = if n % 2 == 0 { &home.store } else { &other };
        async move {
            let new = key(&format!("k{n}"), Algorithm::Es256, 0);
            store.add_signing_key_if_none(&new).await.unwrap()
        }
    });
    let stored = futures_util::future::join_all(starts).await;
    assert_eq!(stored.into_iter().filter(|stored| *stored).count(), 1);
    assert_eq!(home.store.signing_keys(at(0)).await.unwrap().len(), 1);
    let another_kind = key("ed", Algorithm::EdDsa, 0);
    assert!(home.store.add_signing_key_if_none(&another_kind).await.unwrap());
}

async fn keys_rotate_and_retire(home: Home) {
    let store = &home.store;
    let changed = |second| event(EventKind::SigningKeyChanged, second);
    store.add_signing_key_if_none(&key("one", Algorithm::Es256, 0)).await.unwrap();
    store.add_signing_key_if_none(&key("rsa", Algorithm::Rs256, 0)).await.unwrap();
    let two = key("two", Algorithm::Es256, 10);
    assert!(store.rotate_signing_key(&two, at(DAY), &changed(10)).await.unwrap());
    assert!(!store.rotate_signing_key(&two, at(DAY), &changed(11)).await.unwrap(), "known");
    let three = key("three", Algorithm::Es256, 20);
    assert!(store.rotate_signing_key(&three, at(2 * DAY), &changed(20)).await.unwrap());

    let keys = store.signing_keys(at(0)).await.unwrap();
    let ends: Vec<_> = keys.iter().map(|k| (k.kid.as_str(), k.retire_at)).collect();
    assert_eq!(
        ends,
        [("one", Some(at(DAY))), ("rsa", None), ("two", Some(at(2 * DAY))), ("three", None)]
    );
    assert_eq!(keys[2].private_key, two.private_key);
    assert_eq!((keys[2].algorithm, keys[2].active_from), (Algorithm::Es256, at(10)));

    let retire = async |kid: &str, second| {
        store.retire_signing_key(kid, at(second), None, &changed(second)).await.unwrap()
    };
    assert_eq!(retire("rsa", 30).await, RetireKey::Done);
    assert_eq!(retire("rsa", 30).await, RetireKey::Unknown, "once is enough");
    assert_eq!(retire("none", 30).await, RetireKey::Unknown);
    assert!(!store.add_signing_key_if_none(&key("rsa2", Algorithm::Rs256, 29)).await.unwrap());
    assert!(store.add_signing_key_if_none(&key("rsa2", Algorithm::Rs256, 30)).await.unwrap());
    assert_eq!(home.kinds().await, [EventKind::SigningKeyChanged; 3]);
}

async fn a_key_that_nothing_would_sign_in_place_of_stays(home: Home) {
    let store = &home.store;
    let changed = |second| event(EventKind::SigningKeyChanged, second);
    let retire = async |kid: &str, second| {
        let signs = Some(Algorithm::Es256);
        store.retire_signing_key(kid, at(second), signs, &changed(second)).await.unwrap()
    };
    let add = async |kid: &str, algorithm, second: i64| {
        let new = key(kid, algorithm, second);
        store.rotate_signing_key(&new, at(second + DAY), &changed(0)).await.unwrap();
    };
    add("one", Algorithm::Es256, 0).await;
    add("rsa", Algorithm::Rs256, 0).await;
    assert_eq!(retire("one", 1).await, RetireKey::InUse, "the other is of another algorithm");
    assert_eq!(retire("rsa", 1).await, RetireKey::Done, "which does not sign");
    add("two", Algorithm::Es256, 100).await;
    assert_eq!(retire("one", 99).await, RetireKey::InUse, "the next does not sign yet");
    assert_eq!(retire("two", 99).await, RetireKey::InUse, "and is the only one without an end");
    add("three", Algorithm::Es256, 200).await;
    assert_eq!(retire("two", 150).await, RetireKey::InUse, "it signs until its successor does");
    assert_eq!(retire("one", 150).await, RetireKey::Done, "it is needed no more");
    assert_eq!(retire("one", 150).await, RetireKey::Unknown);
    assert_eq!(retire("two", 200).await, RetireKey::Done, "its successor signs");
    assert_eq!(retire("three", 200).await, RetireKey::InUse);
    assert_eq!(retire("none", 200).await, RetireKey::Unknown);
    let kinds = home.kinds().await;
    assert_eq!(kinds.len(), 4 + 3, "what was refused is no event");
}

async fn a_key_sooner_than_the_one_on_standby_ends_the_others_sooner(home: Home) {
    let store = &home.store;
    let add = async |kid: &str, second: i64| {
        let new = key(kid, Algorithm::Es256, second);
        let noted = event(EventKind::SigningKeyChanged, 0);
        assert!(store.rotate_signing_key(&new, at(second + DAY), &noted).await.unwrap());
    };
    add("one", 0).await;
    // Announced for a far day by mistake.
    add("far", 1000 * DAY).await;
    add("soon", 10).await;
    let ends: Vec<_> =
        store.listed_keys().await.unwrap().into_iter().map(|k| k.retire_at).collect();
    assert_eq!(ends, [Some(at(10 + DAY)), None, Some(at(10 + DAY))]);
}

async fn of_many_who_replace_an_old_key_one_does(home: Home) {
    let other = home.another();
    let first = key("first", Algorithm::Es256, 0);
    assert!(home.store.add_signing_key_if_none(&first).await.unwrap());
    assert!(home.store.add_signing_key_if_none(&key("ed", Algorithm::EdDsa, 90)).await.unwrap());
    let early = key("early", Algorithm::Es256, 100);
    let noted = |second| event(EventKind::SigningKeyChanged, second);
    let rotated = home.store.rotate_if_due(&early, at(-1), at(DAY), &noted(99)).await.unwrap();
    assert!(!rotated, "it is not old enough");
    let tries = (0..10).map(|n| {
        let store = if n % 2 == 0 { &home.store } else { &other };
        async move {
            let new = key(&format!("k{n}"), Algorithm::Es256, 100);
            let noted = event(EventKind::SigningKeyChanged, 100 + n);
            store.rotate_if_due(&new, at(50), at(DAY), &noted).await.unwrap()
        }
    });
    let rotated = futures_util::future::join_all(tries).await;
    assert_eq!(rotated.into_iter().filter(|rotated| *rotated).count(), 1);
    let ends: Vec<_> =
        home.store.listed_keys().await.unwrap().into_iter().map(|key| key.retire_at).collect();
    assert_eq!(ends, [Some(at(DAY)), None, None], "the others of its algorithm have an end");
    assert_eq!(home.kinds().await, [EventKind::SigningKeyChanged]);
}

async fn a_revoked_key_is_followed_by_one_that_signs(home: Home) {
    let store = &home.store;
    let noted = |second| event(EventKind::SigningKeyChanged, second);
    let done = |kid: Option<&str>| RevokeKey::Done { successor: kid.map(str::to_owned) };
    store.add_signing_key_if_none(&key("one", Algorithm::Es256, 0)).await.unwrap();
    let two = key("two", Algorithm::Es256, 100);
    store.rotate_signing_key(&two, at(DAY), &noted(1)).await.unwrap();
    let three = key("three", Algorithm::Es256, 11);
    let revoke = async |kid: &str, second| {
        store.revoke_signing_key(kid, Some(&three), &noted(second)).await.unwrap()
    };
    assert_eq!(revoke("nothing", 2).await, RevokeKey::Unknown);
    // The one on standby takes over at once.
    assert_eq!(revoke("one", 10).await, done(Some("two")));
    assert_eq!(revoke("one", 11).await, RevokeKey::Unknown, "once is enough");
    let keys = store.signing_keys(at(10)).await.unwrap();
    assert_eq!(
        keys.iter().map(|k| (&*k.kid, k.active_from)).collect::<Vec<_>>(),
        [("two", at(10))]
    );
    // None is there: the one at hand is stored.
    assert_eq!(revoke("two", 20).await, done(Some("three")));
    // One that signs is left.
    let four = key("four", Algorithm::Es256, 30);
    store.rotate_signing_key(&four, at(DAY), &noted(30)).await.unwrap();
    assert_eq!(revoke("three", 40).await, done(None));
    let listed = store.listed_keys().await.unwrap();
    let revoked: Vec<_> = listed.iter().map(|key| (&*key.kid, key.revoked_at)).collect();
    assert_eq!(
        revoked,
        [("one", Some(at(10))), ("two", Some(at(20))), ("three", Some(at(40))), ("four", None),]
    );
    // A revoked key is no key, and stays known.
    assert!(!store.rotate_signing_key(&two, at(DAY), &noted(50)).await.unwrap());
    assert_eq!(store.revoke_signing_key("four", None, &noted(60)).await.unwrap(), done(None));
    assert!(store.add_signing_key_if_none(&key("five", Algorithm::Es256, 61)).await.unwrap());
    assert_eq!(home.kinds().await.len(), 6);
}

pub(super) fn secrets(key: u8, previous: &[u8]) -> Secrets {
    let text = |fill: u8| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode([fill; 32]).into()
    };
    Secrets {
        key: Some(text(key)),
        previous: previous.iter().map(|&fill| text(fill)).collect(),
        require: false,
    }
}

const COLUMN: SealedColumn = SealedColumn::SigningKeys;

async fn private_keys_are_sealed(home: Home) {
    let (one, two) = (home.another_with(&secrets(1, &[])), home.another_with(&secrets(2, &[1])));
    let plain = key("plain", Algorithm::Rs256, 0);
    assert!(home.store.add_signing_key_if_none(&plain).await.unwrap());
    let sealed = key("sealed", Algorithm::Es256, 10);
    let changed = event(EventKind::SigningKeyChanged, 10);
    assert!(one.rotate_signing_key(&sealed, at(DAY), &changed).await.unwrap());

    for store in [&one, &two] {
        let keys = store.signing_keys(at(0)).await.unwrap();
        let private: Vec<_> = keys.iter().map(|key| key.private_key.clone()).collect();
        assert_eq!(private, [plain.private_key.clone(), sealed.private_key.clone()]);
    }
    let id = one.keyring().current().unwrap();
    let refused = home.store.signing_keys(at(0)).await.unwrap_err();
    let StoreError::Sealed { column, row, source } = refused else { panic!("{refused}") };
    assert_eq!((column, &*row, source), (COLUMN.as_str(), "sealed", OpenError::UnknownKey(id)));
    // What needs no private half is there all the same.
    let listed = home.store.listed_keys().await.unwrap();
    let protections: Vec<_> = listed.iter().map(|key| (&*key.kid, key.protection)).collect();
    assert_eq!(protections, [("plain", Protection::Plain), ("sealed", Protection::Sealed(id))]);
    let changed = event(EventKind::SigningKeyChanged, 20);
    let retired = home.store.retire_signing_key("sealed", at(20), None, &changed).await.unwrap();
    assert_eq!(retired, RetireKey::Done);
    assert_eq!(home.store.signing_keys(at(20)).await.unwrap().len(), 1, "nobody asks for it now");

    // A value of one row in the place of another's.
    home.sql(
        "UPDATE signing_keys SET retire_at = NULL, private_key =
         (SELECT private_key FROM signing_keys WHERE kid = 'sealed')",
    )
    .await;
    let refused = one.signing_keys(at(0)).await.unwrap_err();
    let StoreError::Sealed { row, source, .. } = refused else { panic!("{refused}") };
    assert_eq!((&*row, source), ("plain", OpenError::Damaged));
}

async fn of_two_who_reencrypt_one_does(home: Home) {
    for n in 0..5 {
        let new = key(&format!("k{n}"), Algorithm::Es256, n);
        let changed = event(EventKind::SigningKeyChanged, n);
        assert!(home.store.rotate_signing_key(&new, at(DAY), &changed).await.unwrap());
    }
    let (one, two) = (home.another_with(&secrets(1, &[])), home.another_with(&secrets(1, &[])));
    let noted = event(EventKind::SecretsReencrypted, 10);
    let first = home.store.reencrypt(COLUMN, None, 10, &noted).await.unwrap();
    assert_eq!((first.changed, first.last.as_deref()), (0, Some("k4")), "there is no key");
    let page = one.reencrypt(COLUMN, None, 2, &noted).await.unwrap();
    assert_eq!((page.changed, page.last.as_deref()), (2, Some("k1")));
    let noted = event(EventKind::SecretsReencrypted, 11);
    let other = event(EventKind::SecretsReencrypted, 12);
    let (a, b) = tokio::join!(
        one.reencrypt(COLUMN, None, 10, &noted),
        two.reencrypt(COLUMN, None, 10, &other)
    );
    assert_eq!(a.unwrap().changed + b.unwrap().changed, 3);
    let done = one.reencrypt(COLUMN, Some("k4"), 10, &noted).await.unwrap();
    assert_eq!((done.changed, done.last), (0, None));
    for key in one.signing_keys(at(0)).await.unwrap() {
        assert_eq!(**key.private_key, [1, 2, 3]);
    }
    let stranger = home.another_with(&secrets(2, &[]));
    let page = stranger.reencrypt(COLUMN, None, 10, &noted).await.unwrap();
    assert_eq!((page.changed, page.unreadable.len()), (0, 5));
}
