use super::*;
use crate::identity::IssuerIndex;

/// A configuration with two upstreams, one more issuer, and these routes.
fn config(routes: &str) -> Config {
    let text = format!(
        r#"
        [limits]
        search = {{ rate = "60/second", by = "user" }}
        tried = {{ rate = "5/minute", by = "account" }}
        [[issuers]]
        name = "corp"
        issuer = "https://id.example.com/"
        audience = "api"
        algorithms = ["RS256"]
        key_file = "corp.pem"
        [upstreams.app]
        servers = ["http://127.0.0.1:8000"]
        [upstreams.web]
        servers = ["http://127.0.0.1:8001"]
        response_timeout = "5s"
        {routes}
        "#
    );
    toml::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Routes with an upstream from `path` and further keys.
fn routes(written: &[(&str, &str)]) -> Config {
    let route = |(path, keys): &(&str, &str)| {
        format!("[[routes]]\npath = {path:?}\nupstream = \"app\"\n{keys}\n")
    };
    config(&written.iter().map(route).collect::<String>())
}

fn table(written: &[(&str, &str)]) -> RouteTable {
    RouteTable::compile(&routes(written)).unwrap_or_else(|problems| panic!("{:?}", problems[0]))
}

fn find(table: &RouteTable, method: &Method, path: &str) -> Result<String, NoMatch> {
    let path = CanonicalPath::parse(path).map_err(NoMatch::BadPath)?;
    table.find(path, method).map(|found| found.route().name.to_string())
}

#[test]
fn what_cannot_be_right_is_refused_at_its_key() {
    type Written = [(&'static str, &'static str)];
    let cases: &[(&Written, &str, &str)] = &[
        (&[("api", "")], "routes[0].path", "slash"),
        (&[("/ok", ""), ("/a b", "")], "routes[1].path", "percent-encoded"),
        // the gateway's own prefix
        (&[("/auth", "")], "routes[0].path", "under `/auth`"),
        (&[("/auth/{*rest}", "")], "routes[0].path", "under `/auth`"),
        (&[("/auth/v1/token", "")], "routes[0].path", "under `/auth`"),
        (&[("/%61uth/x", "")], "routes[0].path", "under `/auth`"),
        // methods
        (&[("/a", "methods = [\"GET\", \"get\"]")], "routes[0].methods[1]", "`get`"),
        (&[("/a", "methods = [\"TRACE\"]")], "routes[0].methods[0]", "`TRACE`"),
        // owners
        (&[("/a/{id}", "owner = \"user\"")], "routes[0].owner", "no variable"),
        (&[("/a", "owner = \"user_id\"")], "routes[0].owner", "no variable"),
        (&[("/a/{*user_id}", "")], "routes[0].owner", "span segments"),
        (&[("/a/{*path}", "owner = \"path\"")], "routes[0].owner", "span segments"),
        (&[("/a/{user_id}", "owner = \"none\"")], "routes[0].owner", "reason"),
        (&[("/a/{user_id}", "owner = \"none\"\nreason = \" \"")], "routes[0].owner", "reason"),
        (&[("/a", "owner = \"none\"")], "routes[0].owner", "reason"),
        (&[("/a/{user_id}", "access = \"public\"")], "routes[0].access", "owner = \"none\""),
        (&[("/a/{user_id}", "access = \"optional\"")], "routes[0].access", "owner = \"none\""),
        (&[("/a/{id}", "access = \"public\"\nowner = \"id\"")], "routes[0].access", "token"),
        // roles
        (&[("/a", "roles = [\"ok\", \"Admin\"]")], "routes[0].roles[1]", "`Admin`"),
        (&[("/a", "roles = [\"admin\"]\naccess = \"public\"")], "routes[0].roles", "authenticated"),
        (&[("/a", "roles = [\"admin\"]\naccess = \"optional\"")], "routes[0].roles", "authentic"),
        (
            &[("/a/{user_id}", "owner_override_roles = [\"a b\"]")],
            "routes[0].owner_override_roles[0]",
            "`a b`",
        ),
        (
            &[("/a", "owner_override_roles = [\"admin\"]")],
            "routes[0].owner_override_roles",
            "no owner",
        ),
        // API keys
        (&[("/a", "api_keys = true\naccess = \"public\"")], "routes[0].api_keys", "authenticated"),
        (&[("/a", "scopes = [\"read\"]")], "routes[0].scopes", "api_keys = true"),
        (&[("/a", "api_keys = true\nscopes = [\"a\", \"B\"]")], "routes[0].scopes[1]", "`B`"),
        // proofs
        (
            &[("/a", "require_aal2 = true\naccess = \"optional\"")],
            "routes[0].require_aal2",
            "authenticated",
        ),
        (&[("/a", "max_age = \"5m\"\naccess = \"public\"")], "routes[0].max_age", "authenticated"),
        (
            &[("/a", "require_aal2 = true\nissuers = [\"self\", \"corp\"]")],
            "routes[0].require_aal2",
            "only our own tokens",
        ),
        (&[("/a", "max_age = \"5m\"\nissuers = [\"corp\"]")], "routes[0].max_age", "only our own"),
        (&[("/a", "max_age = \"0s\"")], "routes[0].max_age", "at least 1s"),
        (&[("/a", "max_age = \"5m\"\napi_keys = true")], "routes[0].max_age", "a program"),
        // names
        (&[("/a/{user_id}", "issuers = [\"self\", \"corp\"]")], "routes[0].issuers", "reason"),
        (&[("/a", "issuers = [\"self\", \"core\"]")], "routes[0].issuers", "`corp`"),
        (&[("/a", "limit = [\"search\", \"serch\"]")], "routes[0].limit[1]", "`search`"),
        (&[("/a", "limit = [\"tried\"]")], "routes[0].limit[0]", "e-mail"),
        // prefixes
        (&[("/a/{x}", "strip_prefix = \"/a/x\"")], "routes[0].strip_prefix", "fixed beginning"),
        (&[("/api/x", "strip_prefix = \"/ap\"")], "routes[0].strip_prefix", "fixed beginning"),
        (&[("/a/{x}", "strip_prefix = \"/a/\"")], "routes[0].strip_prefix", "fixed path"),
        (&[("/a/{x}", "strip_prefix = \"/a/{x}\"")], "routes[0].strip_prefix", "fixed path"),
        (&[("/a/{x}", "strip_prefix = \"a\"")], "routes[0].strip_prefix", "slash"),
        (&[("/a", "strip_prefix = \"/\"")], "routes[0].strip_prefix", "fixed path"),
        // pairs
        (&[("/a", ""), ("/a", "")], "routes[1].path", "`/a`"),
        (&[("/a/{x}", ""), ("/a/{y}", "")], "routes[1].path", "`/a/x`"),
        (&[("/a/{*x}", ""), ("/a/{*y}", "")], "routes[1].path", "`/a`"),
        (&[("/a", ""), ("/%61", "")], "routes[1].path", "`/a`"),
        (
            &[("/a", "methods = [\"GET\"]"), ("/a", "methods = [\"HEAD\"]")],
            "routes[1].path",
            "`/a`",
        ),
        (&[("/a/{x}", ""), ("/{y}/b", "")], "routes[1].path", "`/a/b`"),
        (&[("/{y}/b", ""), ("/a/{x}", "")], "routes[1].path", "`/a/b`"),
        (&[("/a/{*r}", ""), ("/{y}/b", "")], "routes[1].path", "`/a/b`"),
        (&[("/a/{*r}", ""), ("/{y}/b/{*q}", "")], "routes[1].path", "`/a/b`"),
        (&[("/{x:int}/{y}", ""), ("/{x}/{y:int}", "")], "routes[1].path", "`/1/1`"),
        (&[("/7/{y}", ""), ("/{x:int}/b", "")], "routes[1].path", "`/7/b`"),
        (
            &[("/a/{x}", "methods = [\"GET\"]"), ("/{y}/b", "methods = [\"POST\"]")],
            "routes[1].path",
            "`/a/b`",
        ),
        (
            &[("/.well-known/oauth-protected-resource", "")],
            "routes[0].path",
            "discovery.root = false",
        ),
        (
            &[("/.well-known/oauth-authorization-server/auth", "")],
            "routes[0].path",
            "discovery.root = false",
        ),
    ];
    for (written, key, part) in cases {
        let problems = RouteTable::compile(&routes(written)).map(|_| ()).expect_err(key);
        let found = problems.iter().any(|p| p.key == *key && p.message.contains(part));
        assert!(found, "{written:?}: expected {key} with {part:?}, got {problems:?}");
    }
}

#[test]
fn all_problems_come_at_once() {
    let config = config(
        "[[routes]]\npath = \"/a/{user_id}\"\nupstream = \"nope\"\naccess = \"public\"\n\
         limit = [\"nope\"]\n[[routes]]\npath = \"/b\"\n[[routes]]\npath = \"b\"",
    );
    let problems = RouteTable::compile(&config).unwrap_err();
    let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
    for key in [
        "routes[0].upstream",
        "routes[0].access",
        "routes[0].limit[0]",
        "routes[1].upstream",
        "routes[2].path",
    ] {
        assert!(keys.contains(&key), "{key}: {keys:?}");
    }
    let mut config = routes(&[]);
    for prefix in ["", "/", "auth", "/auth/", "/{x}", "/a/{*r}", "/a//b"] {
        prefix.clone_into(&mut config.server.auth_prefix);
        let problems = RouteTable::compile(&config).unwrap_err();
        assert_eq!(problems[0].key, "server.auth_prefix", "{prefix:?}");
    }
}

#[test]
fn these_tables_are_fine() {
    for written in [
        &[("/{*rest}", ""), ("/{x}", ""), ("/{x:int}", ""), ("/a", ""), ("/a/", "")][..],
        &[("/a", "methods = [\"GET\"]"), ("/a", "methods = [\"POST\"]")],
        &[("/{x}", "methods = [\"GET\"]"), ("/{y}", "methods = [\"POST\"]")],
        &[("/a/b", ""), ("/{x}/c", "")],
        &[("/{x:int}/a", ""), ("/{y:uuid}/{z}", "")],
        &[("/a/{user_id}", "access = \"deny\"")],
        &[(
            "/a/{user_id}",
            "access = \"public\"\nowner = \"none\"\nreason = \"profiles are open\"",
        )],
        &[("/a/{account}/{*rest}", "owner = \"account\"\nowner_override_roles = [\"admin\"]")],
        &[("/authors/{*rest}", ""), ("/x/{x}/login", "")],
        &[("/.well-known/{*rest}", ""), ("/.well-known/oauth-authorization-server", "")],
    ] {
        table(written);
    }
    let deny = config("[[routes]]\npath = \"/internal/{*rest}\"\naccess = \"deny\"");
    assert!(RouteTable::compile(&deny).is_ok());
}

#[test]
fn settings_are_resolved() {
    let config = config(
        r#"
        [[routes]]
        path = "/v1/shop/{user_id:uuid}/{*rest}"
        upstream = "web"
        methods = ["GET"]
        roles = ["clerk"]
        owner_override_roles = ["admin"]
        issuers = ["corp"]
        limit = ["search"]
        timeouts = { idle = "1s" }
        max_body_bytes = "1KiB"
        strip_prefix = "/v1/shop"
        forward_token = true
        mode = "shadow"
        "#,
    );
    let table = RouteTable::compile(&config).unwrap();
    let route = &table.routes()[0];
    let upstream = route.upstream.as_ref().unwrap();
    assert_eq!((upstream.index, upstream.name.as_ref()), (1, "web"));
    assert_eq!(upstream.response_timeout, Duration::from_secs(5));
    assert_eq!(upstream.idle_timeout, Duration::from_secs(1));
    assert_eq!(route.owner, Some(Owner { name: "user_id".into(), segment: 2 }));
    let corp = IssuerIndex::named("corp", &config.issuers).unwrap();
    assert!(route.issuers.contains(corp) && !route.issuers.contains(IssuerIndex::OURS));
    assert_eq!(route.max_body_bytes, 1024);
    let limit = config.limits.0.keys().nth(route.limits[0]).unwrap();
    assert_eq!(limit, "search");
    assert_eq!(
        route.describe().to_string(),
        "GET, HEAD /v1/shop/{user_id:uuid}/{*rest} -> web \
         (authenticated; user_id = subject, or role admin, role clerk, shadow)"
    );
    for (path, forwarded) in [
        ("/v1/shop/u/x", "/u/x"),
        ("/v1/sh%6fp/u%20/", "/u%20/"),
        ("/v1/shop/", "/"),
        ("/v1/shop", "/"),
    ] {
        assert_eq!(route.forwarded_path(path.as_bytes()), forwarded.as_bytes());
    }
}

#[test]
fn the_path_chooses_the_pattern_and_then_the_method_the_route() {
    let table = table(&[
        ("/{*rest}", ""),
        ("/a", "methods = [\"GET\"]"),
        ("/a", "methods = [\"POST\", \"DELETE\"]\naccess = \"public\""),
    ]);
    assert_eq!(
        table.find(CanonicalPath::parse("/a").unwrap(), &Method::HEAD).unwrap().route().id,
        1
    );
    assert_eq!(
        table.find(CanonicalPath::parse("/a").unwrap(), &Method::POST).unwrap().route().id,
        2
    );
    assert_eq!(
        find(&table, &Method::PUT, "/a"),
        Err(NoMatch::MethodNotAllowed { allow: "GET, HEAD, POST, DELETE".to_owned() })
    );
    assert_eq!(find(&table, &Method::PUT, "/b"), Ok("/{*rest}".to_owned()));
}

#[test]
fn variables_are_the_texts_of_their_segments() {
    let table = table(&[("/a/{x}/b/{user_id}/{*rest}", "")]);
    let path = CanonicalPath::parse("/a/one/b/u%31/and/more").unwrap();
    let found = table.find(path, &Method::GET).unwrap();
    assert_eq!(found.variables().collect::<Vec<_>>(), [("x", "one"), ("user_id", "u%31")]);
    assert_eq!(found.owner(), Some("u%31"));
}

#[test]
fn a_path_with_a_second_reading_reaches_no_route() {
    use PathError::{Ambiguous, EncodedSlash, ParametersInVariable};
    let slashes = "allow_encoded_slash = true";
    let table = table(&[
        ("/{*rest}", "access = \"public\"\nallow_encoded_slash = true"),
        ("/admin/{*rest}", "roles = [\"admin\"]"),
        ("/api/{user_id}/{*rest}", slashes),
        ("/api/{user_id}/keys/{*rest}", "roles = [\"owner\"]"),
        ("/projects/{id}/issues", slashes),
        ("/plain/{id}", ""),
        ("/n/{id:int}/{*rest}", slashes),
    ]);
    let cases: &[(&str, Result<&str, PathError>)] = &[
        ("/admin;x/panel", Err(Ambiguous)),
        ("/admin;/panel", Err(Ambiguous)),
        ("/admin%2Fpanel", Err(Ambiguous)),
        ("/admin%2fpanel", Err(Ambiguous)),
        ("/admin;x%2Fpanel", Err(Ambiguous)),
        ("/%61dmin%2Fpanel", Err(Ambiguous)),
        ("/%61dmin;x/panel", Err(Ambiguous)),
        ("/auth;x/user", Err(Ambiguous)),
        ("/auth%2Fuser", Err(Ambiguous)),
        ("/api%2Fu1%2Ftasks", Err(Ambiguous)),
        ("/admin/a%2Fb", Err(EncodedSlash)),
        ("/plain/a%2Fb", Err(EncodedSlash)),
        ("/api/u1/keys;v=1/x", Err(Ambiguous)),
        ("/api/u1/keys%2Fx", Err(Ambiguous)),
        ("/api/u1;v=1/tasks", Err(ParametersInVariable)),
        ("/plain/a;b", Err(ParametersInVariable)),
        ("/n/1/a;v=1/b%2Fc", Ok("/n/{id:int}/{*rest}")),
        ("/n%2Fx", Err(Ambiguous)),
        ("/free;v=1/x", Ok("/{*rest}")),
        ("/free%2Fx", Ok("/{*rest}")),
        ("/api/u1/files;v=1/x%2Fy", Ok("/api/{user_id}/{*rest}")),
        ("/projects/group%2Fname/issues", Ok("/projects/{id}/issues")),
        ("/admin/a;b/c", Ok("/admin/{*rest}")),
    ];
    for (path, expected) in cases {
        let expected = expected.map(str::to_owned).map_err(NoMatch::BadPath);
        assert_eq!(find(&table, &Method::GET, path), expected, "{path}");
    }
}

#[test]
fn our_own_prefix_is_known_in_every_spelling() {
    let table = table(&[("/{*rest}", "")]);
    let own = |path: &str| table.is_own(&CanonicalPath::parse(path).unwrap());
    for path in ["/auth", "/auth/", "/auth/login", "/auth/v1/token", "/%61uth/login", "/aut%68"] {
        assert!(own(path), "{path}");
    }
    for path in ["/", "/authors", "/aut", "/x/auth", "/Auth", "/auth%2Flogin"] {
        assert!(!own(path), "{path}");
    }
}

#[test]
fn our_own_documents_are_known_in_every_spelling() {
    let with = |root: bool| {
        let mut config = routes(&[("/{*rest}", "")]);
        config.discovery.root = root;
        RouteTable::compile(&config).unwrap()
    };
    let (ours, theirs) = (with(true), with(false));
    for (path, own) in [
        ("/.well-known/oauth-protected-resource", true),
        ("/.well-known/oauth-protected-resource/auth", true),
        ("/.well-known/oauth-authorization-server/auth", true),
        ("/%2ewell-known/oauth-protected-resource", true),
        ("/.well%2Dknown/oauth-protected-resource", true),
        ("/.well-known/oauth-protected%2dresource", true),
        ("/.well-known/oauth-protected-resource/", false),
        ("/.well-known/oauth-protected-resource/auth/", false),
        ("/.well-known/oauth-protected-resource/other", false),
        ("/.well-known/oauth-authorization-server", false),
        ("/.well-known", false),
        ("/.well-known/", false),
        ("/x/.well-known/oauth-protected-resource", false),
        ("/.WELL-KNOWN/oauth-protected-resource", false),
    ] {
        let parsed = CanonicalPath::parse(path).unwrap();
        assert_eq!(ours.is_own(&parsed), own, "{path}");
        assert!(!theirs.is_own(&parsed), "{path}");
    }
}

#[test]
fn unknown_paths_match_nothing() {
    let table = table(&[("/api/{user_id}/{*rest}", ""), ("/n/{id:int}", "")]);
    for path in ["/", "/api", "/api/", "/apis/u1", "/API/u1", "/n", "/n/", "/n/1/"] {
        assert_eq!(find(&table, &Method::GET, path), Err(NoMatch::NoRoute), "{path}");
    }
    assert_eq!(
        find(&table, &Method::GET, "/n/01"),
        Err(NoMatch::BadPath(PathError::VariableSpelling))
    );
    assert_eq!(
        find(&table, &Method::GET, "/nowhere/a%2Fb"),
        Err(NoMatch::BadPath(PathError::EncodedSlash))
    );
}

#[test]
fn ten_thousand_routes_compile_and_each_is_found() {
    let mut config = routes(&[("/{*rest}", ""), ("/tenants/{tenant}/status", "")]);
    let model = config.routes[0].clone();
    for n in 0..10_000 {
        let mut route = model.clone();
        route.path = match n % 3 {
            0 => format!("/service{n}/{{user_id}}/{{*rest}}"),
            1 => format!("/service/{{id:int}}/part{n}"),
            _ => format!("/service/deep/{}/{n}", n % 100),
        };
        config.routes.push(route);
    }
    let table = RouteTable::compile(&config).unwrap_or_else(|problems| panic!("{:?}", problems[0]));
    for (id, route) in config.routes.iter().enumerate().skip(2) {
        let path = route
            .path
            .replace("{user_id}", "u1")
            .replace("{*rest}", "a/b")
            .replace("{id:int}", "42");
        let found = table.find(CanonicalPath::parse(&path).unwrap(), &Method::GET).unwrap();
        assert_eq!(found.route().id, id, "{path}");
    }
    assert_eq!(
        find(&table, &Method::GET, "/tenants/acme/status"),
        Ok("/tenants/{tenant}/status".to_owned())
    );
    assert_eq!(find(&table, &Method::GET, "/service7/u1"), Ok("/{*rest}".to_owned()));
}
