//! `storage.url` to what it names. Understands what the PostgreSQL driver does not (`verify-ca`,
//! `verify-full`, `sslrootcert`) and never quotes the URL back: it may hold a password.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::error::StoreError;

/// Which database.
pub(super) enum Target {
    /// `sqlite:FILE`
    Sqlite(PathBuf),
    /// `postgres://…`
    Postgres(Box<PostgresTarget>),
}

/// A PostgreSQL server and how to talk to it.
pub(super) struct PostgresTarget {
    pub(super) config: tokio_postgres::Config,
    pub(super) tls: TlsMode,
    /// PEM file with the authorities to trust; `None` = the system's.
    pub(super) root_cert: Option<PathBuf>,
}

/// `sslmode`.
///
/// `require` checks the certificate and the name, as `verify-full` does: libpq's `require` accepts
/// any certificate, which keeps out only those who merely listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    /// Plain text.
    Disable,
    /// TLS when the server offers it, with any certificate: no help against an active attacker.
    /// Plain text when the server offers none; unlike with libpq, not when the handshake fails.
    Prefer,
    /// TLS with a certificate of a trusted authority for any name.
    VerifyCa,
    /// TLS with a certificate of a trusted authority for the host's name.
    VerifyFull,
}

impl Target {
    /// Reads a `storage.url`.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        if let Some(file) = url.strip_prefix("sqlite:") {
            return sqlite_file(file).map(Self::Sqlite);
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return postgres(url).map(|target| Self::Postgres(Box::new(target)));
        }
        Err(refused("must begin with `sqlite:` or `postgres://`"))
    }
}

fn refused(why: impl Into<String>) -> StoreError {
    StoreError::Url(why.into())
}

fn sqlite_file(text: &str) -> Result<PathBuf, StoreError> {
    let file = text.strip_prefix("//").unwrap_or(text);
    if file.is_empty() {
        return Err(refused("names no file; write for example `sqlite:portcullis.db`"));
    }
    if file.starts_with(':') {
        return Err(refused("must name a file: a database in memory has only one connection"));
    }
    if file.contains(['?', '#', '\0']) {
        return Err(refused("takes no parameters after the file name"));
    }
    Ok(file.into())
}

fn postgres(url: &str) -> Result<PostgresTarget, StoreError> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut sslmode = None;
    let mut root_cert = None;
    let mut rest = Vec::new();
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            "sslmode" => sslmode = Some(tls_mode(value)?),
            "sslrootcert" => root_cert = Some(decoded(value)?),
            _ => rest.push(parameter),
        }
    }
    let mut config: tokio_postgres::Config =
        if rest.is_empty() { base.parse() } else { format!("{base}?{}", rest.join("&")).parse() }
            .map_err(|error: tokio_postgres::Error| refused(chain(&error)))?;

    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(refused(
            "names no host; for a Unix socket write `postgres://user@/db?host=/run/postgresql`",
        ));
    }
    let tls = match sslmode {
        // As with libpq, a Unix socket is never encrypted.
        _ if config.get_hosts().iter().all(is_unix) && config.get_hostaddrs().is_empty() => {
            TlsMode::Disable
        }
        Some(mode) => mode,
        None if config.get_hosts().iter().all(is_local) => TlsMode::Prefer,
        None => TlsMode::VerifyFull,
    };
    // A wish for a private authority is not met by a mode that asks nobody.
    if root_cert.is_some() && matches!(tls, TlsMode::Disable | TlsMode::Prefer) {
        return Err(refused(
            "has sslrootcert, which needs sslmode=verify-full, require or verify-ca",
        ));
    }
    complete(&mut config, tls);
    Ok(PostgresTarget {
        config,
        tls,
        root_cert: root_cert.filter(|file| file != "system").map(PathBuf::from),
    })
}

fn tls_mode(value: &str) -> Result<TlsMode, StoreError> {
    match value {
        "disable" => Ok(TlsMode::Disable),
        "prefer" => Ok(TlsMode::Prefer),
        "verify-ca" => Ok(TlsMode::VerifyCa),
        "require" | "verify-full" => Ok(TlsMode::VerifyFull),
        _ => Err(refused(
            "has an unknown sslmode; known are disable, prefer, require, verify-ca, verify-full",
        )),
    }
}

fn decoded(value: &str) -> Result<String, StoreError> {
    percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| refused("has an sslrootcert that is not UTF-8"))
}

fn is_unix(host: &Host) -> bool {
    matches!(host, Host::Unix(_))
}

/// Whether packets to the host stay on this machine.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name.eq_ignore_ascii_case("localhost")
                || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
    }
}

/// What every connection needs so that a dead server is noticed within a call's two seconds.
fn complete(config: &mut tokio_postgres::Config, tls: TlsMode) {
    config.ssl_mode(match tls {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
    });
    if config.get_application_name().is_none() {
        config.application_name("portcullis");
    }
    // After a failover the old primary may come back read-only.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let connect = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    config.connect_timeout(connect.min(CONNECT_TIMEOUT));
    config.tcp_user_timeout(Duration::from_secs(2));
    config.keepalives(true);
    config.keepalives_idle(Duration::from_secs(10));
    config.keepalives_interval(Duration::from_secs(2));
    config.keepalives_retries(3);
    // The statement ends before the caller gives up, so that the error is the server's and the
    // connection stays usable. A gateway that stops in mid-transaction must not keep its locks.
    let ours = "-c statement_timeout=1500 -c idle_in_transaction_session_timeout=5000";
    let mut options = config.get_options().unwrap_or_default().to_owned();
    if !options.is_empty() {
        options.push(' ');
    }
    options.push_str(ours);
    config.options(options);
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Hosts and database, for people.
pub(super) fn describe(config: &tokio_postgres::Config) -> String {
    let mut text = String::from("PostgreSQL");
    let ports = config.get_ports();
    for (i, host) in config.get_hosts().iter().enumerate() {
        let port = ports.get(i).or_else(|| ports.first()).unwrap_or(&5432);
        let lead = if i == 0 { " at" } else { "," };
        let _ = match host {
            Host::Tcp(name) => write!(text, "{lead} {name}:{port}"),
            Host::Unix(folder) => write!(text, "{lead} {}", folder.display()),
        };
    }
    if let Some(database) = config.get_dbname().or_else(|| config.get_user()) {
        let _ = write!(text, ", database {database}");
    }
    text
}

/// An error with its causes; the driver leaves them out of its own text.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = format!("is not understood: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres_of(url: &str) -> PostgresTarget {
        match Target::parse(url) {
            Ok(Target::Postgres(target)) => *target,
            Ok(Target::Sqlite(_)) => panic!("{url} is SQLite"),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    #[test]
    fn sqlite_urls_name_a_file() {
        for (url, file) in [
            ("sqlite:portcullis.db", "portcullis.db"),
            ("sqlite:/var/lib/p.db", "/var/lib/p.db"),
            ("sqlite:///var/lib/p.db", "/var/lib/p.db"),
            ("sqlite://p.db", "p.db"),
            ("sqlite:a%20b.db", "a%20b.db"),
        ] {
            assert!(
                matches!(Target::parse(url), Ok(Target::Sqlite(f)) if f.as_os_str() == file),
                "{url}"
            );
        }
    }

    #[test]
    fn tls_mode_follows_the_url_and_else_the_host() {
        for (url, tls) in [
            ("postgres://u@/db?host=/run/postgresql", TlsMode::Disable),
            ("postgres://u@/db?host=/run/postgresql&sslmode=require", TlsMode::Disable),
            ("postgres://u@localhost/db", TlsMode::Prefer),
            ("postgres://u@127.0.0.1,[::1]:5433/db", TlsMode::Prefer),
            ("postgres://u@db.example.com/db", TlsMode::VerifyFull),
            ("postgres://u@localhost,db.example.com/db", TlsMode::VerifyFull),
            ("postgres://u@db.example.com/db?sslmode=disable", TlsMode::Disable),
            ("postgres://u@db.example.com/db?sslmode=prefer", TlsMode::Prefer),
            ("postgresql://u@db.example.com/db?sslmode=require", TlsMode::VerifyFull),
            ("postgresql://u@localhost/db?sslmode=verify-ca", TlsMode::VerifyCa),
        ] {
            assert_eq!(postgres_of(url).tls, tls, "{url}");
        }
    }

    #[test]
    fn other_parameters_reach_the_driver() {
        let target = postgres_of(
            "postgres://u:p%40ss@db:5433/shop?sslmode=verify-full&application_name=x\
             &sslrootcert=%2Fetc%2Fca.pem&options=-c%20search_path%3Dauth&connect_timeout=1",
        );
        assert_eq!(target.root_cert, Some("/etc/ca.pem".into()));
        assert_eq!(target.config.get_application_name(), Some("x"));
        assert_eq!(target.config.get_password(), Some(&b"p@ss"[..]));
        let options = target.config.get_options().unwrap();
        assert!(options.starts_with("-c search_path=auth -c statement_timeout="), "{options}");
        assert_eq!(describe(&target.config), "PostgreSQL at db:5433, database shop");
    }

    #[test]
    fn refused_urls_say_why_and_quote_nothing() {
        for url in [
            "",
            "mysql://u:hunter2@db/x",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:p.db?mode=ro",
            "postgres://u:hunter2@/db",
            "postgres://u:hunter2@db/x?sslmode=allow",
            "postgres://u:hunter2@db/x?colour=red",
            "postgres://u:hunter2@db:port/x",
            "postgres://u:hunter2@db/x?sslmode=disable&sslrootcert=ca.pem",
        ] {
            match Target::parse(url) {
                Err(StoreError::Url(why)) => assert!(!why.contains("hunter2"), "{why}"),
                _ => panic!("{url} was taken"),
            }
        }
    }
}
