//! Sessions from sign-up to logout, and changes of the account.

use super::*;

#[tokio::test]
async fn a_session_begins_is_used_and_ends() {
    let world = World::new().await;
    let data = json!({"name": "Ann", "roles": ["admin"]});
    let sign_up = json!({
        "email": "Ann@Example.com", "password": PASSWORD, "data": data,
        "roles": ["admin"], "app_metadata": {"roles": ["admin"]}, "role": "service_role",
    });
    let answer = world.post("/signup", sign_up).await.unwrap();
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers[CONTENT_TYPE], "application/json");
    let session = body(&answer);
    let user = &session["user"];
    assert_eq!(user["email"], "Ann@Example.com");
    assert_eq!(user["email_confirmed_at"], Value::Null);
    assert_eq!(user["last_sign_in_at"], "2026-03-01T12:00:00.000000Z");
    assert_eq!(user["role"], "authenticated");
    assert_eq!(user["user_metadata"], data);
    assert_eq!(user["app_metadata"], json!({"provider": "email", "providers": ["email"]}));
    assert_eq!(answer.user_id.unwrap().as_str(), user["id"]);

    let seen = world.get("/user", &session).await.unwrap();
    assert_eq!(body(&seen), *user);
    assert_eq!(seen.user_id.unwrap().as_str(), user["id"]);

    let again = world.log_in("ann@example.com", PASSWORD).await.unwrap();
    assert_eq!(again.status, StatusCode::OK);
    let same = world
        .post(
            "/token?grant_type=password",
            json!({"email": "ANN@example.com", "password": PASSWORD}),
        )
        .await;
    assert_eq!(same.unwrap().status, StatusCode::OK);

    let out = world.send(request("POST", "/logout").bearer(&session)).await.unwrap();
    assert_eq!((out.status, out.body.len()), (StatusCode::NO_CONTENT, 0));
    assert_eq!(code(world.get("/user", &session).await), "session_not_found");
    assert_eq!(code(world.refresh(&session["refresh_token"]).await), "session_expired");
    assert!(world.get("/user", &body(&again)).await.is_ok());
    let kinds: Vec<_> = world.events().await.into_iter().map(|(kind, _)| kind).collect();
    let expected = [EventKind::Signup, EventKind::Login, EventKind::Login, EventKind::Logout];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn one_of_many_sign_ups_with_one_address_wins() {
    let world = World::new().await;
    let outcomes = futures_util::future::join_all((0..10).map(|n| {
        let email = if n % 2 == 0 { "ann@example.com" } else { "ANN@Example.com" };
        world.post("/signup", json!({"email": email, "password": PASSWORD}))
    }))
    .await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for refused in outcomes.into_iter().filter(Result::is_err) {
        assert_eq!(code(refused), "user_already_exists");
    }
    let failed = (EventKind::SignupFailed, Some("user_already_exists".to_owned()));
    assert_eq!(world.events().await.iter().filter(|event| **event == failed).count(), 9);
}

#[tokio::test]
async fn refused_sign_ups_are_stored_with_their_reason() {
    let world = World::new().await;
    let weak = world.post("/signup", json!({"email": "ann@example.com", "password": "x"})).await;
    assert_eq!(code(weak), "weak_password");
    let bad = world.post("/signup", json!({"email": "ann", "password": PASSWORD})).await;
    assert_eq!(code(bad), "validation_failed");
    let large =
        json!({"email": "ann@example.com", "password": PASSWORD, "data": {"x": "x".repeat(2100)}});
    assert_eq!(code(world.post("/signup", large).await), "validation_failed");

    let mut closed = Config::default();
    closed.signup.enabled = false;
    world.auth.reload(Rules::compile(&closed).unwrap());
    let refused = world.post("/signup", json!({"email": "ann@example.com", "password": PASSWORD}));
    assert_eq!(code(refused.await), "signup_disabled");
    let settings = world.send(request("GET", "/settings")).await.unwrap();
    assert_eq!(body(&settings)["disable_signup"], true);

    let reasons: Vec<_> = world.events().await.into_iter().filter_map(|event| event.1).collect();
    let expected = ["weak_password", "validation_failed", "validation_failed", "signup_disabled"];
    assert_eq!(reasons, expected);
}

#[tokio::test]
async fn unknown_user_wrong_password_and_disabled_user_get_one_answer() {
    let world = World::new().await;
    let bob = world.sign_up("bob@example.com").await;
    world.sign_up("ann@example.com").await;
    let bob_id = bob["user"]["id"].as_str().unwrap().parse().unwrap();
    world.disable(&bob_id).await;
    for (email, password) in [
        ("nobody@example.com", PASSWORD),
        ("ann@example.com", "Plover-Quill-43"),
        ("ann@example.com", ""),
        ("bob@example.com", PASSWORD),
        ("bob@example.com", "Plover-Quill-43"),
    ] {
        let refused = world.log_in(email, password).await.unwrap_err();
        let error = &refused.error;
        assert!(matches!(error, AuthError::InvalidCredentials), "{email} {error:?}");
        assert_eq!(refused.user_id, None);
    }
    let failed: Vec<_> = world
        .events()
        .await
        .into_iter()
        .filter(|(kind, _)| *kind == EventKind::LoginFailed)
        .filter_map(|(_, reason)| reason)
        .collect();
    let expected =
        ["unknown_user", "wrong_password", "wrong_password", "user_disabled", "wrong_password"];
    assert_eq!(failed, expected);
}

#[tokio::test]
async fn a_bcrypt_hash_logs_in_and_is_replaced() {
    let world = World::new().await;
    let now = world.clock.now();
    let email: crate::model::Email = "old@example.com".parse().unwrap();
    let hash = PasswordHash(bcrypt::hash("Old-Plover-7", 4).unwrap());
    let user = crate::model::User {
        email_confirmed_at: Some(now),
        roles: vec!["admin".to_owned()],
        ..crate::model::User::new("1001".parse().unwrap(), email.address(), now)
    };
    let event = Event {
        id: Uuid::from_u128(1),
        at: now,
        kind: EventKind::UserCreated,
        outcome: Outcome::Success,
        reason: None,
        actor: Some("cli".to_owned()),
        user_id: Some(user.id.clone()),
        email: None,
        session_id: None,
        address: None,
        user_agent: None,
        request_id: None,
    };
    let account = NewAccount { user, email: email.clone(), password_hash: Some(hash) };
    world.store.sign_up(&account, None, &event).await.unwrap();

    assert_eq!(code(world.log_in("old@example.com", "Old-Plover-8").await), "invalid_credentials");
    let session = body(&world.log_in("old@example.com", "Old-Plover-7").await.unwrap());
    assert_eq!(session["user"]["app_metadata"]["roles"], json!(["admin"]));
    let stored = world.store.account_by_email(&email).await.unwrap().unwrap();
    assert!(stored.password_hash.unwrap().0.starts_with("$argon2id$"));
    assert!(world.log_in("old@example.com", "Old-Plover-7").await.is_ok());
}

#[tokio::test]
async fn a_refresh_token_is_traded_once_and_a_lost_answer_is_given_again() {
    let world = World::new().await;
    let first = world.sign_up("ann@example.com").await;
    world.clock.advance(Duration::from_mins(1));
    let second = body(&world.refresh(&first["refresh_token"]).await.unwrap());
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_ne!(second["access_token"], first["access_token"]);

    // Nobody used the successor yet: the answer may have been lost, hours ago.
    world.clock.advance(Duration::from_hours(1));
    let repeated = body(&world.refresh(&first["refresh_token"]).await.unwrap());
    assert_eq!(repeated["refresh_token"], second["refresh_token"]);
    assert!(world.get("/user", &repeated).await.is_ok());

    // The successor was used: now the old one is in somebody else's hands.
    let third = body(&world.refresh(&second["refresh_token"]).await.unwrap());
    world.clock.advance(Duration::from_secs(11));
    let reused = world.refresh(&first["refresh_token"]).await;
    assert_eq!(code(reused), "refresh_token_already_used");
    for session in [&first, &second, &third] {
        assert_eq!(code(world.get("/user", session).await), "session_not_found");
    }
    assert_eq!(code(world.refresh(&third["refresh_token"]).await), "refresh_token_already_used");
    assert_eq!(world.events().await.last().unwrap().0, EventKind::RefreshReuse);
}

#[tokio::test]
async fn unknown_and_expired_refresh_tokens_are_refused() {
    let world = World::new().await;
    let session = world.sign_up("ann@example.com").await;
    for unknown in ["", "x", &"A".repeat(43), &"A".repeat(5000)] {
        let refused = world.refresh(&json!(unknown)).await;
        assert_eq!(code(refused), "refresh_token_not_found", "{unknown}");
    }
    assert_eq!(code(world.refresh(&json!(7)).await), "validation_failed");
    world.clock.advance(Duration::from_hours(7 * 24 + 1));
    assert_eq!(code(world.refresh(&session["refresh_token"]).await), "session_expired");
    for grant in ["", "?grant_type=implicit", "?grant_type=", "?grant=password"] {
        let refused = world.post(&format!("/token{grant}"), json!({})).await;
        assert_eq!(code(refused), "unsupported_grant_type");
    }
    let twice = "/token?grant_type=password&grant_type=refresh_token";
    assert_eq!(code(world.post(twice, json!({})).await), "validation_failed");
}

#[tokio::test]
async fn a_logout_ends_what_its_scope_names() {
    let world = World::new().await;
    world.sign_up("ann@example.com").await;
    let other_user = world.sign_up("bob@example.com").await;
    for (scope, expected) in [
        ("", [false, true]),
        ("?scope=local", [false, true]),
        ("?scope=others", [true, false]),
        ("?scope=global", [false, false]),
    ] {
        let mine = body(&world.log_in("ann@example.com", PASSWORD).await.unwrap());
        let other = body(&world.log_in("ann@example.com", PASSWORD).await.unwrap());
        let logout = request("POST", &format!("/logout{scope}")).bearer(&mine);
        assert_eq!(world.send(logout).await.unwrap().status, StatusCode::NO_CONTENT);
        for (session, is_alive) in [&mine, &other].into_iter().zip(expected) {
            assert_eq!(world.get("/user", session).await.is_ok(), is_alive, "{scope}");
        }
        assert!(world.get("/user", &other_user).await.is_ok());
    }
    let bad = request("POST", "/logout?scope=everything").bearer(&other_user);
    assert_eq!(code(world.send(bad).await), "validation_failed");
}

async fn change(world: &World, session: &Value, body: Value) -> Result<AuthAnswer, AuthFailure> {
    world.send(request("PUT", "/user").bearer(session).json(&body)).await
}

#[tokio::test]
async fn metadata_is_changed_key_by_key() {
    let world = World::new().await;
    let session = world.sign_up("ann@example.com").await;
    let first = change(&world, &session, json!({"data": {"a": 1, "b": 2}})).await.unwrap();
    assert_eq!(body(&first)["user_metadata"], json!({"a": 1, "b": 2}));
    let second = change(&world, &session, json!({"data": {"a": null, "c": [3]}})).await.unwrap();
    assert_eq!(body(&second)["user_metadata"], json!({"b": 2, "c": [3]}));
    let large = json!({"data": {"d": "x".repeat(2030)}});
    assert_eq!(code(change(&world, &session, large).await), "validation_failed");
    let unchanged = change(&world, &session, json!({})).await.unwrap();
    assert_eq!(body(&unchanged)["user_metadata"], json!({"b": 2, "c": [3]}));
    for bad in [json!({"email": "bob"}), json!({"phone": "1"}), json!({"data": 1})] {
        assert_eq!(code(change(&world, &session, bad).await), "validation_failed");
    }
}

#[tokio::test]
async fn a_new_password_needs_proof_and_ends_the_other_sessions() {
    let world = World::new().await;
    let other = world.sign_up("ann@example.com").await;
    let mine = body(&world.log_in("ann@example.com", PASSWORD).await.unwrap());
    let refused = [
        (json!({"password": "x"}), "weak_password"),
        (json!({"password": "Ann@example.com"}), "weak_password"),
        (json!({"password": PASSWORD}), "same_password"),
        (json!({"password": PASSWORD, "current_password": PASSWORD}), "same_password"),
        (json!({"password": "New-Plover-8", "current_password": "x"}), "current_password_invalid"),
        (json!({"password": "New-Plover-8", "current_password": ""}), "current_password_required"),
    ];
    for (body, expected) in refused {
        assert_eq!(code(change(&world, &mine, body).await), expected);
    }
    // The login is fresh: it will do.
    assert!(change(&world, &mine, json!({"password": "New-Plover-8"})).await.is_ok());
    assert!(world.get("/user", &mine).await.is_ok());
    assert_eq!(code(world.get("/user", &other).await), "session_not_found");
    assert_eq!(code(world.log_in("ann@example.com", PASSWORD).await), "invalid_credentials");

    // A day later it takes the old password.
    world.clock.advance(Duration::from_hours(23));
    let mine = body(&world.refresh(&mine["refresh_token"]).await.unwrap());
    world.clock.advance(Duration::from_hours(1));
    let alone = change(&world, &mine, json!({"password": "Newer-Plover-9"})).await;
    assert_eq!(code(alone), "reauthentication_needed");
    let both = json!({"password": "Newer-Plover-9", "current_password": "New-Plover-8"});
    assert!(change(&world, &mine, both).await.is_ok());
    assert!(world.log_in("ann@example.com", "Newer-Plover-9").await.is_ok());

    let events = world.events().await;
    let count = |kind| events.iter().filter(|(found, _)| *found == kind).count();
    assert_eq!(count(EventKind::PasswordChanged), 2);
    assert_eq!(count(EventKind::PasswordChangeFailed), 1);
}

#[tokio::test]
async fn a_stolen_token_does_not_help_to_guess_the_password() {
    let world = World::with(|_| ()).await;
    let session = world.sign_up("ann@example.com").await;
    let guess = json!({"password": "New-Plover-8", "current_password": "x"});
    for _ in 0..20 {
        let refused = change(&world, &session, guess.clone()).await;
        assert_eq!(code(refused), "current_password_invalid");
    }
    assert_eq!(code(change(&world, &session, guess).await), "over_request_rate_limit");
    assert!(world.log_in("ann@example.com", PASSWORD).await.is_ok());
}
