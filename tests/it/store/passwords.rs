//! Kinds of stored passwords.

use portcullis::model::{Aal, EventKind, PasswordHash, UserId};
use portcullis::store::{Classified, LogIn, SignUp, Unclassified, UpdateUser, UserUpdate};

use super::{Home, account, at, event, hash, login, on_both};

on_both![
    each_kind_is_told_once,
    users_without_a_kind_are_found_page_by_page,
    a_kind_goes_with_its_hash,
];

const OWN: &str = "$argon2id$v=19$m=8,t=1,p=1$";

impl Home {
    async fn stored(&self, name: &str, password: Option<&str>) -> UserId {
        let mut new = account(name);
        new.password_hash = password.map(|text| PasswordHash(text.to_owned()));
        let signed_up = self.store.sign_up(&new, None, &event(EventKind::Signup, 0)).await;
        assert_eq!(signed_up.unwrap(), SignUp::Created);
        new.user.id
    }

    async fn classified(&self, user: &UserId, hash: &str, class: &str) {
        let (hash, class) = (PasswordHash(hash.to_owned()), class.to_owned());
        let found = [Classified { user: user.clone(), hash, class }];
        self.store.classify_passwords(&found).await.unwrap();
    }

    async fn unclassified(&self) -> Vec<UserId> {
        let page = self.store.unclassified_passwords(OWN, None, 100).await.unwrap();
        assert_eq!(page.next, None);
        page.found.into_iter().map(|(user, _)| user).collect()
    }
}

async fn each_kind_is_told_once(home: Home) {
    assert_eq!(home.store.password_classes().await.unwrap(), [""; 0]);
    for (name, class) in [
        ("a", "pbkdf2-sha256/600000"),
        ("b", "bcrypt/12"),
        ("c", "bcrypt/12"),
        ("d", "bcrypt/10"),
        ("e", "pbkdf2-sha256/600000"),
    ] {
        let user = home.stored(name, Some("$2b$text")).await;
        home.classified(&user, "$2b$text", class).await;
    }
    home.stored("f", Some(OWN)).await;
    let words = home.store.password_classes().await.unwrap();
    assert_eq!(words, ["bcrypt/10", "bcrypt/12", "pbkdf2-sha256/600000"]);
}

async fn users_without_a_kind_are_found_page_by_page(home: Home) {
    let a = home.stored("a", Some("$2b$a")).await;
    let b = home.stored("b", Some(&format!("{OWN}salt$output"))).await;
    home.stored("c", None).await;
    let d = home.stored("d", Some("pbkdf2_sha256$d")).await;
    let e = home.stored("e", Some("$argon2id$v=19$m=8,t=1,p=10$")).await;
    let page = |after: Option<UserId>, limit| {
        let store = &home.store;
        async move { store.unclassified_passwords(OWN, after.as_ref(), limit).await.unwrap() }
    };
    let hash = |text: &str| PasswordHash(text.to_owned());
    let first = Unclassified { found: vec![(a.clone(), hash("$2b$a"))], next: Some(b.clone()) };
    assert_eq!(page(None, 2).await, first);
    let second =
        Unclassified { found: vec![(d.clone(), hash("pbkdf2_sha256$d"))], next: Some(d.clone()) };
    assert_eq!(page(Some(b), 2).await, second);
    let last = page(Some(d.clone()), 2).await;
    assert_eq!(last.next, None);
    assert_eq!(
        last.found.into_iter().map(|(user, _)| user).collect::<Vec<_>>(),
        std::slice::from_ref(&e)
    );
    let beyond = page(Some("u-z".parse().unwrap()), 2).await;
    assert_eq!(beyond, Unclassified { found: Vec::new(), next: None });

    home.classified(&a, "$2b$a", "bcrypt/12").await;
    // Changed since it was looked at.
    home.classified(&d, "pbkdf2_sha256$old", "pbkdf2-sha256/1").await;
    assert_eq!(home.unclassified().await, [d, e]);
}

async fn a_kind_goes_with_its_hash(home: Home) {
    let user = home.stored("ann", Some("$test$first")).await;
    let log_in = async |checked: &str, rehashed: Option<&str>| {
        let rehashed = rehashed.map(hash);
        let event = event(EventKind::Login, 1);
        let login = login(&user, 1);
        let done =
            home.store.log_in(&user, &hash(checked), rehashed.as_ref(), &login, &event).await;
        assert!(matches!(done.unwrap(), LogIn::Done { .. }));
        login.session.id
    };
    home.classified(&user, "$test$first", "bcrypt/12").await;
    log_in("first", None).await;
    assert_eq!(home.store.password_classes().await.unwrap(), ["bcrypt/12"]);
    let session = log_in("first", Some("second")).await;
    assert_eq!(home.store.password_classes().await.unwrap(), [""; 0]);

    home.classified(&user, "$test$second", "bcrypt/11").await;
    let mut update = UserUpdate {
        metadata_patch: None,
        max_metadata_bytes: 1000,
        new_password: None,
        keep_session: session,
        aal: Aal::One,
        sign_out_others: true,
        nonce: None,
        new_email: None,
        parcels: Vec::new(),
    };
    for (new_password, left) in
        [(None, vec!["bcrypt/11"]), (Some((hash("third"), None)), Vec::new())]
    {
        update.new_password = new_password;
        let done = home.store.update_user(&user, &update, at(2), &[]).await.unwrap();
        assert!(matches!(done, UpdateUser::Done { .. }));
        assert_eq!(home.store.password_classes().await.unwrap(), left);
    }
}
