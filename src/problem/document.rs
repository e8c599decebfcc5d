//! The problem document itself (RFC 9457), and its two forms: JSON, and what gRPC has instead.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use serde_json::json;

/// GoTrue's clients send this with the date of the answers that they understand. Since the one date
/// on which those changed, `code` holds the stable word; clients look for it there when the answer
/// says so with that date.
const API_VERSION: HeaderName = HeaderName::from_static("x-supabase-api-version");
const CODES_SINCE: &str = "2024-01-01";

/// A problem document, before it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Status of the answer.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// More members of the document.
    pub(super) extra: Option<(&'static str, serde_json::Value)>,
    /// Nothing more is read from this connection.
    close: bool,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { status, code, detail, headers: Vec::new(), extra: None, close: false }
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn allow(self, methods: &str) -> Self {
        match HeaderValue::from_str(methods) {
            Ok(methods) => self.header(ALLOW, methods),
            Err(_) => self,
        }
    }

    pub(super) fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// RFC 6750 §3: without an error when no token was sent.
    pub(super) fn challenge(self, error: Option<&'static str>) -> Self {
        self.authenticate(&match error {
            None => "Bearer realm=\"portcullis\"".to_owned(),
            Some(error) => format!("Bearer realm=\"portcullis\", error=\"{error}\""),
        })
    }

    /// `WWW-Authenticate`
    pub(super) fn authenticate(self, challenge: &str) -> Self {
        match HeaderValue::from_str(challenge) {
            Ok(value) => self.header(WWW_AUTHENTICATE, value),
            Err(_) => self,
        }
    }

    /// RFC 6750 §3.1: says which scopes would do.
    pub(super) fn challenge_for_scope(self, needed: &str) -> Self {
        let value = format!(
            "Bearer realm=\"portcullis\", error=\"insufficient_scope\", scope=\"{needed}\""
        );
        match HeaderValue::from_str(&value) {
            Ok(value) => self.header(WWW_AUTHENTICATE, value),
            Err(_) => self,
        }
    }

    pub(super) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub(super) fn closing_if(self, close: bool) -> Self {
        if close { self.closing() } else { self }
    }

    /// The answer to the request with this id, which sent this `X-Supabase-Api-Version`.
    pub fn into_response(self, api_version: Option<&[u8]>, request_id: &str) -> Response<Bytes> {
        let knows_codes = api_version.is_some_and(has_codes);
        let mut document = json!({
            "type": format!("urn:portcullis:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "instance": format!("urn:uuid:{request_id}"),
            "code": self.code,
            "error_code": self.code,
            "msg": self.detail,
        });
        if let Some(members) = document.as_object_mut() {
            if uuid::Uuid::try_parse(request_id).is_err() {
                // An id that the client made up is no UUID; it is a name all the same.
                members.insert(
                    "instance".to_owned(),
                    format!("urn:portcullis:request:{request_id}").into(),
                );
            }
            if knows_codes {
                members.insert("message".to_owned(), self.detail.clone().into());
            }
            if let Some((name, value)) = self.extra {
                members.insert(name.to_owned(), value);
            }
        }
        let mut response = Response::new(Bytes::from(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if knows_codes {
            headers.insert(API_VERSION, HeaderValue::from_static(CODES_SINCE));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

impl Problem {
    /// The same for a gRPC client: an answer of trailers only (gRPC over HTTP/2, "Responses").
    pub fn into_grpc_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("grpc-status"), self.grpc_status().into());
        // §"Responses": percent-encoded UTF-8.
        let message = percent_encoding::utf8_percent_encode(&self.detail, GRPC_MESSAGE).to_string();
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert(HeaderName::from_static("grpc-message"), message);
        }
        let told = [WWW_AUTHENTICATE, RETRY_AFTER];
        headers.extend(self.headers.into_iter().filter(|(name, _)| told.contains(name)));
        response
    }

    /// `google.rpc.Code`
    fn grpc_status(&self) -> u16 {
        match self.status.as_u16() {
            401 => 16,
            403 => 7,
            404 | 405 => 12,
            413 | 429 | 431 => 8,
            502..=504 => 14,
            400..=499 => 3,
            _ => 13,
        }
    }
}

/// Whether a version is a date, `YYYY-MM-DD`, from [`CODES_SINCE`] on.
fn has_codes(version: &[u8]) -> bool {
    let is_digit_or_dash = |(place, byte): (usize, &u8)| match place {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    let Ok(text) = std::str::from_utf8(version) else { return false };
    text.len() == CODES_SINCE.len()
        && version.iter().enumerate().all(is_digit_or_dash)
        && text.parse::<jiff::civil::Date>().is_ok()
        // Dates of this form are in the order of their texts.
        && text >= CODES_SINCE
}

/// What `grpc-message` must not hold as it is.
const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
