//! `[discovery]`: documents by which clients find the endpoints.

use serde::Deserialize;
use url::Url;

use super::Config;

/// `[discovery]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discovery {
    /// Answer the documents of RFC 8414 and RFC 9728 at the root of the host too, where those
    /// standards look for them. Default true.
    pub root: bool,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { root: true }
    }
}

/// Where the metadata of an authorization server is (RFC 8414 §3).
pub const SERVER_METADATA: &str = "/.well-known/oauth-authorization-server";
/// Where the metadata of a protected resource is (RFC 9728 §3).
pub const RESOURCE_METADATA: &str = "/.well-known/oauth-protected-resource";

/// The address of our own issuer, when it is one that clients can find documents by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerAddress {
    /// Scheme, host and port, without a slash at the end.
    pub origin: String,
    /// The path, without a slash at the end; empty for the root.
    pub path: String,
}

impl IssuerAddress {
    /// RFC 8414 §2: a URL without query or fragment. What is no URL is a name only, under which
    /// nobody can find anything.
    pub fn of(config: &Config) -> Option<Self> {
        let url = Url::parse(&config.tokens.issuer).ok()?;
        let is_web = matches!(url.scheme(), "https" | "http") && url.has_host();
        if !is_web || url.query().is_some() || url.fragment().is_some() {
            return None;
        }
        let path = url.path().trim_end_matches('/').to_owned();
        Some(Self { origin: url.origin().ascii_serialization(), path })
    }

    /// Where the metadata of this issuer is below the root of its host: the well-known part comes
    /// before the issuer's own path (RFC 8414 §3.1).
    pub fn server_metadata(&self) -> String {
        format!("{SERVER_METADATA}{}", self.path)
    }

    /// The same of the account endpoints as a protected resource (RFC 9728 §3.1).
    pub fn resource_metadata(&self) -> String {
        format!("{RESOURCE_METADATA}{}", self.path)
    }
}

impl Config {
    /// The paths outside `server.auth_prefix` that the gateway answers itself.
    pub fn root_documents(&self) -> Vec<String> {
        let issuer = IssuerAddress::of(self).filter(|_| self.discovery.root);
        let Some(issuer) = issuer else { return Vec::new() };
        let mut paths = vec![
            issuer.server_metadata(),
            issuer.resource_metadata(),
            RESOURCE_METADATA.to_owned(),
        ];
        paths.dedup();
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_issuer(issuer: &str) -> Config {
        let mut config = Config::default();
        config.tokens.issuer = issuer.to_owned();
        config
    }

    #[test]
    fn the_well_known_part_comes_before_the_issuers_path() {
        for (issuer, paths) in [
            (
                "https://api.example.com/auth",
                &[
                    "/.well-known/oauth-authorization-server/auth",
                    "/.well-known/oauth-protected-resource/auth",
                    "/.well-known/oauth-protected-resource",
                ] as &[_],
            ),
            (
                "https://id.example.com:8443/a/b/",
                &[
                    "/.well-known/oauth-authorization-server/a/b",
                    "/.well-known/oauth-protected-resource/a/b",
                    "/.well-known/oauth-protected-resource",
                ],
            ),
            (
                "https://id.example.com",
                &[
                    "/.well-known/oauth-authorization-server",
                    "/.well-known/oauth-protected-resource",
                ],
            ),
            ("portcullis", &[]),
            ("urn:example:id", &[]),
            ("https://id.example.com/auth?x=1", &[]),
            ("https://id.example.com/auth#x", &[]),
        ] {
            assert_eq!(with_issuer(issuer).root_documents(), paths, "{issuer}");
        }
        let mut config = with_issuer("https://api.example.com/auth");
        config.discovery.root = false;
        assert!(config.root_documents().is_empty());
    }
}
