//! Links to hand on.

use http::StatusCode;

use super::super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::error::AuthError;
use crate::auth::input::{self, Fields};
use crate::auth::shapes;

pub(super) const ENDPOINTS: &[Endpoint] =
    &[Endpoint::new("POST", "/admin/generate_link", |auth, request, seen| {
        Box::pin(auth.generate_link(request, seen))
    })];

impl Auth {
    async fn generate_link(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let redirect_to = request.filled_parameter("redirect_to")?;
        let wanted = input::LinkWanted::parse(Fields::read(&request.headers, request.body)?)?;
        let wanted =
            input::LinkWanted { redirect_to: redirect_to.or(wanted.redirect_to), ..wanted };
        let link = self.accounts.make_link(&admin, wanted).await?;
        let now = self.accounts.clock.now();
        let body = shapes::admin::link(&link, self.audience(), now);
        Ok(AuthAnswer::json(StatusCode::OK, &body))
    }
}
