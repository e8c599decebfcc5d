//! Other issuers.

use std::time::Duration;

use super::Found;
use crate::config::{Algorithm, ClaimPath, Issuer, TokenType};
use crate::model::is_role_name;
use crate::outgoing::Endpoint;

pub(super) fn issuers(issuers: &[Issuer], own: &str, found: &mut Found) {
    for (index, issuer) in issuers.iter().enumerate() {
        let at = |key: &str| format!("issuers[{index}].{key}");
        found.not_empty(at("name"), &issuer.name);
        found.not_empty(at("issuer"), &issuer.issuer);
        found.not_empty(at("audience"), &issuer.audience);
        if issuer.name == "self" {
            found.add(at("name"), "`self` is this gateway; choose another name");
        } else if issuers[..index].iter().any(|other| other.name == issuer.name) {
            found.add(at("name"), format!("`{}` is there twice", issuer.name));
        }
        if issuer.issuer == own {
            found.add(
                at("issuer"),
                "is tokens.issuer, this gateway's own; tokens could not be told apart",
            );
        } else if issuers[..index].iter().any(|other| other.issuer == issuer.issuer) {
            found.add(at("issuer"), "is there twice; tokens could not be told apart");
        }
        if !is_name(&issuer.name) {
            found.add(at("name"), "must be of up to 64 characters A-Z a-z 0-9 _ . -");
        }
        if issuer.jwks_url.is_some() {
            issuer_of_jwks(issuer, at, found);
        } else {
            issuer_of_key_file(issuer, at, found);
        }
        issuer_claims(issuer, at, found);
    }
}

/// It is told to upstreams in a header, and stands in metrics.
fn is_name(name: &str) -> bool {
    name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn issuer_of_key_file(issuer: &Issuer, at: impl Fn(&str) -> String, found: &mut Found) {
    if issuer.key_file.is_none() {
        found.add(at("key_file"), "is missing: name a file with the key, or set jwks_url");
    }
    // One key with two algorithms is how a public key becomes an HMAC secret (RFC 8725 §2.1).
    if issuer.algorithms.len() != 1 {
        found.add(at("algorithms"), "must be exactly one, as there is one key");
    }
    if issuer.ca.is_some() {
        found.add(at("ca"), "is for jwks_url; a file is not fetched");
    }
}

fn issuer_of_jwks(issuer: &Issuer, at: impl Fn(&str) -> String, found: &mut Found) {
    if let Some(Err(error)) = issuer.jwks_url.as_deref().map(Endpoint::parse) {
        found.add(at("jwks_url"), error.to_string());
    }
    if issuer.key_file.is_some() {
        found.add(at("key_file"), "excludes jwks_url: the keys come from one of them");
    }
    if issuer.kid.is_some() {
        found.add(at("kid"), "is for key_file; a JWK set names its keys itself");
    }
    let algorithms = &issuer.algorithms;
    if algorithms.is_empty() {
        found.add(at("algorithms"), "must name what the keys are for, as in [\"RS256\"]");
    } else if algorithms.contains(&Algorithm::Hs256) {
        // A published secret lets everybody sign, and a public key as one does too.
        found.add(at("algorithms"), "must not have HS256: a JWK set is for public keys");
    } else if (1..algorithms.len()).any(|n| algorithms[..n].contains(&algorithms[n])) {
        found.add(at("algorithms"), "names one twice");
    }
    for (key, interval) in [("refresh", issuer.refresh), ("cooldown", issuer.cooldown)] {
        if interval.0 < Duration::from_secs(1) {
            found.add(at(key), "must be at least 1s: others' servers are asked that often");
        }
    }
}

fn issuer_claims(issuer: &Issuer, at: impl Fn(&str) -> String, found: &mut Found) {
    let names = &issuer.claims;
    found.not_empty(at("audience_claim"), &issuer.audience_claim);
    found.not_empty(at("claims.subject"), &names.subject);
    found.not_empty(at("claims.email"), &names.email);
    found.not_empty(at("claims.email_verified"), &names.email_verified);
    let roles = names.roles.as_ref().map_or(&[][..], ClaimPath::names);
    if names.roles.is_some() && (roles.is_empty() || roles.iter().any(String::is_empty)) {
        found.add(at("claims.roles"), "must be a name, or a list of names");
    }
    // Without either, anything that the issuer signs for this audience would pass, id tokens too
    // (RFC 8725 §3.12).
    if issuer.typ == TokenType::Optional && issuer.require.is_empty() {
        found.add(
            at("typ"),
            "needs `require`, such as { token_use = \"access\" }: access tokens must be told from \
             others",
        );
    }
    if issuer.require.iter().any(|(name, text)| name.is_empty() || text.is_empty()) {
        found.add(at("require"), "must be names of claims with their texts");
    }
    for (theirs, ours) in &issuer.role_map {
        if !is_role_name(ours) {
            found.add(at("role_map"), format!("`{theirs}`: `{ours}` is not a role"));
        }
    }
    found.not_zero(at("max_lifetime"), issuer.max_lifetime);
}
