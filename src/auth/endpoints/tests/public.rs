//! What anybody may ask for, the OpenAPI document first.

use std::collections::BTreeSet;

use super::*;
use crate::auth::openapi;

#[tokio::test]
async fn public_documents_may_be_cached_and_head_follows_get() {
    let world = World::new().await;
    for (path, content_type, cache) in [
        ("/.well-known/jwks.json", "application/json", "public, max-age=600"),
        ("/openapi.yaml", "application/yaml", "public, max-age=600"),
        ("/health", "application/json", "no-store"),
        ("/settings", "application/json", "no-store"),
    ] {
        let answer = world.send(request("GET", path)).await.unwrap();
        assert_eq!(answer.headers[CONTENT_TYPE], content_type);
        assert_eq!(answer.headers[CACHE_CONTROL], cache);
        let head = world.send(request("HEAD", path)).await.unwrap();
        assert_eq!((head.headers, head.body), (answer.headers, answer.body));
    }
    let jwks = body(&world.send(request("GET", "/.well-known/jwks.json")).await.unwrap());
    assert_eq!(jwks["keys"][0]["alg"], "ES256");
    assert!(jwks["keys"][0].get("d").is_none());
}

/// The document's endpoints and codes are the code's, both ways.
#[test]
fn the_openapi_document_lists_every_endpoint_and_code() {
    let mut path = "";
    let mut documented = BTreeSet::new();
    for line in openapi::DOCUMENT.lines().skip_while(|line| *line != "paths:") {
        let name = line.trim_start().strip_suffix(':').unwrap_or_default();
        match line.len() - line.trim_start().len() {
            0 if line == "components:" => break,
            2 => path = name,
            4 if !name.is_empty() => {
                documented.insert((name.to_uppercase(), path));
            }
            _ => {}
        }
    }
    let endpoints: BTreeSet<_> =
        endpoints().map(|(method, path)| (method.to_owned(), path)).collect();
    assert_eq!(documented, endpoints);

    // Requests may be refused before they get to an endpoint.
    let known: BTreeSet<_> = AuthError::CODES.iter().copied().chain(["bad_request"]).collect();
    let listed: BTreeSet<_> = openapi::DOCUMENT
        .lines()
        .skip_while(|line| line.trim() != "code:")
        .skip_while(|line| line.trim() != "enum:")
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("- "))
        .collect();
    // These belong to no endpoint.
    let answered: BTreeSet<_> = openapi::DOCUMENT
        .lines()
        .filter_map(|line| line.trim().strip_prefix("x-codes: [")?.strip_suffix(']'))
        .flat_map(|codes| codes.split(", "))
        .chain(["bad_request", "no_route"])
        .collect();
    assert_eq!(listed, known);
    assert_eq!(answered, known);
}
