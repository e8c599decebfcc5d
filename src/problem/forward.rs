//! Why an upstream did not answer.

use std::time::Duration;

use http::StatusCode;

use super::{Error, Problem, TRY_AGAIN};
use crate::proxy::forward::ForwardError;
use crate::proxy::pool::LeaseError;

pub(super) fn forward_problem(error: &ForwardError) -> Problem {
    match error {
        ForwardError::TooManyTunnels => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_tunnels",
            "There are too many open tunnels. Try again later.",
        )
        .retry_after(TRY_AGAIN),
        ForwardError::Connect(LeaseError::Full) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "upstream_overloaded",
            "The service behind this gateway has more to do than it can. Try again later.",
        )
        .retry_after(Duration::from_secs(1)),
        ForwardError::NoTunnel => Problem::new(
            StatusCode::BAD_GATEWAY,
            "upstream_unreachable",
            "The service behind this gateway has no WebSocket here.",
        ),
        ForwardError::Connect(_) | ForwardError::Broken(_) | ForwardError::Unasked => Problem::new(
            StatusCode::BAD_GATEWAY,
            "upstream_unreachable",
            "The service behind this gateway cannot be reached.",
        ),
        ForwardError::Timeout | ForwardError::OverTime => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream_timeout",
            "The service behind this gateway did not answer in time.",
        ),
        ForwardError::BodyTooLarge => Error::BodyTooLarge.problem(),
        ForwardError::Unsendable => Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "The request target is not acceptable.",
        ),
        ForwardError::ClientBroke | ForwardError::ClientGone => Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "The request body is not well formed or came too slowly.",
        ),
    }
    // What is left of the request body is not read.
    .closing_if(!matches!(error, ForwardError::Connect(_)))
}
