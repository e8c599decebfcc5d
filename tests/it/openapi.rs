//! The contract as OpenAPI: served as it lies beside the code, and true of what is served. (That it
//! lists every endpoint and code is checked beside the code.)

use portcullis::auth::endpoints::endpoints;
use portcullis::auth::openapi;

use crate::harness::{TestGateway, Upstream};

#[tokio::test]
async fn the_document_is_served_and_names_every_endpoint() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    for target in ["/auth/openapi.yaml", "/auth/v1/openapi.yaml"] {
        let answer = gateway.get(target).send().await.expect(200);
        assert_eq!(answer.header("content-type"), Some("application/yaml"));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=600"));
        let text = answer.text();
        assert_eq!(text, openapi::DOCUMENT);
        assert!(text.starts_with("openapi: 3.1.0\n"));
        for (_, path) in endpoints() {
            assert!(text.contains(&format!("\n  {path}:\n")), "{path}");
        }
    }
}

/// Every endpoint is there: a refusal is one for what the request lacks, never "no such path".
#[tokio::test]
async fn every_endpoint_that_is_listed_answers() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    for (method, path) in endpoints() {
        let id = "00000000-0000-4000-8000-000000000000";
        let filled =
            |part: &str| if part.starts_with('{') { id.to_owned() } else { part.to_owned() };
        let path = path.split('/').map(filled).collect::<Vec<_>>().join("/");
        for prefix in ["/auth", "/auth/v1"] {
            let answer = gateway.request(method, &format!("{prefix}{path}")).send().await;
            assert!(matches!(answer.status, 200 | 400 | 401), "{method} {path}: {}", answer.text());
            let code = answer.code();
            assert!(
                !matches!(&*code, "no_route" | "method_not_allowed"),
                "{method} {path}: {code}"
            );
        }
    }
    assert_eq!(upstream.count(), 0);
}

/// What is refused before any endpoint is reached has its code in the document, too.
#[tokio::test]
async fn refusals_before_an_endpoint_have_a_documented_code() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    for target in ["/auth/user%2Fx", "/auth/x/../user", "/auth//user"] {
        let refused = gateway.get(target).send().await;
        refused.expect_problem(400, "bad_request");
    }
    let codes = openapi::DOCUMENT
        .split("          enum:\n            - anonymous_provider_disabled\n")
        .nth(1);
    let codes = codes.expect("the list of codes");
    assert!(codes.lines().any(|line| line.trim() == "- bad_request"), "{codes}");
}
