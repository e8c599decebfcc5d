//! Accounts, and their second factors.

use http::header::LINK;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use super::super::place::NumberedPage;
use super::super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use super::user_id;
use crate::auth::error::AuthError;
use crate::auth::input::{self, Fields};
use crate::auth::shapes;
use crate::model::User;
use crate::store::Deletion;

/// Longest text to look for, in bytes: as long as an address can be. It comes back in `Link`.
const MAX_FILTER: usize = 254;

const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/admin/users", |auth, request, seen| {
        Box::pin(auth.list_users(request, seen))
    }),
    Endpoint::new("POST", "/admin/users", |auth, request, seen| {
        Box::pin(auth.create_user(request, seen))
    }),
    Endpoint::new("GET", "/admin/users/{id}", |auth, request, seen| {
        Box::pin(auth.any_user(request, seen))
    }),
    Endpoint::new("PUT", "/admin/users/{id}", |auth, request, seen| {
        Box::pin(auth.change_user(request, seen))
    }),
    Endpoint::new("DELETE", "/admin/users/{id}", |auth, request, seen| {
        Box::pin(auth.delete_user(request, seen))
    }),
    Endpoint::new("GET", "/admin/users/{id}/factors", |auth, request, seen| {
        Box::pin(auth.factors_of(request, seen))
    }),
    Endpoint::new("DELETE", "/admin/users/{id}/factors/{factor}", |auth, request, seen| {
        Box::pin(auth.remove_factor(request, seen))
    }),
];

impl Auth {
    async fn list_users(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        let page = NumberedPage::read(&request)?;
        let filter = request.filled_parameter("filter")?;
        if filter.as_ref().is_some_and(|filter| filter.len() > MAX_FILTER) {
            let detail = format!("`filter` must not be longer than {MAX_FILTER} bytes");
            return Err(AuthError::ValidationFailed(detail));
        }
        let found = self.accounts.user_page(filter.as_deref(), page.after(), page.per_page).await?;
        let now = self.accounts.clock.now();
        let body = shapes::admin::users(&found.users, self.audience(), now);
        let mut answer = AuthAnswer::json(StatusCode::OK, &body);
        answer.headers.insert(TOTAL_COUNT, found.total.into());
        if let Ok(links) = HeaderValue::try_from(links_of(page, filter.as_deref(), found.total)) {
            answer.headers.insert(LINK, links);
        }
        Ok(answer)
    }

    async fn create_user(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let wanted = input::NewUser::parse(Fields::read(&request.headers, request.body)?)?;
        let user = self.accounts.create_user(&admin, wanted).await?;
        Ok(self.shown_user(&user))
    }

    async fn any_user(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        let user = self.accounts.any_user(&user_id(&request)?).await?;
        Ok(self.shown_user(&user))
    }

    async fn change_user(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let id = user_id(&request)?;
        let wanted = input::UserWords::parse(Fields::read(&request.headers, request.body)?)?;
        let user = self.accounts.change_user(&admin, &id, wanted).await?;
        Ok(self.shown_user(&user))
    }

    async fn delete_user(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let id = user_id(&request)?;
        let fields = Fields::read_if_any(&request.headers, request.body)?;
        let deletion =
            if input::should_soft_delete(fields)? { Deletion::Soft } else { Deletion::Hard };
        self.accounts.delete_user(&admin, &id, deletion).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &json!({})))
    }

    async fn factors_of(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        let user = self.accounts.any_user(&user_id(&request)?).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::admin::factors(&user.factors)))
    }

    async fn remove_factor(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let id = user_id(&request)?;
        let factor = request.segment(4).parse().map_err(|_| AuthError::FactorNotFound)?;
        let removed = self.accounts.remove_factor(&admin, &id, factor).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::factor(&removed)))
    }
}

impl Auth {
    fn shown_user(&self, user: &User) -> AuthAnswer {
        let now = self.accounts.clock.now();
        AuthAnswer::json(StatusCode::OK, &shapes::admin::user(user, self.audience(), now))
    }
}

/// `Link` (RFC 8288) to the next and the last page. `page` comes first: that is where client
/// libraries look for it.
fn links_of(page: NumberedPage, filter: Option<&str>, total: u64) -> String {
    let NumberedPage { page, per_page } = page;
    let address = |page: u64, rel: &str| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("page", &page.to_string());
        query.append_pair("per_page", &per_page.to_string());
        if let Some(filter) = filter {
            query.append_pair("filter", filter);
        }
        format!("<?{}>; rel=\"{rel}\"", query.finish())
    };
    let last = total.div_ceil(u64::from(per_page)).max(1);
    let mut links = Vec::new();
    if u64::from(page) < last {
        links.push(address(u64::from(page) + 1, "next"));
    }
    links.push(address(last, "last"));
    links.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_link_to_the_next_and_the_last() {
        let links = |page, per_page, total| links_of(NumberedPage { page, per_page }, None, total);
        let last = r#"<?page=3&per_page=2>; rel="last""#;
        assert_eq!(links(1, 2, 5), format!(r#"<?page=2&per_page=2>; rel="next", {last}"#));
        assert_eq!(links(3, 2, 5), last);
        assert_eq!(links(9, 2, 5), last);
        assert_eq!(links(1, 2, 0), r#"<?page=1&per_page=2>; rel="last""#);
        let filtered = links_of(NumberedPage { page: 1, per_page: 5 }, Some("a&b=>\u{e4}"), 5);
        assert_eq!(filtered, r#"<?page=1&per_page=5&filter=a%26b%3D%3E%C3%A4>; rel="last""#);
    }
}
