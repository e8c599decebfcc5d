//! Bad files, and where the mistakes are said to be.

use super::*;

#[test]
fn each_mistake_is_named_with_its_line_and_column() {
    for (text, expected) in [
        // Syntax.
        ("[server]\nworkers = abc", "2:11: TOML syntax: string values must be quoted"),
        ("[server\nworkers = 1", "1:8: TOML syntax: unclosed table"),
        ("[log]\nlevel = \"info", "2:14: TOML syntax: invalid basic string"),
        ("[server]\nworkers = 1\nworkers = 2", "3:1: TOML syntax: duplicate key"),
        ("[log]\n[server]\n[log]", "3:2: TOML syntax: duplicate key"),
        ("[tokens]\nissuer = \"ä\"  ö", "2:15: TOML syntax: "),
        // Unknown keys.
        ("[server]\nlistn = []", "2:1: server.listn: unknown key, did you mean \"listen\"?"),
        ("\n  [serverr]\n", "2:4: serverr: unknown key, did you mean \"server\"?"),
        ("[[route]]\npath = \"/\"", "1:3: route: unknown key, did you mean \"routes\"?"),
        ("[signup]\ncolour = 1", "2:1: signup.colour: unknown key; the keys here are enabled"),
        (
            "passwords.argon2 = { memori = \"1MiB\" }",
            "1:22: passwords.argon2.memori: unknown key, did you mean \"memory\"?",
        ),
        (
            "[[routes]]\npath = \"/\"\n[[routes]]\npath = \"/b\"\nownr = \"id\"",
            "5:1: routes[1].ownr: unknown key, did you mean \"owner\"?",
        ),
        (
            "[[routes]]\npath = \"/\"\ntimeouts = { respons = \"1s\" }",
            "3:14: routes[0].timeouts.respons: unknown key, did you mean \"response\"?",
        ),
        ("[limits.login]\nrat = \"1/s\"", "2:1: limits.login.rat: unknown key, did you mean"),
        (
            "[upstreams.app]\nservers = [\"http://a:1\"]\ntimeout = \"1s\"",
            "3:1: upstreams.app.timeout: unknown key; the keys here are servers, ",
        ),
        // Missing keys.
        ("[upstreams.app]", "1:12: upstreams.app.servers: is missing"),
        ("upstreams = { app = {} }", "1:15: upstreams.app.servers: is missing"),
        ("[[routes]]\nupstream = \"a\"", "1:1: routes[0].path: is missing"),
        ("[server.tls]\ncertificate = \"a\"", "1:9: server.tls.private_key: is missing"),
        ("[limits]\na = { rate = \"1/hour\" }", "2:1: limits.a.by: is missing"),
        ("[[tests]]\nrequest = \"GET /\"", "1:1: tests[0].expect: is missing"),
        ("tokens = { algorithm = \"HS256\" }", "1:1: tokens.secret: is missing"),
        // Wrong types.
        ("server = 1", "1:1: server: expected a table, found a number"),
        ("[server]\nlisten = \"a:1\"", "2:1: server.listen: expected a list, found a string"),
        (
            "[server]\nlisten = [\n  \"127.0.0.1:1\",\n  8080,\n]",
            "4:3: server.listen[1]: expected an address such as \"127.0.0.1:8080\", found a number",
        ),
        (
            "[server]\nworkers = \"4\"",
            "2:1: server.workers: expected a whole number, found a string",
        ),
        (
            "[server]\nworkers = 1.5",
            "2:1: server.workers: expected a whole number, found a number with a fraction",
        ),
        (
            "[server]\nheader_timeout = 10",
            "2:1: server.header_timeout: expected a duration such as \"10s\", found a number",
        ),
        (
            "[server]\nmax_body_bytes = 10",
            "2:1: server.max_body_bytes: expected a size such as \"64KiB\", found a number",
        ),
        (
            "[signup]\nenabled = \"no\"",
            "2:1: signup.enabled: expected true or false, found a string",
        ),
        ("[limits]\nlogin = \"5/minute\"", "2:1: limits.login: expected a table, found a string"),
        ("[routes]\npath = \"/\"", "1:2: routes: expected a list, found a table; write [[routes]]"),
        (
            "[server.tls]\ncertificate = true\nprivate_key = \"k\"",
            "2:1: server.tls.certificate: expected the path of a file in quotes, found true or",
        ),
        ("[log]\nformat = 1", "2:1: log.format: expected a word in quotes, found a number"),
        ("[log]\nlevel = 2020-01-01", "2:1: log.level: no key takes a date or time"),
        // Bad values.
        (
            "[server]\nlisten = [\"localhost:1\"]",
            "2:11: server.listen[0]: `localhost:1` is not an address with a port",
        ),
        (
            "[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"10.0.0.1\"]",
            "2:34: server.trusted_proxies[1]: `10.0.0.1` is not a network",
        ),
        ("[server]\nworkers = -1", "2:1: server.workers: -1 is out of range"),
        (
            "[server]\nworkers = 99999999999999999999",
            "2:1: server.workers: the number is too large",
        ),
        (
            "[passwords]\nargon2.iterations = 4294967296",
            "2:8: passwords.argon2.iterations: 4294967296 is out of range; expected a whole number \
             from 0 to 4294967295",
        ),
        ("[server]\nidle_timeout = \"1.5h\"", "2:1: server.idle_timeout: `1.5h` is not a duration"),
        (
            "[server]\nmax_header_bytes = \"1KB\"",
            "2:1: server.max_header_bytes: `1KB` is not a size",
        ),
        (
            "[limits]\na = { rate = \"5000/minute\", by = \"ip\" }",
            "2:7: limits.a.rate: `5000/minute` counts more than 1000",
        ),
        (
            "[tokens]\nalgorithm = \"es256\"",
            "2:1: tokens.algorithm: `es256` is unknown; expected one of ES256, EdDSA, HS256, \
             RS256; did you mean \"ES256\"?",
        ),
        (
            "[passwords]\nrequire = [\"digit\", \"emoji\"]",
            "2:21: passwords.require[1]: `emoji` is unknown; expected one of digit, lowercase,",
        ),
        (
            "[[tests]]\nrequest = \"GET /\"\nexpect = 200",
            "3:1: tests[0].expect: expected \"allow\" or one of 400, 401, 403, 404, 405",
        ),
        // Values that contradict their meaning.
        ("[server]\nlisten = []", "2:1: server.listen: needs at least one address"),
        (
            "[server]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
            "2:26: server.listen[1]: 127.0.0.1:1 is there twice",
        ),
        ("[admin]\nlisten = \"127.0.0.1:8080\"", "2:1: admin.listen: is also in server.listen"),
        ("[server]\nauth_prefix = \"auth\"", "2:1: server.auth_prefix: must begin with `/`"),
        ("[server]\nauth_prefix = \"/\"", "2:1: server.auth_prefix: must not be all of `/`"),
        ("[server]\nauth_prefix = \"/a/\"", "2:1: server.auth_prefix: must not end with `/`"),
        (
            "[server]\nauth_prefix = \"/a/../b\"",
            "2:1: server.auth_prefix: must not have empty, `.`",
        ),
        ("[server]\nauth_prefix = \"//a\"", "2:1: server.auth_prefix: must not have empty, `.`"),
        ("[server]\nauth_prefix = \"/{a}\"", "2:1: server.auth_prefix: must not have variables"),
        ("[server]\nauth_prefix = \"/%61\"", "2:1: server.auth_prefix: must be made of A-Z, a-z"),
        ("[server]\nworkers = 5000", "2:1: server.workers: must be at most 1024"),
        ("[server]\nmax_connections = 0", "2:1: server.max_connections: must be at least 1"),
        (
            "[server]\nlisten = [\"unix:\"]",
            "2:11: server.listen[0]: `unix:` needs the name of a file",
        ),
        (
            "[server]\nlisten = [\"unix:/a\", \"unix:/a\"]",
            "2:22: server.listen[1]: unix:/a is there twice",
        ),
        (
            "[server]\nmax_connections_per_address = 0",
            "2:1: server.max_connections_per_address: must be at least 1",
        ),
        (
            "[server]\nhandshake_timeout = \"0s\"",
            "2:1: server.handshake_timeout: must be longer than 0s",
        ),
        (
            "[server.tls]\ncertificate = \"c\"\nprivate_key = \"k\"\nclient_certificates = \"require\"",
            "1:9: server.tls.client_ca: is missing: client_certificates needs the authorities",
        ),
        (
            "[server.tls]\ncertificate = \"c\"\nprivate_key = \"k\"\nclient_ca = \"ca\"",
            "4:1: server.tls.client_ca: is of no use while client_certificates is off",
        ),
        (
            "[server.tls]\ncertificate = \"c\"\nprivate_key = \"k\"\nmin_version = \"1.1\"",
            "4:1: server.tls.min_version: `1.1` is unknown; expected one of 1.2, 1.3",
        ),
        ("[server]\nheader_timeout = \"0s\"", "2:1: server.header_timeout: must be longer than 0s"),
        ("[server]\nmax_header_bytes = \"512\"", "2:1: server.max_header_bytes: must be from 1KiB"),
        (
            "[storage]\nurl = \"mysql://h/d\"",
            "2:1: storage.url: must be sqlite:FILE or postgres://",
        ),
        ("[storage]\nurl = \"sqlite:\"", "2:1: storage.url: must be sqlite:FILE or postgres://"),
        ("[counters]\nurl = \"memcached://h\"", "2:1: counters.url: must be memory: or begin with"),
        ("[tokens]\naudience = \" \"", "2:1: tokens.audience: must not be empty"),
        (
            "[tokens]\naccess_lifetime = \"500ms\"",
            "2:1: tokens.access_lifetime: must be at least 1s",
        ),
        (
            "[tokens]\nrefresh_idle = \"31d\"",
            "2:1: tokens.refresh_idle: must not be longer than tokens.refresh_lifetime",
        ),
        (
            "[tokens]\nsecret = \"0123456789abcdefghijklmnopqrstuv\"",
            "2:1: tokens.secret: only HS256 has a secret; ES256 keeps its keys in the database",
        ),
        (
            "[tokens]\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdefghijklmnopqrstu\"",
            "3:1: tokens.secret: must have at least 32 bytes",
        ),
        (
            "[tokens]\nalgorithm = \"HS256\"\nsecret = \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"",
            "3:1: tokens.secret: repeats too few characters",
        ),
        (
            "[tokens]\nalgorithm = \"HS256\"\nsecret = \
             \"super-secret-jwt-token-with-at-least-32-characters-long\"",
            "3:1: tokens.secret: is an example that everybody knows",
        ),
        ("[passwords]\nmin_length = 0", "2:1: passwords.min_length: must be from 1 to 256"),
        (
            "[passwords]\nargon2 = { memory = \"15KiB\", parallelism = 2 }",
            "2:12: passwords.argon2.memory: must be at least 8KiB for each lane",
        ),
        (
            "[passwords]\nargon2 = { memory = \"257MiB\" }",
            "2:12: passwords.argon2.memory: must be at most 256MiB",
        ),
        (
            "[passwords]\nargon2 = { iterations = 0 }",
            "2:12: passwords.argon2.iterations: must be at least 1",
        ),
        ("[signup]\nconfirm_email = true", "2:1: signup.confirm_email: needs letters"),
        (
            "[links]\nsite_url = \"app.example.com\"",
            "2:1: links.site_url: must be an address such as",
        ),
        (
            "[links]\nsite_url = \"http://app.example.com\"",
            "2:1: links.site_url: must begin with https://: tokens are sent there",
        ),
        (
            "[links]\nsite_url = \"https://u@app.example.com\"",
            "2:1: links.site_url: must not have a user or password",
        ),
        (
            "[links]\nsite_url = \"https://app.example.com/?a\"",
            "2:1: links.site_url: must not have a query or fragment",
        ),
        (
            "[mail]\ntransport = \"log\"",
            "2:1: mail.transport: `log` is unknown; expected one of none, smtp, webhook",
        ),
        (
            "[mail]\ntransport = \"smtp\"\nfrom = \"a@b.example\"",
            "1:2: mail.url: is missing: transport \"smtp\" needs the mail server",
        ),
        (
            "[mail]\ntransport = \"smtp\"\nurl = \"smtps://h\"",
            "1:2: mail.from: is missing: letters need a sender",
        ),
        (
            "[mail]\ntransport = \"webhook\"",
            "1:2: mail.webhook: is missing: transport \"webhook\" needs its url and secret",
        ),
        (
            "[tokens]\nkey_notice = \"5m\"",
            "2:1: tokens.key_notice: must be at least 10m: others keep the JWKS that long",
        ),
        (
            "[tokens]\nrotate_every = \"15m\"",
            "2:1: tokens.rotate_every: must be 0s, for never, or at least twice tokens.key_notice",
        ),
        (
            "[tokens]\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
             rotate_every = \"90d\"",
            "4:1: tokens.rotate_every: HS256 has a secret, and no keys to replace",
        ),
        (
            "[secrets]\nkey = \"short\"",
            "2:1: secrets.key: is not 32 bytes in Base64; make a key with `portcullis secrets generate`",
        ),
        ("[secrets]\nrequire = true", "2:1: secrets.require: needs secrets.key"),
        (
            "[secrets]\nprevious = [\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]",
            "2:1: secrets.previous: needs secrets.key",
        ),
        (
            "[secrets]\nkey = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\nprevious = [\"x\"]",
            "3:13: secrets.previous[0]: is not 32 bytes in Base64",
        ),
        (
            "[secrets]\nkey = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n\
             previous = [\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]",
            "3:13: secrets.previous[0]: is there twice",
        ),
        ("[events]\nretention = \"23h\"", "2:1: events.retention: must be at least 1d"),
        ("[factors]\nmax = 0", "2:1: factors.max: must be from 1 to 100"),
        (
            "[factors]\nchallenge_lifetime = \"5s\"",
            "2:1: factors.challenge_lifetime: must be from 30s to 1h",
        ),
        ("[factors]\nissuer = \"\"", "2:1: factors.issuer: must be 1 to 64 characters"),
        ("[mail]\nconcurrency = 65", "2:1: mail.concurrency: must be from 1 to 64"),
        (
            "[mail]\nnotify = [\"login\"]",
            "2:11: mail.notify[0]: `login` is unknown; expected one of already_registered, \
             email_changed, password_changed",
        ),
        (
            "[cookies]\nsame_site = \"none\"",
            "2:1: cookies.same_site: `none` is unknown; expected one of lax, strict",
        ),
        ("[mail]\nmax_waiting = 0", "2:1: mail.max_waiting: must be at least 1"),
        ("[mail]\ntimeout = \"0s\"", "2:1: mail.timeout: must be longer than 0s"),
        (
            "[tokens]\nissuer = \"us\"\n[mail]\ntransport = \"webhook\"\n\
             webhook = { url = \"https://h\", secret = \"s\" }",
            "2:1: tokens.issuer: must be an address such as \"https://app.example.com\"; links in \
             letters begin with it",
        ),
        (
            "[tokens]\nissuer = \"https://a.example/login\"\n[mail]\ntransport = \"webhook\"\n\
             webhook = { url = \"https://h\", secret = \"s\" }",
            "2:1: tokens.issuer: must end in `/auth`, as server.auth_prefix does",
        ),
        (
            "[tokens]\nissuer = \"http://a.example/auth\"\n[mail]\ntransport = \"webhook\"\n\
             webhook = { url = \"https://h\", secret = \"s\" }",
            "2:1: tokens.issuer: must begin with https://: tokens are sent there",
        ),
        (
            "[limits.Big]\nrate = \"1/hour\"\nby = \"ip\"",
            "1:9: limits.Big: a limit's name is made of a-z, 0-9, `_` and `-`",
        ),
        (
            "[identity_headers]\nemail = \"X User\"",
            "2:1: identity_headers.email: `X User` is not a header name",
        ),
        (
            "[identity_headers]\nemail = \"x_user.ID\"",
            "2:1: identity_headers.email: `x_user.ID` is the name of user_id too",
        ),
        (
            "[identity_headers]\nroles = \"X_Forwarded_For\"",
            "2:1: identity_headers.roles: `X_Forwarded_For` has a meaning of its own",
        ),
        (
            "[identity_headers]\nroles = \"Host\"",
            "2:1: identity_headers.roles: `Host` has a meaning of its own",
        ),
        (
            "[cors]\nallowed_origins = [\"https://a.example/\"]",
            "2:20: cors.allowed_origins[0]: `https://a.example/` is not an origin",
        ),
        (
            "[cors]\nallowed_origins = [\"https://a.example:443\", \"null\"]",
            "2:20: cors.allowed_origins[0]: `https://a.example:443` is not an origin\n\
             2:45: cors.allowed_origins[1]: `null` is not an origin",
        ),
        (
            "[cors]\nallowed_origins = [\"*\"]\nallow_credentials = true",
            "2:20: cors.allowed_origins[0]: `*` and allow_credentials together",
        ),
        (
            "[cors]\nallowed_methods = [\"G T\"]",
            "2:20: cors.allowed_methods[0]: `G T` is not a method",
        ),
        ("[upstreams.app]\nservers = []", "2:1: upstreams.app.servers: needs at least one server"),
        (
            "[upstreams.app]\nservers = [\"https://a:1\"]\nprotocol = \"h2c\"",
            "2:12: upstreams.app.servers[0]: protocol \"h2c\" is HTTP/2 without TLS",
        ),
        (
            "[upstreams.app]\nservers = [\"http://a:1/\"]",
            "2:12: upstreams.app.servers[0]: must not have a path",
        ),
        (
            "[upstreams.app]\nservers = [\"http://u:p@a:1\"]",
            "2:12: upstreams.app.servers[0]: must not have a user or password",
        ),
        (
            "[upstreams.app]\nservers = [\"http://a\"]",
            "2:12: upstreams.app.servers[0]: needs a port",
        ),
        (
            "[upstreams.app]\nservers = [\"127.0.0.1:80\"]",
            "2:12: upstreams.app.servers[0]: must be http://HOST:PORT",
        ),
        (
            "[upstreams.app]\nservers = [\"http://:80\"]",
            "2:12: upstreams.app.servers[0]: must be http://HOST:PORT",
        ),
        (
            "[upstreams.app]\nservers = [\"unix:run/app.sock\"]",
            "2:12: upstreams.app.servers[0]: a Unix socket needs an absolute path",
        ),
        (
            "[upstreams.app]\nservers = [\"http://a:1\"]\nprotocol = \"h2\"",
            "2:12: upstreams.app.servers[0]: protocol \"h2\" is HTTP/2 over TLS",
        ),
        (
            "[upstreams.app]\nservers = [\"http://a:1\", \"http://a:1\"]",
            "2:26: upstreams.app.servers[1]: is there twice",
        ),
        (
            "[upstreams.app]\nservers = [{ url = \"http://a:1\", weight = 0 }]",
            "2:12: upstreams.app.servers[0]: the weight must be from 1 to 1000",
        ),
        (
            "[upstreams.app]\nservers = [{ url = \"http://a:1\", wait = 1 }]",
            "2:34: upstreams.app.servers[0].wait: unknown key",
        ),
        (
            "[upstreams.app]\nservers = [\"http://a:1\"]\nretry_budget = 1.5",
            "3:1: upstreams.app.retry_budget: must be from 0 to 1",
        ),
        (
            "[upstreams.app]\nservers = [\"http://a:1\"]\nresolve_interval = \"0s\"",
            "3:1: upstreams.app.resolve_interval: must be at least 1s",
        ),
        (
            "[upstreams.app]\nservers = [\"http://a:1\"]\nejection = { max = \"1ms\" }",
            "3:14: upstreams.app.ejection.max: must not be shorter",
        ),
        (
            "[upstreams.app]\nservers = [\"http://a:1\"]\nhealth = { path = \"healthz\" }",
            "3:12: upstreams.app.health.path: must be a path",
        ),
        (
            "[upstreams.app]\nservers = [\"http://a:1\"]\nhealth = { path = \"/\", status = [99] }",
            "3:24: upstreams.app.health.status: must be a list of statuses",
        ),
        (
            "[upstreams.app]\nservers = [\"https://a:1\"]\ntls = { certificate = \"a.pem\" }",
            "3:1: upstreams.app.tls.private_key: is missing",
        ),
        (
            "[[routes]]\npath = \"/\"\nroles = [\"admin\", \"Big Boss\"]",
            "3:19: routes[0].roles[1]: `Big Boss` is not a role",
        ),
        (
            "[[routes]]\npath = \"/\"\ntimeouts = { idle = \"0s\" }",
            "3:14: routes[0].timeouts.idle: must be longer than 0s",
        ),
    ] {
        let expected: Vec<String> = expected.lines().map(|line| format!("p.toml:{line}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        assert_refused(text, &[], &expected);
    }
}

#[test]
fn issuers_are_told_apart_by_name_and_by_iss() {
    let issuer = |name: &str, iss: &str, algorithms: &str| {
        format!(
            "[[issuers]]\nname = \"{name}\"\nissuer = \"{iss}\"\naudience = \"a\"\n\
             algorithms = {algorithms}\nkey_file = \"k.pem\"\n"
        )
    };
    accepted(
        &(issuer("a", "https://a", "[\"RS256\"]") + &issuer("b", "https://b", "[\"HS256\"]")),
        &[],
    );
    for (name, iss, algorithms, expected) in [
        ("self", "https://b", "[\"RS256\"]", "8:1: issuers[1].name: `self` is this gateway"),
        ("a", "https://b", "[\"RS256\"]", "8:1: issuers[1].name: `a` is there twice"),
        ("", "https://b", "[\"RS256\"]", "8:1: issuers[1].name: must not be empty"),
        ("b", "https://a", "[\"RS256\"]", "9:1: issuers[1].issuer: is there twice"),
        (
            "b",
            "http://127.0.0.1:8080/auth",
            "[\"RS256\"]",
            "9:1: issuers[1].issuer: is tokens.issuer",
        ),
        ("b", "https://b", "[]", "11:1: issuers[1].algorithms: must be exactly one"),
        (
            "b",
            "https://b",
            "[\"RS256\", \"HS256\"]",
            "11:1: issuers[1].algorithms: must be exactly one",
        ),
    ] {
        let text = issuer("a", "https://a", "[\"RS256\"]") + &issuer(name, iss, algorithms);
        assert_refused(&text, &[], &[&format!("p.toml:{expected}")]);
    }
}

#[test]
fn issuers_whose_keys_are_fetched_leave_nothing_open() {
    let issuer = |changes: &str| {
        let keys = ["name = \"a\"", "jwks_url = \"https://a/k\"", "algorithms = [\"RS256\"]"];
        let key = |line: &str| line.split(" = ").next().unwrap_or_default().to_owned();
        let kept: Vec<&str> = (keys.into_iter())
            .filter(|line| !changes.lines().any(|change| key(change) == key(line)))
            .collect();
        format!(
            "[[issuers]]\nissuer = \"https://a\"\naudience = \"a\"\n{}\n{changes}\n",
            kept.join("\n")
        )
    };
    for good in [
        "",
        "algorithms = [\"RS256\", \"ES256\", \"EdDSA\"]",
        "jwks_url = \"http://127.0.0.1:8080/k\"",
        "typ = \"at+jwt\"",
        "typ = \"optional\"\nrequire = { token_use = \"access\" }",
        "claims = { roles = [\"realm_access\", \"roles\"] }\nrole_map = { A = \"a\" }",
        "name = \"Corp_1.eu-x\"",
    ] {
        accepted(&issuer(good), &[]);
    }
    for (bad, expected) in [
        ("name = \"a b\"", "issuers[0].name: must be of"),
        ("name = \"ä\"", "issuers[0].name: must be of"),
        ("jwks_url = \"http://a/k\"", "issuers[0].jwks_url: must begin with https://"),
        ("jwks_url = \"https://u:p@a/k\"", "issuers[0].jwks_url: "),
        ("key_file = \"k.pem\"", "issuers[0].key_file: excludes jwks_url"),
        ("kid = \"k\"", "issuers[0].kid: is for key_file"),
        ("algorithms = []", "issuers[0].algorithms: must name"),
        ("algorithms = [\"HS256\"]", "issuers[0].algorithms: must not have HS256"),
        ("algorithms = [\"RS256\", \"HS256\"]", "issuers[0].algorithms: must not have HS256"),
        ("algorithms = [\"RS256\", \"RS256\"]", "issuers[0].algorithms: names one twice"),
        ("typ = \"optional\"", "issuers[0].typ: needs `require`"),
        ("refresh = \"10ms\"", "issuers[0].refresh: must be at least 1s"),
        ("cooldown = \"0s\"", "issuers[0].cooldown: must be at least 1s"),
        ("max_lifetime = \"0s\"", "issuers[0].max_lifetime: "),
        ("audience_claim = \"\"", "issuers[0].audience_claim: "),
        ("require = { a = \"\" }", "issuers[0].require: "),
        ("claims = { roles = [] }", "issuers[0].claims.roles: "),
        ("role_map = { A = \"B\" }", "issuers[0].role_map: `A`: `B` is not a role"),
    ] {
        let report = parse_with(&issuer(bad), &[]).map(|_| ()).unwrap_err().to_string();
        assert!(report.contains(expected), "{bad}: {report}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text = r#"
[storage]
url = "mysql://user:hunter2@db"
max_connections = -1

[tokens]
secret = 12
algorithm = "HS265"
refresh_idle = 2020-01-01
leway = "1s"

[[routes]]
path = 1
timeouts = { idle = 5, foo = 1 }

[[routes]]
roles = ["A"]

[[issuers]]
key_file = "k.pem"

[cors]
allowed_origins = [1, "https://x/", 2]

[upstreams.app]
servers = ["http://a:1/", "ftp://b:1"]
"#;
    assert_refused(
        text,
        &[
            ("PORTCULLIS_SERVER__LISTN", "1"),
            ("PORTCULLIS_ADMIN__LISTEN", "everywhere"),
            ("PORTCULLIS_SIGNUP__ENABLED", "perhaps"),
        ],
        &[
            "p.toml:3:1: storage.url: must be",
            "p.toml:4:1: storage.max_connections: -1 is out of range",
            "p.toml:7:1: tokens.secret: expected a string, found a number",
            "p.toml:8:1: tokens.algorithm: `HS265` is unknown",
            "p.toml:9:1: tokens.refresh_idle: no key takes a date",
            "p.toml:10:1: tokens.leway: unknown key, did you mean \"leeway\"?",
            "p.toml:13:1: routes[0].path: expected a string",
            "p.toml:14:14: routes[0].timeouts.idle: expected a duration",
            "p.toml:14:24: routes[0].timeouts.foo: unknown key",
            "p.toml:16:1: routes[1].path: is missing",
            "p.toml:17:10: routes[1].roles[0]: `A` is not a role",
            "p.toml:19:1: issuers[0].name: is missing",
            "p.toml:19:1: issuers[0].issuer: is missing",
            "p.toml:19:1: issuers[0].audience: is missing",
            "p.toml:19:1: issuers[0].algorithms: is missing",
            "p.toml:23:20: cors.allowed_origins[0]: expected a string",
            "p.toml:23:23: cors.allowed_origins[1]: `https://x/` is not an origin",
            "p.toml:23:37: cors.allowed_origins[2]: expected a string",
            "p.toml:26:12: upstreams.app.servers[0]: must not have a path",
            "p.toml:26:27: upstreams.app.servers[1]: must be http://HOST:PORT",
            "PORTCULLIS_ADMIN__LISTEN: admin.listen: `everywhere` is not an address",
            "PORTCULLIS_SERVER__LISTN: server.listn: unknown key, did you mean \"listen\"?",
            "PORTCULLIS_SIGNUP__ENABLED: signup.enabled: expected true or false, found a string",
        ],
    );
    // Also when every line is wrong.
    let keys: Vec<String> = (0..90).map(|n| format!("x{n} = 1\n")).collect();
    let text = format!("[server]\n{}", keys.concat());
    let error = parse_with(&text, &[]).expect_err("all unknown");
    assert_eq!(error.problems().len(), 90);
    // Also when it is no TOML.
    assert_refused(
        "[server]\nworkers = \nx y\n[log\nlevel = \"a\"",
        &[],
        &["p.toml:2:11: TOML syntax", "p.toml:3:3: TOML syntax", "p.toml:4:5: TOML syntax"],
    );
}

#[test]
fn every_key_has_a_stand_in_so_that_reading_goes_on_after_it() {
    for path in every_key() {
        // A date is never right; the mistake at the end must still be found.
        let path: Vec<&str> =
            path.iter().map(|step| if step == "*" { "x" } else { step.as_str() }).collect();
        let mut inner = "1979-05-27".to_owned();
        for (depth, &step) in path.iter().enumerate().skip(1).rev() {
            inner = match shape::at(&path[..depth]) {
                Some(Shape::List) => format!("[{inner}]"),
                _ => format!("{{ {step} = {inner} }}"),
            };
        }
        let text = format!("{} = {inner}\n[admim]\n", path[0]);
        let error = parse_with(&text, &[]).expect_err("a date").to_string();
        assert!(error.contains("admim: unknown key"), "{text}{error}");
        assert!(error.contains("no key takes a date"), "{text}{error}");
    }
}

#[test]
fn no_report_repeats_a_secret() {
    for text in [
        "[storage]\nurl = \"hunter2\"",
        "[storage]\nurl = [\"hunter2\"]",
        "[storage]\nurl = { a = \"hunter2\" }",
        "[storage]\nurl = hunter2",
        "[storage]\nurl = \"hunter2",
        "[storage]\nurl = \"\\hunter2\"",
        "[storage]\nurl = \"a\" hunter2",
        "[storage]\nurl = \"sqlite:a\"\nurl = \"hunter2\"",
        "[counters]\nurl = \"hunter2\"",
        "[tokens]\nsecret = \"hunter2\"",
        "[tokens]\nalgorithm = \"HS256\"\nsecret = \"hunter2\"",
        "[tokens]\nalgorithm = \"HS256\"\nsecret = 7031427",
        "[tokens]\nalgorithm = \"HS256\"\nsecret = 7031-42-7",
        "tokens = \"hunter2\"",
        "storage = [\"hunter2\"]",
        "[upstreams.app]\nservers = [\"http://user:hunter2@app:1\"]",
        "[upstreams.app]\nservers = [\"user:hunter2@app:1\"]",
        "[server]\nworkers = \"hunter2\"",
    ] {
        let error = parse_with(text, &[]).map(|_| ()).expect_err(text);
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("hunter2") && !shown.contains("7031"), "{text}\n{shown}");
        }
    }
    let good = "[tokens]\nalgorithm = \"HS256\"\nsecret = \"hunter2-hunter2-hunter2-hunter2-\"\n\
                [storage]\nurl = \"postgres://user:hunter2@db/x\"";
    assert!(!format!("{:?}", accepted(good, &[])).contains("hunter2"));
}
