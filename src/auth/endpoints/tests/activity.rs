//! What users see of their sessions and events.

use super::*;

#[tokio::test]
async fn sessions_are_listed_and_ended_by_their_owner_only() {
    let world = World::new().await;
    let mut first =
        request("POST", "/signup").json(&json!({"email": "ann@example.com", "password": PASSWORD}));
    first.headers.insert(USER_AGENT, HeaderValue::from_bytes(b"curl/8\xff\t").unwrap());
    let first = body(&world.send(first).await.unwrap());
    world.clock.advance(Duration::from_secs(1));
    let second = body(&world.log_in("ann@example.com", PASSWORD).await.unwrap());
    let bob = world.sign_up("bob@example.com").await;

    let listed = body(&world.get("/sessions", &second).await.unwrap());
    let listed = listed["sessions"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["current"], &listed[1]["current"]), (&json!(true), &json!(false)));
    assert_eq!(listed[1]["user_agent"], "curl/8\u{fffd}\u{fffd}");
    assert_eq!(listed[1]["address"], "192.0.2.1");

    let target = format!("/sessions/{}", listed[1]["id"].as_str().unwrap());
    let delete = |session| request("DELETE", &target).bearer(session);
    assert_eq!(code(world.send(delete(&bob)).await), "not_found");
    assert!(world.get("/user", &first).await.is_ok());
    assert_eq!(world.send(delete(&second)).await.unwrap().status, StatusCode::NO_CONTENT);
    assert_eq!(code(world.get("/user", &first).await), "session_not_found");
    assert_eq!(code(world.send(delete(&second)).await), "not_found");
    let nonsense = request("DELETE", "/sessions/..").bearer(&second);
    assert_eq!(code(world.send(nonsense).await), "not_found");
}

#[tokio::test]
async fn events_are_read_page_by_page() {
    let world = World::new().await;
    let session = world.sign_up("ann@example.com").await;
    world.sign_up("bob@example.com").await;
    for _ in 0..4 {
        world.clock.advance(Duration::from_secs(1));
        assert!(world.log_in("ann@example.com", "wrong").await.is_err());
    }
    let mut kinds = Vec::new();
    let mut target = "/events?limit=2".to_owned();
    loop {
        let page = body(&world.get(&target, &session).await.unwrap());
        let events = page["events"].as_array().unwrap().clone();
        assert!(events.len() <= 2);
        kinds.extend(events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/events?limit=2&before={next}");
    }
    let failed = "login_failed";
    assert_eq!(kinds, [failed, failed, failed, failed, "signup"]);
    for bad in ["limit=0", "limit=201", "limit=x", "limit=1&limit=2", "limit=&limit=1", "before=x"]
    {
        let refused = world.get(&format!("/events?{bad}"), &session).await;
        assert_eq!(code(refused), "validation_failed", "{bad}");
    }
}
