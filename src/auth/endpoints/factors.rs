//! Second factors of the bearer, in the shapes of Supabase Auth, and recovery codes.

use http::StatusCode;
use uuid::Uuid;

use super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::accounts::{Bearer, Keeper};
use crate::auth::error::AuthError;
use crate::auth::input::{self, Fields};
use crate::auth::shapes;
use crate::identity::caller::OURS;
use crate::limit::Caller;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("POST", "/factors", |auth, request, seen| Box::pin(auth.enrol(request, seen))),
    Endpoint::new("POST", "/factors/recovery_codes", |auth, request, seen| {
        Box::pin(auth.recovery_codes(request, seen))
    }),
    Endpoint::new("POST", "/factors/{id}/challenge", |auth, request, seen| {
        Box::pin(auth.challenge(request, seen))
    }),
    Endpoint::new("POST", "/factors/{id}/verify", |auth, request, seen| {
        Box::pin(auth.verify_factor(request, seen))
    }),
    Endpoint::new("DELETE", "/factors/{id}", |auth, request, seen| {
        Box::pin(auth.unenrol(request, seen))
    }),
];

impl Auth {
    async fn enrol(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        let bearer = self.counted_bearer(&request, seen).await?;
        let origin = request.origin();
        let wanted = input::Enrol::parse(Fields::read(&request.headers, request.body)?)?;
        let rules = self.rules.load_full();
        let enrolled = self.accounts.enrol(&bearer, wanted, &rules.enrolment, &origin).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::enrolled(&enrolled)))
    }

    async fn challenge(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.counted_bearer(&request, seen).await?;
        let factor = factor_named(&request)?;
        // Clients ask for a channel, which only telephones have.
        Fields::read_if_any(&request.headers, request.body)?;
        let lifetime = self.rules.load().challenge_lifetime;
        let challenged = self.accounts.challenge(&bearer, factor, lifetime).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::challenged(&challenged)))
    }

    async fn verify_factor(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let asked = self.keeper(&request)?;
        let bearer = self.counted_bearer(&request, seen).await?;
        // Whoever came by a cookie gets no token to read, whatever it asks for.
        let keeper = if seen.by_cookie { Keeper::Browser } else { asked };
        let factor = factor_named(&request)?;
        let origin = request.origin().with_keeper(keeper);
        let shown = input::VerifyFactor::parse(Fields::read(&request.headers, request.body)?)?;
        let issued = self.accounts.verify_factor(&bearer, factor, &shown, &origin).await?;
        self.session(StatusCode::OK, &issued, keeper, seen)
    }

    async fn unenrol(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request, seen)?;
        let factor = factor_named(&request)?;
        self.accounts.unenrol(&bearer, factor, &request.origin()).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::unenrolled(factor)))
    }

    async fn recovery_codes(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.counted_bearer(&request, seen).await?;
        let codes = self.accounts.make_recovery_codes(&bearer, &request.origin()).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::recovery_codes(&codes)))
    }

    /// The bearer, counted under the limit of second factors: whoever has a token only could guess.
    async fn counted_bearer(
        &self,
        request: &AuthRequest,
        seen: &mut Seen,
    ) -> Result<Bearer, AuthError> {
        let bearer = self.bearer(request, seen)?;
        let rules = self.rules.load_full();
        let caller = Caller {
            user: Some((OURS, bearer.user_id.as_str())),
            ..Caller::anonymous(request.client, &request.path)
        };
        self.count(&[rules.limit("factor")], caller, seen).await?;
        Ok(bearer)
    }
}

fn factor_named(request: &AuthRequest) -> Result<Uuid, AuthError> {
    request.segment(1).parse().map_err(|_| AuthError::FactorNotFound)
}
