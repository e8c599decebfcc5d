//! Why a head is not acceptable.

use http::StatusCode;

use super::Problem;
use crate::message::HeadError;

pub(super) fn head_reason(error: HeadError) -> &'static str {
    match error {
        HeadError::BareLineFeed => "bare_line_feed",
        HeadError::ConnectionField => "connection_field",
        HeadError::Syntax => "syntax",
        HeadError::TooLarge => "head_too_large",
        HeadError::Version => "version",
        HeadError::TwoLengths => "two_lengths",
        HeadError::ContentLength => "content_length",
        HeadError::TransferEncoding => "transfer_encoding",
        HeadError::Host => "host",
        HeadError::Target => "target",
        HeadError::Expectation => "expectation",
        HeadError::Method => "method_not_allowed",
        HeadError::TargetTooLong => "target_too_long",
    }
}

pub(super) fn head_problem(error: HeadError) -> Problem {
    let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail);
    match error {
        HeadError::BareLineFeed => {
            bad("A line of the request head ends without a carriage return.")
        }
        HeadError::ConnectionField => bad("HTTP/2 has no fields of a connection."),
        HeadError::Syntax => bad("The request head is not well formed."),
        HeadError::TooLarge => Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "bad_request",
            "The request head is too large.",
        ),
        HeadError::Version => Problem::new(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "bad_request",
            "This version of HTTP is not spoken here.",
        ),
        HeadError::TwoLengths => bad("Content-Length and Transfer-Encoding exclude each other."),
        HeadError::ContentLength => bad("Content-Length must be one plain number."),
        HeadError::TransferEncoding => bad("Transfer-Encoding must be exactly chunked."),
        HeadError::Host => bad("There must be exactly one well-formed Host."),
        HeadError::Target => bad("The request target is not acceptable."),
        HeadError::Expectation => Problem::new(
            StatusCode::EXPECTATION_FAILED,
            "bad_request",
            "The only known expectation is 100-continue.",
        ),
        HeadError::Method => {
            let methods: Vec<_> =
                crate::message::request::METHODS.iter().map(http::Method::as_str).collect();
            let detail = "This method is not passed on.";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
                .allow(&methods.join(", "))
        }
        HeadError::TargetTooLong => {
            Problem::new(StatusCode::URI_TOO_LONG, "bad_request", "The request target is too long.")
        }
    }
    .closing()
}
