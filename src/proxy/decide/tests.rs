use std::time::Duration;

use super::*;
use crate::config::ClientCertificates;

use crate::identity::Rejection;
use crate::identity::caller::Assurance;
use crate::identity::credential::CarrierError;
use crate::model::Aal;
use crate::proxy::step_up::StepUp;

const ROUTES: &str = r#"
    [[issuers]]
    name = "corp"
    issuer = "https://id.example.com/"
    audience = "api"
    algorithms = ["RS256"]
    key_file = "corp.pem"
    [[issuers]]
    name = "other"
    issuer = "https://other.example.com/"
    audience = "api"
    algorithms = ["RS256"]
    key_file = "other.pem"
    [upstreams.app]
    servers = ["http://127.0.0.1:8000"]

    [[routes]]
    path = "/api/{user_id}/{*rest}"
    upstream = "app"
    owner_override_roles = ["support", "admin"]
    [[routes]]
    path = "/api/{user_id}/billing/{*rest}"
    upstream = "app"
    roles = ["billing", "admin"]
    [[routes]]
    path = "/hidden/{user_id}"
    upstream = "app"
    hide_mismatch = true
    [[routes]]
    path = "/public/{*rest}"
    upstream = "app"
    access = "public"
    [[routes]]
    path = "/feed"
    upstream = "app"
    access = "optional"
    methods = ["GET"]
    [[routes]]
    path = "/internal/{*rest}"
    access = "deny"
    mode = "shadow"
    [[routes]]
    path = "/shadow/{user_id}"
    upstream = "app"
    mode = "shadow"
    roles = ["clerk"]
    [[routes]]
    path = "/corp/{user_id}"
    upstream = "app"
    issuers = ["self", "corp"]
    reason = "corp's subjects begin with corp-"
    [[routes]]
    path = "/keys/{user_id}/{*rest}"
    upstream = "app"
    api_keys = true
    owner_override_roles = ["support"]
    [[routes]]
    path = "/scoped/{user_id}"
    upstream = "app"
    api_keys = true
    scopes = ["read", "orders:write"]
    roles = ["clerk"]
    [[routes]]
    path = "/maybe"
    upstream = "app"
    access = "optional"
    [[routes]]
    path = "/profiles/{user_id}"
    upstream = "app"
    access = "public"
    owner = "none"
    reason = "profiles are open"
"#;

fn config() -> Config {
    toml::from_str(ROUTES).unwrap()
}

fn user(subject: &str) -> Credential {
    with_roles(subject, &[])
}

fn with_roles(subject: &str, roles: &[&str]) -> Credential {
    let roles: Vec<String> = roles.iter().map(|&role| role.to_owned()).collect();
    caller(subject, &roles, "self")
}

fn of_issuer(subject: &str, issuer: &str) -> Credential {
    caller(subject, &[], issuer)
}

fn caller(subject: &str, roles: &[String], issuer: &str) -> Credential {
    let index = IssuerIndex::named(issuer, &config().issuers).unwrap();
    let identity = Identity::synthetic(subject, roles, index, issuer.into()).unwrap();
    Credential::Verified(Arc::new(identity))
}

fn key(subject: &str, roles: &[&str], scopes: &[&str]) -> Credential {
    let Credential::Verified(user) = with_roles(subject, roles) else { unreachable!() };
    let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
    let machine = Machine { key_id: None, token: None, client: "pck_x".into(), scopes };
    let identity = (*user).clone().with_machine(machine).unwrap();
    Credential::Verified(Arc::new(identity))
}

/// What was decided, as the pieces that tests look at: reason or `allow`, subject, flags.
#[derive(Debug, PartialEq)]
enum Said {
    Own,
    Allow { subject: Option<String>, overridden: bool, shadowed: Option<Refusal> },
    Refused(Refusal),
}

fn say(request: &str, credential: Credential) -> Said {
    let table = RouteTable::compile(&config()).unwrap();
    let (method, path) = request.split_once(' ').unwrap();
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    match decide_quietly(&table, &method, path, None, |_| credential, 0) {
        Decision::Own => Said::Own,
        Decision::Refuse(refused) => Said::Refused(refused.refusal),
        Decision::Permit(permit) => Said::Allow {
            subject: permit.identity().map(|identity| identity.subject.to_string()),
            overridden: permit.owner_overridden(),
            shadowed: permit.shadowed().cloned(),
        },
    }
}

fn allow(subject: &str) -> Said {
    Said::Allow { subject: Some(subject.to_owned()), overridden: false, shadowed: None }
}

fn anonymous() -> Said {
    Said::Allow { subject: None, overridden: false, shadowed: None }
}

fn shadowed(subject: Option<&str>, refusal: Refusal) -> Said {
    Said::Allow { subject: subject.map(str::to_owned), overridden: false, shadowed: Some(refusal) }
}

#[test]
fn every_row_of_the_decision() {
    use Refusal as R;
    let mismatch = || Said::Refused(R::OwnerMismatch { hidden: false });
    let missing_scope =
        || Said::Refused(R::MissingScope { needed: "read orders:write".to_owned() });
    let not_taken = || R::BadToken(Rejection::IssuerNotAccepted);
    let malformed = || Credential::Malformed(CarrierError::Repeated);
    let bad = || Credential::Rejected(Rejection::SessionEnded);
    let cases: Vec<(&str, Credential, Said)> = vec![
        // tokens
        ("GET /api/u1/tasks", Credential::Absent, Said::Refused(R::NoToken)),
        ("GET /api/u1/tasks", Credential::OtherScheme, Said::Refused(R::NoToken)),
        ("GET /api/u1/tasks", malformed(), Said::Refused(R::MalformedCredential)),
        ("GET /api/u1/tasks", bad(), Said::Refused(R::BadToken(Rejection::SessionEnded))),
        ("GET /api/u1/tasks", user("u1"), allow("u1")),
        // owners
        ("GET /api/u1", user("u1"), allow("u1")),
        ("GET /api/u1/", user("u1"), allow("u1")),
        ("GET /api/u%31/tasks", user("u1"), allow("u1")),
        ("GET /%61pi/u1/tasks", user("u1"), allow("u1")),
        ("GET /corp/auth0%7C7", of_issuer("auth0|7", "corp"), allow("auth0|7")),
        ("GET /api/u2/tasks", user("u1"), mismatch()),
        ("GET /api/U1/tasks", user("u1"), mismatch()),
        ("GET /api/u1%20/tasks", user("u1"), mismatch()),
        ("GET /api/u/tasks", user("u1"), mismatch()),
        ("GET /api/u11/tasks", user("u1"), mismatch()),
        ("GET /%61pi/u2/tasks", user("u1"), mismatch()),
        ("GET /hidden/u2", user("u1"), Said::Refused(R::OwnerMismatch { hidden: true })),
        ("GET /hidden/u1", user("u1"), allow("u1")),
        // overriding an owner
        (
            "GET /api/u2/tasks",
            with_roles("boss", &["support"]),
            Said::Allow { subject: Some("boss".to_owned()), overridden: true, shadowed: None },
        ),
        ("GET /api/u1/tasks", with_roles("u1", &["admin"]), allow("u1")),
        ("GET /api/u2/tasks", with_roles("boss", &["supporter"]), mismatch()),
        (
            "GET /hidden/u2",
            with_roles("boss", &["admin"]),
            Said::Refused(R::OwnerMismatch { hidden: true }),
        ),
        // roles
        ("GET /api/u1/billing", user("u1"), Said::Refused(R::MissingRole)),
        ("GET /api/u1/billing", with_roles("u1", &["x", "billing"]), allow("u1")),
        ("GET /api/u2/billing", with_roles("u1", &["billing"]), mismatch()),
        // API keys
        ("GET /api/u1/tasks", key("u1", &[], &["read"]), Said::Refused(R::ApiKeyNotAccepted)),
        ("GET /maybe", key("u1", &[], &[]), Said::Refused(R::ApiKeyNotAccepted)),
        ("GET /public/x", key("u1", &[], &[]), anonymous()),
        ("GET /shadow/u1", key("u1", &[], &[]), shadowed(Some("u1"), R::ApiKeyNotAccepted)),
        ("GET /keys/u1/x", key("u1", &[], &[]), allow("u1")),
        ("GET /keys/u1/x", user("u1"), allow("u1")),
        ("GET /keys/u2/x", key("u1", &[], &[]), mismatch()),
        (
            "GET /keys/u2/x",
            key("u1", &["support"], &[]),
            Said::Allow { subject: Some("u1".to_owned()), overridden: true, shadowed: None },
        ),
        ("GET /scoped/u1", key("u1", &["clerk"], &["orders:write", "read", "x"]), allow("u1")),
        ("GET /scoped/u1", key("u1", &["clerk"], &["read"]), missing_scope()),
        ("GET /scoped/u1", key("u1", &["clerk"], &[]), missing_scope()),
        // What the key may do is looked at first, but whose the path is counts all the same.
        ("GET /scoped/u2", key("u1", &[], &[]), missing_scope()),
        ("GET /scoped/u2", key("u1", &["clerk"], &["orders:write", "read"]), mismatch()),
        (
            "GET /scoped/u1",
            key("u1", &[], &["orders:write", "read"]),
            Said::Refused(R::MissingRole),
        ),
        ("GET /scoped/u1", with_roles("u1", &["clerk"]), allow("u1")),
        // public, optional, deny
        ("GET /public/x", Credential::Absent, anonymous()),
        ("GET /public/x", bad(), anonymous()),
        ("GET /public/x", malformed(), anonymous()),
        ("GET /public/x", user("u1"), anonymous()),
        ("GET /profiles/u2", user("u1"), anonymous()),
        ("GET /feed", Credential::Absent, anonymous()),
        ("GET /feed", Credential::OtherScheme, anonymous()),
        ("HEAD /feed", user("u1"), allow("u1")),
        ("GET /feed", bad(), Said::Refused(R::BadToken(Rejection::SessionEnded))),
        ("GET /feed", malformed(), Said::Refused(R::MalformedCredential)),
        ("GET /internal/x", with_roles("u1", &["admin"]), Said::Refused(R::Denied)),
        // issuers
        ("GET /api/u1/tasks", of_issuer("u1", "corp"), Said::Refused(not_taken())),
        ("GET /feed", of_issuer("u1", "corp"), Said::Refused(not_taken())),
        ("GET /corp/u1", of_issuer("u1", "corp"), allow("u1")),
        ("GET /corp/u1", of_issuer("u1", "self"), allow("u1")),
        ("GET /corp/u1", of_issuer("u1", "other"), Said::Refused(not_taken())),
        // shadow
        ("GET /shadow/u1", Credential::Absent, shadowed(None, R::NoToken)),
        ("GET /shadow/u1", malformed(), shadowed(None, R::MalformedCredential)),
        ("GET /shadow/u1", bad(), shadowed(None, R::BadToken(Rejection::SessionEnded))),
        ("GET /shadow/u1", of_issuer("u1", "corp"), shadowed(None, not_taken())),
        ("GET /shadow/u2", user("u1"), shadowed(Some("u1"), R::OwnerMismatch { hidden: false })),
        ("GET /shadow/u1", user("u1"), shadowed(Some("u1"), R::MissingRole)),
        ("GET /shadow/u1", with_roles("u1", &["clerk"]), allow("u1")),
        ("GET /shadow/u;1", user("u1"), Said::Refused(R::BadPath(PathError::ParametersInVariable))),
        ("GET /shadow//u1", user("u1"), Said::Refused(R::BadPath(PathError::EmptySegment))),
        // no route, other method, our own paths
        ("GET /", user("u1"), Said::Refused(R::NoRoute)),
        ("GET /apiary/u1", user("u1"), Said::Refused(R::NoRoute)),
        (
            "POST /feed",
            user("u1"),
            Said::Refused(R::MethodNotAllowed { allow: "GET, HEAD".to_owned() }),
        ),
        ("POST /auth/login", Credential::Absent, Said::Own),
        ("GET /auth", Credential::Absent, Said::Own),
        ("GET /%61uth/user", Credential::Absent, Said::Own),
        ("GET /auth/a%2fb", Credential::Absent, Said::Refused(R::BadPath(PathError::EncodedSlash))),
        // a way round through another route
        (
            "GET /public/../api/u2/tasks",
            user("u1"),
            Said::Refused(R::BadPath(PathError::DotSegment)),
        ),
        ("GET /public/%2e%2e/api/u2", user("u1"), Said::Refused(R::BadPath(PathError::DotSegment))),
        ("GET /public%2f..%2fapi/u2", user("u1"), Said::Refused(R::BadPath(PathError::DotSegment))),
        ("GET /api/u1/..;/u2", user("u1"), Said::Refused(R::BadPath(PathError::DotSegment))),
    ];
    for (request, credential, expected) in cases {
        let shown = format!("{request} with {credential:?}");
        assert_eq!(say(request, credential), expected, "{shown}");
    }
}

#[test]
fn tokens_are_not_looked_at_unless_the_route_asks() {
    let table = RouteTable::compile(&config()).unwrap();
    for path in ["/public/x", "/internal/x", "/auth/login", "/nowhere", "/a//b"] {
        decide_quietly(
            &table,
            &Method::GET,
            path,
            None,
            |_| panic!("{path} looked at the token"),
            0,
        );
    }
}

#[test]
fn a_refusal_tells_what_was_known() {
    let table = RouteTable::compile(&config()).unwrap();
    let Decision::Refuse(refused) =
        decide_quietly(&table, &Method::GET, "/api/u2/x", None, |_| user("u1"), 0)
    else {
        panic!("another user's path was let through");
    };
    assert_eq!(refused.route.map(|route| route.id), Some(0));
    assert_eq!(
        refused.identity.map(|identity| identity.subject.to_string()).as_deref(),
        Some("u1")
    );
}

#[test]
fn statuses_follow_the_contract() {
    use Refusal as R;
    for (refusal, status, reason) in [
        (R::BadPath(PathError::DotSegment), 400, "bad_path"),
        (R::MalformedCredential, 400, "malformed_credential"),
        (R::NoToken, 401, "no_token"),
        (R::BadToken(Rejection::SessionEnded), 401, "session_ended"),
        (R::BadToken(Rejection::IssuerNotAccepted), 401, "issuer_not_accepted"),
        (R::Denied, 403, "denied"),
        (R::StepUp(StepUp::default()), 401, "insufficient_aal"),
        (R::OwnerMismatch { hidden: false }, 403, "owner_mismatch"),
        (R::MissingRole, 403, "missing_role"),
        (R::ApiKeyNotAccepted, 401, "api_key_not_accepted"),
        (R::MissingScope { needed: String::new() }, 403, "missing_scope"),
        (R::NoClientCertificate, 403, "no_client_certificate"),
        (R::OwnerMismatch { hidden: true }, 404, "owner_mismatch"),
        (R::NoRoute, 404, "no_route"),
        (R::MethodNotAllowed { allow: String::new() }, 405, "method_not_allowed"),
    ] {
        assert_eq!((status_of(&refusal), refusal.reason()), (status, reason));
    }
}

#[test]
fn a_recording_tells_the_story() {
    let table = RouteTable::compile(&config()).unwrap();
    let mut trace = Recording::default();
    decide(&table, &Method::GET, "/api/u2/tasks", None, |_| user("u1"), 0, &mut trace);
    let steps: Vec<_> = trace.steps.iter().map(|s| (s.step.as_str(), s.result)).collect();
    assert_eq!(
        steps,
        [("path", "passed"), ("route", "found"), ("token", "passed"), ("owner", "refused")]
    );
    assert_eq!(trace.steps[3].why, "`{user_id}` is `u2`, the caller is `u1`");
    assert!(trace.to_string().contains("owner   refused"), "{trace}");
}

#[test]
fn tests_in_the_configuration_are_run() {
    let mut config = config();
    let table = RouteTable::compile(&config).unwrap();
    let tests = |text: &str| {
        #[derive(serde::Deserialize)]
        struct Tests {
            tests: Vec<config::Test>,
        }
        toml::from_str::<Tests>(text).unwrap().tests
    };
    config.tests = tests(
        r#"
        tests = [
            { request = "GET /api/u1/tasks?page=2", as = "u1", expect = "allow" },
            { request = "GET /api/u1/tasks", expect = 401 },
            { request = "GET /api/u2/tasks", as = "u1", expect = "403" },
            { request = "GET /api/u2/tasks", as = "u1", roles = ["admin"], expect = "allow" },
            { request = "GET /corp/u1", as = "u1", issuer = "corp", expect = "allow" },
            { request = "GET /hidden/u1", as = "u1", issuer = "self", expect = "allow" },
            { request = "GET /api/u1/../u2", as = "u1", expect = 400 },
            { request = "GET /hidden/u2", as = "u1", expect = 404 },
            { request = "DELETE /feed", expect = 405 },
            { request = "GET /api/u1/tasks", as = "u1", scopes = [], expect = 401 },
            { request = "GET /keys/u1/x", as = "u1", scopes = [], expect = "allow" },
            { request = "GET /scoped/u1", as = "u1", roles = ["clerk"], scopes = ["read"], expect = 403 },
        ]
        "#,
    );
    assert_eq!(run_tests(&config, &table), []);

    config.tests = tests(
        r#"
        tests = [
            { request = "GET /public/x", expect = "allow" },
            { request = "GET /api/u2/tasks", as = "u1", expect = "allow" },
            { request = "GET /api/u1/tasks", as = "u1", expect = 403 },
            { request = "/api/u1", expect = 403 },
            { request = "G@T /api/u1", expect = 403 },
            { request = "GET /auth/login", expect = 404 },
            { request = "GET /public/x", roles = ["admin"], expect = "allow" },
            { request = "GET /public/x", as = "u1", roles = ["Admin"], expect = "allow" },
            { request = "GET /public/x", as = "u1", issuer = "core", expect = "allow" },
            { request = "GET /public/x", scopes = ["read"], expect = "allow" },
            { request = "GET /public/x", as = "u1", scopes = ["Read"], expect = "allow" },
            { request = "GET /public/x", as = "u1", issuer = "corp", scopes = [], expect = "allow" },
        ]
        "#,
    );
    let expected = [
        ("tests[1]", "expected allow, got 403: `{user_id}` is `u2`, the caller is `u1`"),
        ("tests[2]", "expected 403, got allow"),
        ("tests[3]", "a method and a path"),
        ("tests[4]", "a method and a path"),
        ("tests[5]", "answers this path itself"),
        ("tests[6]", "add `as`"),
        ("tests[7]", "no token could say this"),
        ("tests[8]", "none of [[issuers]]"),
        ("tests[9]", "add `as`"),
        ("tests[10]", "no API key could have these"),
        ("tests[11]", "of our own users"),
    ];
    let problems = run_tests(&config, &table);
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, (key, part)) in problems.iter().zip(expected) {
        assert!(problem.key == key && problem.message.contains(part), "{problem:?}");
    }
}

/// What is known of how a token's user was authenticated: level, whether a factor is not yet shown,
/// and how many seconds before the request the last proof was given.
#[derive(Clone, Copy, Debug)]
struct Shown(Aal, bool, Option<i64>);

#[test]
fn sessions_prove_what_their_route_asks_for() {
    const NOW: i64 = 1_800_000_000;
    let text = r#"
        [upstreams.app]
        servers = ["http://127.0.0.1:8000"]
        [[routes]]
        path = "/plain"
        upstream = "app"
        [[routes]]
        path = "/feed"
        upstream = "app"
        access = "optional"
        [[routes]]
        path = "/public"
        upstream = "app"
        access = "public"
        [[routes]]
        path = "/safe/{user_id}"
        upstream = "app"
        require_aal2 = true
        [[routes]]
        path = "/fresh"
        upstream = "app"
        max_age = "5m"
        [[routes]]
        path = "/both"
        upstream = "app"
        require_aal2 = true
        max_age = "5m"
        roles = ["admin"]
        [[routes]]
        path = "/trial"
        upstream = "app"
        require_aal2 = true
        mode = "shadow"
    "#;
    let mut config: Config = toml::from_str(text).unwrap();
    let said = |config: &Config, path: &str, Shown(aal, mfa_pending, age): Shown, role: &str| {
        let table = RouteTable::compile(config).unwrap();
        let roles = [role.to_owned()];
        let identity = Identity::synthetic("u1", &roles, IssuerIndex::OURS, "self".into());
        let mut identity = identity.unwrap();
        let proved_at = age.map(|age| NOW - age);
        identity.assurance = Assurance { aal, mfa_pending, proved_at };
        let credential = Credential::Verified(Arc::new(identity));
        match decide_quietly(&table, &Method::GET, path, None, |_| credential, NOW) {
            Decision::Permit(permit) => permit.shadowed().cloned(),
            Decision::Refuse(refused) => Some(refused.refusal),
            Decision::Own => panic!("{path} is not ours"),
        }
    };
    let step_up = |aal2, max_age: Option<u64>| {
        Some(Refusal::StepUp(StepUp { aal2, max_age: max_age.map(Duration::from_secs) }))
    };
    let one = Shown(Aal::One, false, Some(10));
    let two = Shown(Aal::Two, false, Some(10));
    let half = Shown(Aal::One, true, Some(10));
    let aged = |shown: Shown, age| Shown(shown.0, shown.1, age);
    for (path, shown, role, refusal) in [
        ("/plain", one, "x", None),
        ("/plain", aged(one, None), "x", None),
        ("/plain", two, "x", None),
        ("/plain", half, "x", step_up(true, None)),
        ("/feed", half, "x", step_up(true, None)),
        ("/public", half, "x", None),
        ("/safe/u1", one, "x", step_up(true, None)),
        ("/safe/u1", two, "x", None),
        ("/safe/u1", aged(two, None), "x", None),
        // Nobody proves more for what is refused in any case.
        ("/safe/u2", one, "x", Some(Refusal::OwnerMismatch { hidden: false })),
        ("/fresh", one, "x", None),
        ("/fresh", aged(one, Some(300)), "x", None),
        ("/fresh", aged(one, Some(301)), "x", step_up(false, Some(300))),
        ("/fresh", aged(one, None), "x", step_up(false, Some(300))),
        ("/fresh", half, "x", step_up(true, None)),
        ("/both", one, "x", Some(Refusal::MissingRole)),
        ("/both", one, "admin", step_up(true, Some(300))),
        ("/both", aged(two, Some(301)), "admin", step_up(true, Some(300))),
        ("/both", two, "admin", None),
        ("/trial", one, "x", step_up(true, None)),
        ("/trial", two, "x", None),
    ] {
        assert_eq!(said(&config, path, shown, role), refusal, "{path} {shown:?} {role}");
    }

    // In shadow mode the upstream is told who it is, but not of half a login.
    let told = |shown: Shown| {
        let table = RouteTable::compile(&config).unwrap();
        let identity = Identity::synthetic("u1", &[], IssuerIndex::OURS, "self".into());
        let mut identity = identity.unwrap();
        let Shown(aal, mfa_pending, _) = shown;
        identity.assurance = Assurance { aal, mfa_pending, proved_at: None };
        let credential = Credential::Verified(Arc::new(identity));
        match decide_quietly(&table, &Method::GET, "/trial", None, |_| credential, NOW) {
            Decision::Permit(permit) => permit.identity().is_some(),
            other => panic!("{other:?}"),
        }
    };
    assert!(told(one) && !told(half));

    config.factors.enforce = false;
    assert_eq!(said(&config, "/plain", half, "x"), None);
    assert_eq!(said(&config, "/safe/u1", half, "x"), step_up(true, None));

    let table = RouteTable::compile(&config).unwrap();
    let rules = |id: usize| table.routes()[id].describe().rules;
    assert_eq!(rules(3), "user_id = subject, second factor");
    assert_eq!(rules(5), "role admin, second factor, proved within 300 s");
    config.tests = toml::from_str::<Config>(
        r#"
        [[tests]]
        request = "GET /safe/u1"
        as = "u1"
        expect = 401
        [[tests]]
        request = "GET /safe/u1"
        as = "u1"
        aal2 = true
        expect = "allow"
        [[tests]]
        request = "GET /fresh"
        as = "u1"
        expect = "allow"
        "#,
    )
    .unwrap()
    .tests;
    assert_eq!(run_tests(&config, &table), []);
}

#[test]
fn a_route_may_ask_for_a_client_certificate_beside_all_else() {
    let text = r#"
        [server.tls]
        certificate = "c.pem"
        private_key = "k.pem"
        client_certificates = "optional"
        client_ca = "ca.pem"
        [upstreams.app]
        servers = ["http://127.0.0.1:8000"]
        [[routes]]
        path = "/machines/{*rest}"
        upstream = "app"
        access = "public"
        client_certificate = true
        [[routes]]
        path = "/both/{user_id}"
        upstream = "app"
        client_certificate = true
        [[routes]]
        path = "/trial"
        upstream = "app"
        access = "public"
        client_certificate = true
        mode = "shadow"
    "#;
    let mut config: Config = toml::from_str(text).unwrap();
    let table = RouteTable::compile(&config).unwrap();
    let subject = HeaderValue::from_static("CN=printer");
    let said = |path: &str, shown: bool, credential: Credential| {
        let certificate = shown.then_some(&subject);
        match decide_quietly(&table, &Method::GET, path, certificate, |_| credential, 0) {
            Decision::Permit(permit) => permit.shadowed().map_or("allow", Refusal::reason),
            Decision::Refuse(refused) => refused.refusal.reason(),
            Decision::Own => "own",
        }
    };
    let missing = "no_client_certificate";
    for (path, shown, credential, expected) in [
        ("/machines/a", true, Credential::Absent, "allow"),
        ("/machines/a", false, Credential::Absent, missing),
        ("/both/u1", true, user("u1"), "allow"),
        ("/both/u1", true, user("u2"), "owner_mismatch"),
        ("/both/u1", true, Credential::Absent, "no_token"),
        ("/both/u1", false, user("u1"), missing),
        ("/trial", false, Credential::Absent, missing),
    ] {
        assert_eq!(said(path, shown, credential), expected, "{path} {shown}");
    }
    config.server.tls.as_mut().unwrap().client_certificates = ClientCertificates::Off;
    let problems = RouteTable::compile(&config).unwrap_err();
    assert!(problems.iter().all(|problem| problem.key.ends_with(".client_certificate")));
    assert_eq!(problems.len(), 3);
}

#[test]
fn a_cookie_is_a_token_where_the_route_takes_it_and_a_page_of_ours_asks() {
    let text = r#"
        [cookies]
        enabled = true
        [links]
        site_url = "https://site.example/"
        [cors]
        allowed_origins = ["https://app.example"]
        allow_credentials = true
        [upstreams.app]
        servers = ["http://127.0.0.1:8000"]
        [[issuers]]
        name = "corp"
        issuer = "https://id.example/"
        audience = "api"
        algorithms = ["RS256"]
        key_file = "corp.pem"
        [[routes]]
        path = "/api/{user_id}"
        upstream = "app"
        [[routes]]
        path = "/optional"
        upstream = "app"
        access = "optional"
        [[routes]]
        path = "/bearer"
        upstream = "app"
        cookies = false
        [[routes]]
        path = "/corp"
        upstream = "app"
        issuers = ["corp"]
        [[routes]]
        path = "/public"
        upstream = "app"
        access = "public"
        [[routes]]
        path = "/trial"
        upstream = "app"
        mode = "shadow"
    "#;
    let mut config: Config = toml::from_str(text).unwrap();
    let table = RouteTable::compile(&config).unwrap();
    let takes: Vec<_> = table.routes().iter().map(|route| route.cookies).collect();
    assert_eq!(takes, [true, true, false, false, false, true]);
    assert_eq!(table.routes()[0].describe().rules, "user_id = subject, or cookie");

    let sites = Sites::compile(&config);
    let said = |method: Method, path: &str, origin: Option<&str>, whose: &str| {
        let credential =
            |route: &Route| in_cookie(route, &method, &sites, &config, origin, user(whose));
        match decide_quietly(&table, &method, path, None, credential, 0) {
            Decision::Permit(permit) => permit.shadowed().map_or("allow", Refusal::reason),
            Decision::Refuse(refused) => refused.refusal.reason(),
            Decision::Own => "own",
        }
    };
    let (evil, foreign) = (Some("https://evil.example"), "cross_site_request");
    for (method, path, origin, expected) in [
        (Method::GET, "/api/u1", None, "allow"),
        (Method::GET, "/api/u1", evil, "allow"),
        (Method::GET, "/api/u2", None, "owner_mismatch"),
        (Method::POST, "/api/u1", None, "allow"),
        (Method::POST, "/api/u1", Some("https://app.example"), "allow"),
        (Method::POST, "/api/u1", Some("https://site.example"), "allow"),
        (Method::POST, "/api/u1", evil, foreign),
        // Whose it is does not matter.
        (Method::POST, "/api/u2", evil, foreign),
        (Method::POST, "/api/u1", Some("http://127.0.0.1:8080"), "allow"),
        (Method::DELETE, "/optional", evil, foreign),
        (Method::POST, "/bearer", None, "no_token"),
        (Method::POST, "/bearer", evil, "no_token"),
        (Method::GET, "/corp", None, "no_token"),
        (Method::POST, "/public", evil, "allow"),
        (Method::POST, "/trial", evil, foreign),
    ] {
        assert_eq!(
            said(method.clone(), path, origin, "u1"),
            expected,
            "{method} {path} {origin:?}"
        );
    }

    config.tests = toml::from_str::<Config>(
        r#"
        [[tests]]
        request = "POST /api/u1"
        as = "u1"
        cookie = true
        expect = "allow"
        [[tests]]
        request = "POST /api/u1"
        as = "u1"
        cookie = true
        origin = "https://evil.example"
        expect = 403
        [[tests]]
        request = "GET /bearer"
        as = "u1"
        cookie = true
        expect = 401
        [[tests]]
        request = "GET /api/u1"
        as = "u1"
        origin = "https://evil.example"
        expect = "allow"
        [[tests]]
        request = "GET /api/u1"
        cookie = true
        expect = 401
        [[tests]]
        request = "GET /api/u1"
        as = "u1"
        scopes = []
        cookie = true
        expect = 401
        "#,
    )
    .unwrap()
    .tests;
    let problems = run_tests(&config, &table);
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["tests[3]", "tests[4]", "tests[5]"], "{problems:?}");

    for (route, expected) in [
        ("access = \"public\"\ncookies = true", "no tokens of ours"),
        ("access = \"deny\"\ncookies = true", "no tokens of ours"),
        ("issuers = [\"corp\"]\ncookies = true", "no tokens of ours"),
    ] {
        let text = format!("{text}\n[[routes]]\npath = \"/more\"\nupstream = \"app\"\n{route}");
        let problems = RouteTable::compile(&toml::from_str(&text).unwrap()).unwrap_err();
        assert_eq!(problems[0].key, "routes[6].cookies");
        assert!(problems[0].message.contains(expected), "{problems:?}");
    }
    let off = text.replace("enabled = true", "enabled = false");
    let table = RouteTable::compile(&toml::from_str(&off).unwrap()).unwrap();
    assert!(table.routes().iter().all(|route| !route.cookies));
    let asked = format!("{off}\n[[routes]]\npath = \"/more\"\nupstream = \"app\"\ncookies = true");
    let problems = RouteTable::compile(&toml::from_str(&asked).unwrap()).unwrap_err();
    assert!(problems[0].message.contains("cookies.enabled = true"), "{problems:?}");
}
