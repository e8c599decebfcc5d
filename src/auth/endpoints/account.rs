//! Getting, renewing and giving up a session, and the own account.

use http::StatusCode;
use http::header::AUTHORIZATION;

use super::cookies::{kept, must_be_ours};
use super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen, split};
use crate::auth::Policy;
use crate::auth::accounts::{Bearer, Issued, Keeper, LogoutScope};
use crate::auth::counted;
use crate::auth::error::AuthError;
use crate::auth::input::{self, Fields};
use crate::auth::shapes;
use crate::config::Limits;
use crate::identity::caller::OURS;
use crate::identity::cookies::{ACCESS, REFRESH};
use crate::limit::Caller;
use crate::model::EventKind;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("POST", "/signup", |auth, request, seen| Box::pin(auth.sign_up(request, seen))),
    Endpoint::new("POST", "/login", |auth, request, seen| Box::pin(auth.log_in(request, seen))),
    Endpoint::new("POST", "/token", |auth, request, seen| Box::pin(auth.token(request, seen))),
    Endpoint::new("POST", "/logout", |auth, request, seen| Box::pin(auth.log_out(request, seen))),
    Endpoint::new("GET", "/user", |auth, request, seen| Box::pin(auth.user(request, seen))),
    Endpoint::new("PUT", "/user", |auth, request, seen| Box::pin(auth.update_user(request, seen))),
];

impl Auth {
    async fn sign_up(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let keeper = self.keeper(&request)?;
        let rules = self.rules.load_full();
        let (at_once, by_account) = split(&[rules.limit("signup")]);
        let origin = request.origin().with_keeper(keeper);
        let caller = Caller::anonymous(request.client, &request.path);
        self.count(&at_once, caller, seen).await?;

        let redirect_to = request.filled_parameter("redirect_to")?;
        let fields = Fields::read(&request.headers, request.body)?;
        let tried = fields.peek("email").map(str::to_owned);
        let new = if rules.signup_is_enabled {
            let parse = |policy: &Policy| input::SignUp::parse(fields, policy);
            self.accounts.by_policy(parse).await?.map_err(AuthError::from)
        } else {
            Err(AuthError::SignupDisabled)
        };
        let new = match new {
            Ok(new) => new,
            Err(error) => return self.refuse(EventKind::SignupFailed, tried, error, &origin).await,
        };
        let account = Some(new.email.key());
        self.count(&by_account, Caller { account, ..caller }, seen)
            .await
            .map_err(|error| error.with_email(new.email.address()))?;
        if rules.email_is_confirmed {
            let letters = [rules.limit("mail"), rules.limit("mail_account")];
            let caller = Caller { account: Some(new.email.key()), ..caller };
            self.count(&letters, caller, seen)
                .await
                .map_err(|error| error.with_email(new.email.address()))?;
            let redirect_to = redirect_to.as_deref();
            let user = self.accounts.sign_up_by_letter(new, redirect_to, &origin).await?;
            let body = shapes::user(&user, self.audience(), user.created_at);
            return Ok(AuthAnswer::json(StatusCode::OK, &body));
        }
        let issued = self.accounts.sign_up(new, &origin).await?;
        self.session(StatusCode::CREATED, &issued, keeper, seen)
    }

    async fn log_in(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        let keeper = self.keeper(&request)?;
        let rules = self.rules.load_full();
        let (at_once, by_account) = split(&[
            rules.limit("login"),
            rules.limit("login_network"),
            rules.limit("login_account"),
        ]);
        let origin = request.origin().with_keeper(keeper);
        let caller = Caller::anonymous(request.client, &request.path);
        self.count(&at_once, caller, seen).await?;

        let fields = Fields::read(&request.headers, request.body)?;
        let tried = fields.peek("email").map(str::to_owned);
        let login = match input::LogIn::parse(fields) {
            Ok(login) => login,
            Err(error) => {
                return self.refuse(EventKind::LoginFailed, tried, error.into(), &origin).await;
            }
        };
        let state = self.accounts.login_state(&login.email, &origin).await?;
        let account = counted::login(&login.email, &state.lane);
        self.count(&by_account, Caller { account: Some(&account), ..caller }, seen)
            .await
            .map_err(|error| error.with_email(login.email.address()))?;
        let issued = self.accounts.log_in(login, state, rules.unproved(), &origin).await?;
        self.session(StatusCode::OK, &issued, keeper, seen)
    }

    async fn token(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        match request.parameter("grant_type")?.as_deref() {
            Some("password") => self.log_in(request, seen).await,
            Some("refresh_token") => self.refresh(request, seen).await,
            Some("pkce") => self.trade_code(request, seen).await,
            _ => Err(AuthError::UnsupportedGrantType),
        }
    }

    async fn refresh(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let keeper = self.keeper(&request)?;
        let (client, path) = (request.client, request.path.clone());
        let has_cookie = keeper == Keeper::Browser && self.cookie(&request, REFRESH)?.is_some();
        if keeper == Keeper::Browser && !has_cookie && request.body.is_empty() {
            // Pages cannot see whether there is a cookie, so they ask. Nothing was guessed.
            return Err(AuthError::RefreshTokenNotFound);
        }
        let refused = match self.trade_refresh_token(request, keeper, seen).await {
            Ok(issued) => return self.session(StatusCode::OK, &issued, keeper, seen),
            Err(error) => error,
        };
        if has_cookie && refused.ends_refreshing() {
            self.clear_cookies(seen);
        }
        if refused.is_of_refresh_token() {
            let rules = self.rules.load_full();
            let caller = Caller::anonymous(client, &path);
            self.count(&[rules.limit("refresh")], caller, seen).await?;
        }
        Err(refused)
    }

    /// Trades a refresh token. Clients drop a session whose refresh is refused with anything but
    /// "come back later". So a good token is held back by no limit that somebody else can fill: not
    /// by one of the address, which others share, but by one of its own session. Bad tokens are
    /// counted for the address after they were looked up; that costs one probe of an index, which
    /// the store bounds, and reuse ends its session however many bad ones came before.
    async fn trade_refresh_token(
        &self,
        request: AuthRequest,
        keeper: Keeper,
        seen: &mut Seen,
    ) -> Result<Issued, AuthError> {
        let origin = request.origin().with_keeper(keeper);
        let cookie = match keeper {
            Keeper::Client => None,
            Keeper::Browser => self.cookie(&request, REFRESH)?.map(input::Refresh::of_cookie),
        };
        let refresh = match cookie {
            None => input::Refresh::parse(Fields::read(&request.headers, request.body)?)?,
            Some(cookie) => {
                let fields = Fields::read_if_any(&request.headers, request.body)?;
                if !fields.is_blank("refresh_token") {
                    return Err(AuthError::TwoRefreshTokens);
                }
                cookie
            }
        };
        let session = self.accounts.session_to_refresh(&refresh).await?;
        let caller = Caller {
            session: Some((OURS, session)),
            ..Caller::anonymous(request.client, &request.path)
        };
        let rules = self.rules.load_full();
        self.count(&[rules.limit(Limits::REFRESH_OF_SESSION)], caller, seen).await?;
        self.accounts.refresh(&refresh, &origin).await
    }

    async fn log_out(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.leaving(&request, seen).await?;
        let scope = match request.parameter("scope")? {
            None => LogoutScope::Local,
            Some(word) => LogoutScope::from_word(&word).ok_or_else(|| {
                AuthError::ValidationFailed("`scope` is local, others or global".to_owned())
            })?,
        };
        self.accounts.log_out(&bearer, scope, &request.origin()).await?;
        if seen.by_cookie && scope != LogoutScope::Others {
            self.log_out_of_refresh_cookie(&request, &bearer).await?;
            self.clear_cookies(seen);
        }
        Ok(AuthAnswer::no_content())
    }

    /// Ends the session of the refresh cookie where that is another one than the access cookie's: it
    /// would live on, and nobody would have its token but whoever copied it.
    async fn log_out_of_refresh_cookie(
        &self,
        request: &AuthRequest,
        ended: &Bearer,
    ) -> Result<(), AuthError> {
        let Ok(Some(token)) = kept(request, REFRESH) else { return Ok(()) };
        match self.accounts.who_shows(&input::Refresh::of_cookie(token)).await? {
            Some(other) if other.session_id != ended.session_id => {
                self.accounts.log_out(&other, LogoutScope::Local, &request.origin()).await
            }
            _ => Ok(()),
        }
    }

    /// Who logs out. A browser forgets an access token when that expires, but the session goes on
    /// with the refresh token, so that tells as well whose it is. Whatever is wrong with cookies,
    /// they are taken back, also when `[cookies]` was switched off meanwhile: nobody else can.
    async fn leaving(&self, request: &AuthRequest, seen: &mut Seen) -> Result<Bearer, AuthError> {
        let refused = match self.bearer(request, seen) {
            Ok(bearer) => return Ok(bearer),
            Err(error) => error,
        };
        let has_cookie = |name| !matches!(kept(request, name), Ok(None));
        if request.headers.contains_key(AUTHORIZATION)
            || !(has_cookie(ACCESS) || has_cookie(REFRESH))
        {
            return Err(refused);
        }
        must_be_ours(request)?;
        seen.by_cookie = true;
        if let Ok(Some(token)) = kept(request, REFRESH)
            && let Some(bearer) = self.accounts.who_shows(&input::Refresh::of_cookie(token)).await?
        {
            seen.bearer = Some(bearer.clone());
            return Ok(bearer);
        }
        self.clear_cookies(seen);
        // As at a refresh: whoever shows what is no token is counted after the look.
        let rules = self.rules.load_full();
        let caller = Caller::anonymous(request.client, &request.path);
        self.count(&[rules.limit("refresh")], caller, seen).await?;
        Err(refused)
    }

    async fn user(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request, seen)?;
        let user = self.accounts.user(&bearer).await?;
        let body = shapes::user(&user, self.audience(), self.accounts.clock.now());
        Ok(AuthAnswer::json(StatusCode::OK, &body))
    }

    async fn update_user(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request, seen)?;
        let origin = request.origin();
        let redirect_to = request.filled_parameter("redirect_to")?;
        let fields = Fields::read_if_any(&request.headers, request.body)?;
        let change = input::UpdateUser { redirect_to, ..input::UpdateUser::parse(fields)? };
        let rules = self.rules.load_full();
        if change.password.is_some() || change.current_password.is_some() || change.nonce.is_some()
        {
            // Whoever has stolen a token could guess the password here instead of at the login,
            // and whoever has any token could keep the hashing threads busy.
            let account = counted::password_change(&bearer.user_id);
            let caller = Caller {
                user: Some((OURS, bearer.user_id.as_str())),
                account: Some(&account),
                ..Caller::anonymous(request.client, &request.path)
            };
            self.count(&[rules.limit("login_account")], caller, seen).await?;
        }
        if let Some(email) = &change.email {
            let letters = [rules.limit("mail"), rules.limit("mail_account")];
            let caller = Caller {
                user: Some((OURS, bearer.user_id.as_str())),
                account: Some(email.key()),
                ..Caller::anonymous(request.client, &request.path)
            };
            self.count(&letters, caller, seen).await?;
        }
        let user = self.accounts.update_user(&bearer, change, &origin).await?;
        let body = shapes::user(&user, self.audience(), self.accounts.clock.now());
        Ok(AuthAnswer::json(StatusCode::OK, &body))
    }
}
