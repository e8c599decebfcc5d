//! The own sessions and events, and all that is stored of the own account.

use http::StatusCode;

use super::cookies::must_be_ours_by_cookie;
use super::place::{EventPage, Place};
use super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::accounts::UserData;
use crate::auth::error::AuthError;
use crate::auth::shapes;
use crate::identity::caller::OURS;
use crate::limit::Caller;

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
        must_be_ours_by_cookie(&request, seen)?;
        let caller = Caller {
            user: Some((OURS, bearer.user_id.as_str())),
            ..Caller::anonymous(request.client, &request.path)
        };
        let rules = self.rules.load_full();
        self.count(&[rules.limit("user_data")], caller, seen).await?;
        let data = self.accounts.user_data(&bearer, &request.origin()).await?;
        Ok(self.shown_data(&data))
    }

    pub(super) fn shown_data(&self, data: &UserData) -> AuthAnswer {
        let next = data.events.last().filter(|_| data.there_is_more);
        let next = next.map(|last| Place::of(last).to_text());
        let now = self.accounts.clock.now();
        let body = shapes::user_data(data, self.audience(), now, next.as_deref());
        AuthAnswer::json(StatusCode::OK, &body)
    }

    async fn events(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request, seen)?;
        let page = EventPage::read(&request)?;
        let found = self.accounts.events(&bearer, page.wanted(), page.before()).await?;
        let (events, next) = page.cut(found);
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::events(&events, next.as_deref())))
    }
}
