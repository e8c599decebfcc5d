//! Documents by which clients find the endpoints: the metadata of an authorization server (RFC 8414,
//! of which `OpenID` Connect Discovery is the older twin) and of a protected resource (RFC 9728). They
//! are worded once for a configuration, and name nothing that does not answer.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::config::{Config, IssuerAddress, RESOURCE_METADATA};

/// The documents of one configuration.
#[derive(Clone, Debug)]
pub(super) struct Discovery {
    /// Metadata of the authorization server.
    pub(super) server: Bytes,
    /// Metadata of what is below the issuer's own address.
    pub(super) endpoints: Bytes,
    /// Metadata of the whole host: what the routes protect.
    host: Bytes,
    address: IssuerAddress,
}

impl Discovery {
    /// The documents, when `tokens.issuer` is an address at which clients could look for them.
    pub(super) fn compile(config: &Config) -> Option<Self> {
        let address = IssuerAddress::of(config)?;
        let resource = |path: &str| {
            text(&json!({
                // RFC 9728 §3.3: the very address that a client made the document's from.
                "resource": format!("{}{path}", address.origin),
                "authorization_servers": [config.tokens.issuer],
                "bearer_methods_supported": ["header"],
            }))
        };
        let (host, endpoints) = (resource(""), resource(&address.path));
        Some(Self { server: text(&server(config)), endpoints, host, address })
    }

    /// The document at a whole path, outside the prefix of the account endpoints.
    pub(super) fn at_root(&self, path: &str) -> Option<&Bytes> {
        if path == self.address.server_metadata() {
            Some(&self.server)
        } else if path == RESOURCE_METADATA {
            Some(&self.host)
        } else if path == self.address.resource_metadata() {
            Some(&self.endpoints)
        } else {
            None
        }
    }
}

fn server(config: &Config) -> Value {
    let issuer = &config.tokens.issuer;
    let base = issuer.trim_end_matches('/');
    let mut document = json!({
        // RFC 8414 §3.3: byte for byte what is in `iss`.
        "issuer": issuer,
        "jwks_uri": format!("{base}/.well-known/jwks.json"),
        "revocation_endpoint": format!("{base}/oauth/revoke"),
        // Whoever has a token may give it up.
        "revocation_endpoint_auth_methods_supported": ["none"],
        "service_documentation": format!("{base}/openapi.yaml"),
        // There is no page to log in at: clients do that through the account endpoints. Left out,
        // these would mean the authorization code (RFC 8414 §2).
        "response_types_supported": [],
        "grant_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [config.tokens.algorithm.name()],
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "jti", "session_id", "email", "email_verified",
            "role", "app_metadata", "user_metadata", "aal", "mfa_pending", "amr",
            "is_anonymous",
        ],
    });
    if config.api_keys.enabled {
        // Who shows an API key is a client.
        let by_key = json!(["client_secret_basic", "client_secret_post"]);
        document["token_endpoint"] = format!("{base}/oauth/token").into();
        document["grant_types_supported"] = json!(["client_credentials"]);
        document["token_endpoint_auth_methods_supported"] = by_key.clone();
        document["introspection_endpoint"] = format!("{base}/oauth/introspect").into();
        document["introspection_endpoint_auth_methods_supported"] = by_key;
    }
    document
}

fn text(document: &Value) -> Bytes {
    document.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(issuer: &str) -> Option<Discovery> {
        let mut config = Config::default();
        config.tokens.issuer = issuer.to_owned();
        Discovery::compile(&config)
    }

    fn read(document: &Bytes) -> Value {
        serde_json::from_slice(document).unwrap()
    }

    #[test]
    fn every_address_begins_with_the_issuers() {
        let server = read(&compiled("https://api.example.com/auth/").unwrap().server);
        assert_eq!(server["issuer"], "https://api.example.com/auth/");
        for (name, value) in server.as_object().unwrap() {
            if let Some(address) = value.as_str().filter(|_| name != "issuer") {
                let rest = address.strip_prefix("https://api.example.com/auth/");
                assert!(rest.is_some_and(|rest| !rest.starts_with('/')), "{name}: {address}");
            }
        }
    }

    #[test]
    fn each_resource_is_the_address_that_its_document_was_found_by() {
        let of_path = compiled("https://api.example.com/auth").unwrap();
        for (path, resource) in [
            ("/.well-known/oauth-protected-resource", "https://api.example.com"),
            ("/.well-known/oauth-protected-resource/auth", "https://api.example.com/auth"),
        ] {
            let document = read(of_path.at_root(path).unwrap());
            assert_eq!(document["resource"], resource, "{path}");
            assert_eq!(document["authorization_servers"][0], "https://api.example.com/auth");
        }
        let found = of_path.at_root("/.well-known/oauth-authorization-server/auth").unwrap();
        assert_eq!(read(found)["issuer"], "https://api.example.com/auth");
        for other in ["/.well-known/oauth-authorization-server", "/.well-known/x", "/", ""] {
            assert!(of_path.at_root(other).is_none(), "{other}");
        }
        let of_host = compiled("https://id.example.com").unwrap();
        let found = of_host.at_root("/.well-known/oauth-protected-resource").unwrap();
        assert_eq!(read(found)["resource"], "https://id.example.com");
    }

    #[test]
    fn a_name_that_is_no_address_has_no_documents() {
        for issuer in ["portcullis", "urn:example", "https://a.example/x?y"] {
            assert!(compiled(issuer).is_none(), "{issuer}");
        }
    }
}
