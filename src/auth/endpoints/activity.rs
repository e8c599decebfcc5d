//! The own sessions and events, and all that is stored of the own account.

use http::StatusCode;

use super::place::Place;
use super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::error::AuthError;
use crate::auth::shapes;
use crate::identity::caller::OURS;
use crate::limit::Caller;

/// Events on a page when the client names no number, and at most.
const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 200;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/sessions", |auth, request, seen| Box::pin(auth.sessions(request, seen))),
    Endpoint::new("DELETE", "/sessions/{id}", |auth, request, seen| {
        Box::pin(auth.end_session(request, seen))
    }),
    Endpoint::new("GET", "/user/data", |auth, request, seen| {
        Box::pin(auth.user_data(request, seen))
    }),
    Endpoint::new("GET", "/events", |auth, request, seen| Box::pin(auth.events(request, seen))),
];

impl Auth {
    async fn sessions(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request, seen)?;
        let sessions = self.accounts.sessions(&bearer).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::sessions(&sessions, bearer.session_id)))
    }

    async fn end_session(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request, seen)?;
        let id = request.segment(1).parse().map_err(|_| AuthError::UnknownSession)?;
        self.accounts.end_session(&bearer, id, &request.origin()).await?;
        Ok(AuthAnswer::no_content())
    }

    async fn user_data(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request, seen)?;
        let caller = Caller {
            user: Some((OURS, bearer.user_id.as_str())),
            ..Caller::anonymous(request.client, &request.path)
        };
        let rules = self.rules.load_full();
        self.count(&[rules.limit("user_data")], caller, seen).await?;
        let data = self.accounts.user_data(&bearer, &request.origin()).await?;
        let next = data.events.last().filter(|_| data.there_is_more);
        let next = next.map(|last| Place::of(last).to_text());
        let now = self.accounts.clock.now();
        let body = shapes::user_data(&data, self.audience(), now, next.as_deref());
        Ok(AuthAnswer::json(StatusCode::OK, &body))
    }

    async fn events(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request, seen)?;
        let limit = match request.filled_parameter("limit")? {
            None => DEFAULT_PAGE,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_PAGE).contains(limit))
                .ok_or_else(|| {
                    AuthError::ValidationFailed(format!("`limit` is a number from 1 to {MAX_PAGE}"))
                })?,
        };
        let before = match request.filled_parameter("before")? {
            None => None,
            Some(text) => Some(Place::parse(&text).ok_or_else(|| {
                AuthError::ValidationFailed("`before` is the `next` of another page".to_owned())
            })?),
        };
        // One more than asked for tells whether there is another page.
        let before = before.map(|Place { at, id }| (at, id));
        let mut events = self.accounts.events(&bearer, limit + 1, before).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let there_is_more = events.len() > limit;
        events.truncate(limit);
        let next = events.last().filter(|_| there_is_more).map(|last| Place::of(last).to_text());
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::events(&events, next.as_deref())))
    }
}
