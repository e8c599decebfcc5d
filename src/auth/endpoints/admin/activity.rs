//! Sessions, the record, and all that is stored of somebody.

use http::header::LINK;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;

use super::super::cookies::must_be_ours_by_cookie;
use super::super::place::{EventPage, NumberedPage};
use super::super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use super::user_id;
use crate::auth::error::AuthError;
use crate::auth::shapes;
use crate::model::{EventKind, Outcome};
use crate::store::EventFilter;

/// How far numbered pages of the record go: rows before a page are counted one by one.
const MAX_AUDIT: u64 = 10_000;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/admin/users/{id}/sessions", |auth, request, seen| {
        Box::pin(auth.sessions_of(request, seen))
    }),
    Endpoint::new("DELETE", "/admin/users/{id}/sessions", |auth, request, seen| {
        Box::pin(auth.revoke_sessions(request, seen))
    }),
    Endpoint::new("DELETE", "/admin/users/{id}/sessions/{session}", |auth, request, seen| {
        Box::pin(auth.revoke_session(request, seen))
    }),
    Endpoint::new("GET", "/admin/users/{id}/data", |auth, request, seen| {
        Box::pin(auth.data_of(request, seen))
    }),
    Endpoint::new("GET", "/admin/events", |auth, request, seen| {
        Box::pin(auth.all_events(request, seen))
    }),
    Endpoint::new("GET", "/admin/audit", |auth, request, seen| Box::pin(auth.audit(request, seen))),
];

impl Auth {
    async fn sessions_of(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        let sessions = self.accounts.sessions_of(&user_id(&request)?).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::admin::sessions(&sessions)))
    }

    async fn revoke_sessions(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        self.accounts.revoke_sessions(&admin, &user_id(&request)?, None).await?;
        Ok(AuthAnswer::no_content())
    }

    async fn revoke_session(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let id = user_id(&request)?;
        let session = request.segment(4).parse().map_err(|_| AuthError::UnknownSession)?;
        self.accounts.revoke_sessions(&admin, &id, Some(session)).await?;
        Ok(AuthAnswer::no_content())
    }

    async fn data_of(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        must_be_ours_by_cookie(&request, seen)?;
        let data = self.accounts.data_of(&admin, &user_id(&request)?).await?;
        Ok(self.shown_data(&data))
    }

    async fn all_events(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        let (filter, page) = (filter(&request)?, EventPage::read(&request)?);
        let found = self.accounts.all_events(&filter, page.wanted(), page.before()).await?;
        let (events, next) = page.cut(found);
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::admin::events(&events, next.as_deref())))
    }

    async fn audit(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        let page = NumberedPage::read(&request)?;
        if request.filled_parameter("query")?.is_some() {
            return Err(invalid("`query` is not supported; /admin/events has filters"));
        }
        let last = page.after() + u64::from(page.per_page);
        if last > MAX_AUDIT {
            return Err(invalid("numbered pages end at 10000 entries; /admin/events has them all"));
        }
        let wanted = u32::try_from(last).unwrap_or(u32::MAX).saturating_add(1);
        let mut found = self.accounts.all_events(&EventFilter::default(), wanted, None).await?;
        let there_is_more = found.len() as u64 > last;
        found.truncate(usize::try_from(last).unwrap_or(usize::MAX));
        let from = usize::try_from(page.after()).unwrap_or(usize::MAX).min(found.len());
        let body = shapes::admin::audit(&found[from..]);
        let mut answer = AuthAnswer::json(StatusCode::OK, &body);
        if there_is_more && let Some(next) = page_after(page) {
            let next = HeaderValue::try_from(next).expect("digits and our own words");
            answer.headers.insert(LINK, next);
        }
        Ok(answer)
    }
}

/// `Link` (RFC 8288) to the page after this one; `None`: numbered pages end before it does.
fn page_after(page: NumberedPage) -> Option<String> {
    let NumberedPage { page, per_page } = page;
    let next = NumberedPage { page: page.checked_add(1)?, per_page };
    let is_whole = next.after() + u64::from(per_page) <= MAX_AUDIT;
    is_whole.then(|| format!("<?page={}&per_page={per_page}>; rel=\"next\"", next.page))
}

fn filter(request: &AuthRequest) -> Result<EventFilter, AuthError> {
    let text = |name: &str| request.filled_parameter(name);
    let word = |name: &str, known: bool| {
        if known { Ok(()) } else { Err(invalid(&format!("`{name}` is not one that events have"))) }
    };
    let time = |name: &str| -> Result<Option<Timestamp>, AuthError> {
        let Some(text) = text(name)? else { return Ok(None) };
        let time = text.parse();
        time.map(Some)
            .map_err(|_| invalid(&format!("`{name}` is a time such as 2026-12-01T00:00:00Z")))
    };
    let (kind, outcome) = (text("kind")?, text("outcome")?);
    let filter = EventFilter {
        kind: kind.as_deref().and_then(EventKind::from_word),
        user_id: match text("user_id")? {
            Some(id) => Some(id.parse().map_err(|_| invalid("`user_id` is no id of a user"))?),
            None => None,
        },
        email: text("email")?,
        outcome: outcome.as_deref().and_then(Outcome::from_word),
        since: time("since")?,
        until: time("until")?,
    };
    word("kind", kind.is_some() == filter.kind.is_some())?;
    word("outcome", outcome.is_some() == filter.outcome.is_some())?;
    Ok(filter)
}

fn invalid(sentence: &str) -> AuthError {
    AuthError::ValidationFailed(sentence.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_of_the_record_leads_to_one_that_is_refused() {
        let after = |page, per_page| page_after(NumberedPage { page, per_page });
        assert_eq!(after(1, 50).as_deref(), Some(r#"<?page=2&per_page=50>; rel="next""#));
        assert_eq!(after(32, 300).as_deref(), Some(r#"<?page=33&per_page=300>; rel="next""#));
        assert_eq!(after(33, 300), None, "the next one would end at 10,200");
        assert_eq!(after(9, 1000).as_deref(), Some(r#"<?page=10&per_page=1000>; rel="next""#));
        assert_eq!(after(10, 1000), None);
    }
}
