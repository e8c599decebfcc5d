//! What a reload takes and what only a restart does: the list in `restart.rs`, the marks of the
//! schema and those of the example are one, and the list does what it says.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::config::restart;

const EXAMPLE: &str = include_str!("../../../config/portcullis.example.toml");
const MARK: &str = "*(restart)*";

/// Another value than the default for each key, beside those that must change with it.
const OTHERS: &[(&str, &str)] = &[
    ("server.listen", "[server]\nlisten = [\"127.0.0.1:1\"]"),
    ("server.workers", "[server]\nworkers = 3"),
    ("server.auth_prefix", "[server]\nauth_prefix = \"/a\""),
    ("server.max_connections", "[server]\nmax_connections = 7"),
    ("server.max_connections_per_address", "[server]\nmax_connections_per_address = 9"),
    ("server.proxy_protocol", "[server]\nproxy_protocol = [\"10.0.0.0/8\"]"),
    ("server.handshake_timeout", "[server]\nhandshake_timeout = \"1s\""),
    ("server.header_timeout", "[server]\nheader_timeout = \"1s\""),
    ("server.idle_timeout", "[server]\nidle_timeout = \"1s\""),
    ("server.max_header_bytes", "[server]\nmax_header_bytes = \"64KiB\""),
    ("server.drain_delay", "[server]\ndrain_delay = \"1s\""),
    ("server.drain_timeout", "[server]\ndrain_timeout = \"1s\""),
    ("server.http2", "[server]\nhttp2 = false"),
    ("server.h2c", "[server]\nh2c = true"),
    ("server.tls", "[server.tls]\ncertificate = \"c\"\nprivate_key = \"k\""),
    ("admin.listen", "[admin]\nlisten = \"127.0.0.1:1\""),
    ("storage.url", "[storage]\nurl = \"sqlite:other.db\""),
    ("storage.max_connections", "[storage]\nmax_connections = 3"),
    ("storage.migrate", "[storage]\nmigrate = false"),
    ("secrets.key", "[secrets]\nkey = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\""),
    (
        "secrets.key secrets.previous",
        "[secrets]\nkey = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n\
         previous = [\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE\"]",
    ),
    (
        "secrets.key secrets.require",
        "[secrets]\nkey = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\nrequire = true",
    ),
    ("counters.url", "[counters]\nurl = \"redis://h\""),
    ("counters.key_prefix", "[counters]\nkey_prefix = \"p\""),
    ("counters.on_outage", "[counters]\non_outage = \"deny\""),
    ("tokens.issuer", "[tokens]\nissuer = \"i\""),
    ("tokens.audience", "[tokens]\naudience = \"a\""),
    ("tokens.algorithm", "[tokens]\nalgorithm = \"RS256\""),
    ("tokens.rotate_every", "[tokens]\nrotate_every = \"90d\""),
    ("tokens.key_notice", "[tokens]\nkey_notice = \"1h\""),
    (
        "tokens.algorithm tokens.secret",
        "[tokens]\nalgorithm = \"HS256\"\nsecret = \"abcdefghijklmnopqrstuvwxyz012345\"",
    ),
    ("tokens.access_lifetime", "[tokens]\naccess_lifetime = \"1h\""),
    ("tokens.refresh_lifetime", "[tokens]\nrefresh_lifetime = \"8d\""),
    ("tokens.refresh_idle", "[tokens]\nrefresh_idle = \"1d\""),
    ("tokens.leeway", "[tokens]\nleeway = \"1s\""),
    ("tokens.max_staleness", "[tokens]\nmax_staleness = \"1m\""),
    ("passwords.min_length", "[passwords]\nmin_length = 9"),
    ("passwords.require", "[passwords]\nrequire = []"),
    ("passwords.refuse_common", "[passwords]\nrefuse_common = false"),
    ("passwords.leaked", "[passwords]\nleaked = \"leaked.txt\""),
    ("passwords.words", "[passwords]\nwords = [\"portcullis\"]"),
    ("passwords.devise_pepper", "[passwords]\ndevise_pepper = \"pepper\""),
    ("passwords.argon2", "[passwords]\nargon2 = { iterations = 3 }"),
    ("passwords.max_concurrent_hashes", "[passwords]\nmax_concurrent_hashes = 1"),
    ("passwords.max_queued_hashes", "[passwords]\nmax_queued_hashes = 1"),
    ("links.site_url", "[links]\nsite_url = \"https://a.example\""),
    ("links.redirects", "[links]\nredirects = [\"https://a.example/*\"]"),
    ("links.lifetime", "[links]\nlifetime = \"2h\""),
    ("links.invite_lifetime", "[links]\ninvite_lifetime = \"2h\""),
    ("links.code_lifetime", "[links]\ncode_lifetime = \"2h\""),
    ("links.resend_interval", "[links]\nresend_interval = \"2h\""),
    ("links.confirm_page", "[links]\nconfirm_page = false"),
    ("links.email_change", "[links]\nemail_change = \"new\""),
    (
        "mail.transport mail.url mail.from",
        "[mail]\ntransport = \"smtp\"\nurl = \"smtps://h\"\nfrom = \"a@b.example\"",
    ),
    ("mail.reply_to", "[mail]\nreply_to = \"a@b.example\""),
    ("mail.templates", "[mail]\ntemplates = \"t\""),
    ("mail.timeout", "[mail]\ntimeout = \"3s\""),
    ("mail.max_age", "[mail]\nmax_age = \"3h\""),
    ("mail.concurrency", "[mail]\nconcurrency = 3"),
    ("mail.notify", "[mail]\nnotify = [\"email_changed\"]"),
    ("mail.max_waiting", "[mail]\nmax_waiting = 3"),
    ("mail.ca", "[mail]\nca = \"c\""),
    ("mail.webhook", "[mail.webhook]\nurl = \"https://h\"\nsecret = \"s\""),
    ("log.access", "[log]\naccess = false"),
    ("log.format", "[log]\nformat = \"json\""),
    ("log.level", "[log]\nlevel = \"debug\""),
];

fn listed() -> BTreeSet<String> {
    restart::names().map(str::to_owned).collect()
}

/// The source of the whole schema, so that no file of it can be forgotten here.
fn schema() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/schema");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

#[test]
fn each_key_of_the_list_is_noticed_by_itself_and_stays_as_it_was() {
    let running = Config::default();
    let mut tried = BTreeSet::new();
    for (names, text) in OTHERS {
        let mut config = accepted(text, &[]).config;
        let changed = restart::keep(&mut config, &running);
        assert_eq!(changed.join(" "), *names, "{text}");
        tried.extend(names.split(' ').map(str::to_owned));
        assert_eq!(format!("{config:?}"), format!("{running:?}"), "{text}");
        assert_eq!(restart::keep(&mut config, &running), [""; 0], "{text}");
    }
    assert_eq!(tried, listed());
}

#[test]
fn the_default_spelled_out_is_no_change() {
    let mut config = accepted(EXAMPLE, &[]).config;
    assert_eq!(restart::keep(&mut config, &Config::default()), [""; 0]);
}

#[test]
fn the_schema_marks_exactly_the_keys_of_the_list() {
    let mut marked = BTreeSet::new();
    let (mut docs, mut table, mut whole_table) = (String::new(), String::new(), false);
    for line in schema().lines() {
        let code = line.trim_start();
        if let Some(doc) = code.strip_prefix("///") {
            docs.push_str(doc);
            continue;
        }
        if line.starts_with("pub struct ") {
            let name = docs.split('`').nth(1).unwrap_or_default();
            table = name.trim_matches(['[', ']']).to_owned();
            whole_table = docs.contains(MARK);
        } else if let Some(field) = line.strip_prefix("    pub ") {
            let is_marked = docs.contains(MARK);
            // What is deeper belongs to the key around it.
            if table.contains('.') {
                assert!(!is_marked && !whole_table, "a mark within {table}");
            } else if is_marked || whole_table {
                let name = field.split(':').next().unwrap_or_default();
                marked.insert(format!("{table}.{name}"));
            }
        }
        if !code.starts_with("#[") {
            docs.clear();
        }
    }
    assert_eq!(marked, listed());
}

#[test]
fn the_example_marks_every_key_as_the_list_does() {
    /// What comments say; none, when they say nothing.
    fn mark(comments: &str) -> Option<bool> {
        match (comments.contains("(restart)"), comments.contains("(reload)")) {
            (false, false) => None,
            (restart, reload) => {
                assert!(restart != reload, "two marks: {comments}");
                Some(restart)
            }
        }
    }
    let mut tables: BTreeMap<String, Option<bool>> = BTreeMap::new();
    let (mut comments, mut table, mut keys) = (String::new(), String::new(), 0);
    // The head explains the marks.
    for line in EXAMPLE.lines().skip_while(|line| !line.is_empty()) {
        if line.is_empty() || line.starts_with("# ") {
            if line.is_empty() {
                comments.clear();
            }
            comments.push_str(line);
            continue;
        }
        let setting = line.trim_start_matches('#');
        let parent = |name: &str| name.rsplit_once('.').map(|(parent, _)| parent.to_owned());
        if setting.starts_with('[') {
            table = setting.trim_matches(['[', ']']).to_owned();
            let own = mark(&comments);
            let inherited =
                parent(&table).and_then(|parent| tables.get(&parent).copied().flatten());
            // `[[tests]]` and the like may stand there twice.
            let known = tables.get(&table).copied().flatten();
            tables.insert(table.clone(), own.or(inherited).or(known));
        } else if let Some((name, _)) = setting.split_once(" = ") {
            let key = format!("{table}.{name}");
            let found = mark(&comments).or_else(|| tables[&table]);
            let found = found.unwrap_or_else(|| panic!("{key} has no mark"));
            let is_listed = listed().iter().any(|name| sources::is_at_or_under(&key, name));
            assert_eq!(found, is_listed, "the mark of {key}");
            keys += 1;
        }
        comments.clear();
    }
    assert!(keys > 90, "{keys}");
}
