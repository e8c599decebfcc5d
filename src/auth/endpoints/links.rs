//! Letters that are asked for, and the links and codes in them. Whoever asks gets the same answer
//! whether or not anybody has the address; see `accounts/links.rs`.

use http::header::{self, CONTENT_SECURITY_POLICY, LOCATION, ORIGIN, REFERRER_POLICY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::json;
use url::Url;
use url::form_urlencoded::Serializer;

use super::cookies::must_be_ours_by_cookie;
use super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::accounts::{Keeper, Opened, Wish, word_of};
use crate::auth::error::AuthError;
use crate::auth::forms::{Form, RepeatedParameter};
use crate::auth::input::{
    self, Fields, LetterWanted, MAX_BODY_BYTES, Repeated, Verify, purposes_of,
};
use crate::auth::pages::{self, Question};
use crate::auth::shapes;
use crate::limit::Caller;
use crate::model::{EventKind, LetterKind, Purpose};

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("POST", "/recover", |auth, request, seen| Box::pin(auth.recover(request, seen))),
    Endpoint::new("POST", "/otp", |auth, request, seen| Box::pin(auth.magic_link(request, seen))),
    Endpoint::new("POST", "/magiclink", |auth, request, seen| {
        Box::pin(auth.magic_link(request, seen))
    }),
    Endpoint::new("POST", "/resend", |auth, request, seen| Box::pin(auth.resend(request, seen))),
    Endpoint::new("POST", "/invite", |auth, request, seen| Box::pin(auth.invite(request, seen))),
    Endpoint::new("GET", "/reauthenticate", |auth, request, seen| {
        Box::pin(auth.reauthenticate(request, seen))
    }),
    Endpoint::new("GET", "/verify", |auth, request, seen| Box::pin(auth.open_link(request, seen))),
    Endpoint::new("POST", "/verify", |auth, request, seen| Box::pin(auth.verify(request, seen))),
];

/// What letters are asked for, and what the record calls that.
type Asked = (&'static [LetterKind], EventKind);

const EMAIL_CHANGE: Asked = (
    &[LetterKind::EmailChangeCurrent, LetterKind::EmailChangeNew],
    EventKind::EmailChangeRequested,
);
const MAGIC_LINK: Asked = (&[LetterKind::MagicLink], EventKind::MagicLinkRequested);
const RECOVERY: Asked = (&[LetterKind::Recovery], EventKind::RecoveryRequested);
const SIGNUP: Asked = (&[LetterKind::Confirmation], EventKind::ConfirmationRequested);

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

impl Auth {
    async fn recover(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.ask(request, seen, |fields| {
            let wanted = LetterWanted::parse(fields)?;
            Ok((RECOVERY, LetterWanted { may_create: false, ..wanted }))
        })
        .await
    }

    async fn magic_link(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        // Where nobody may sign up, whoever has an account may still log in.
        let signup_is_enabled = self.rules.load().signup_is_enabled;
        self.ask(request, seen, |fields| {
            let wanted = LetterWanted::parse(fields)?;
            let may_create = wanted.may_create && signup_is_enabled;
            Ok((MAGIC_LINK, LetterWanted { may_create, ..wanted }))
        })
        .await
    }

    async fn resend(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        self.ask(request, seen, |fields| {
            let (repeated, wanted) = LetterWanted::parse_repeated(fields)?;
            let letters = match repeated {
                Repeated::Signup => SIGNUP,
                Repeated::EmailChange => EMAIL_CHANGE,
            };
            Ok((letters, wanted))
        })
        .await
    }

    /// A letter for whoever has an address.
    async fn ask(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
        parse: impl FnOnce(Fields) -> Result<(Asked, LetterWanted), input::InputError>,
    ) -> Result<AuthAnswer, AuthError> {
        let rules = self.rules.load_full();
        let origin = request.origin();
        let caller = Caller::anonymous(request.client, &request.path);
        self.count(&[rules.limit("mail")], caller, seen).await?;
        let redirect_to = request.filled_parameter("redirect_to")?;
        let ((kinds, event), wanted) = parse(Fields::read(&request.headers, request.body)?)?;
        let LetterWanted { email, may_create, user_metadata, challenge } = wanted;
        let caller = Caller { account: Some(email.key()), ..caller };
        self.count(&[rules.limit("mail_account")], caller, seen)
            .await
            .map_err(|error| error.with_email(email.address()))?;
        let account = may_create.then_some(user_metadata);
        let wish = Wish { kinds, email, account, redirect_to, challenge };
        self.accounts.ask(wish, event, &origin).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &json!({})))
    }

    async fn invite(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let rules = self.rules.load_full();
        let caller = Caller::anonymous(request.client, &request.path);
        self.count(&[rules.limit("mail")], caller, seen).await?;
        let redirect_to = request.filled_parameter("redirect_to")?;
        let wanted = LetterWanted::parse(Fields::read(&request.headers, request.body)?)?;
        let user = self.accounts.invite(&admin, wanted, redirect_to.as_deref()).await?;
        let body = shapes::user(&user, self.audience(), self.accounts.clock.now());
        Ok(AuthAnswer::json(StatusCode::OK, &body))
    }

    async fn reauthenticate(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request, seen)?;
        // A GET in Supabase Auth, but it sends a letter.
        must_be_ours_by_cookie(&request, seen)?;
        let rules = self.rules.load_full();
        let caller = Caller::anonymous(request.client, &request.path);
        self.count(&[rules.limit("mail")], caller, seen).await?;
        let user = self.accounts.user(&bearer).await?;
        // Not under the address: anybody may ask for letters to it, and would use up what its owner,
        // who is logged in, needs. No address has a space.
        let account = format!("reauthentication of {}", bearer.user_id);
        let caller = Caller { account: Some(&account), ..caller };
        self.count(&[rules.limit("mail_account")], caller, seen).await?;
        self.accounts.reauthenticate(&bearer, &user, &request.origin()).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &json!({})))
    }

    /// A link or code that a client shows, or the form of our page.
    async fn verify(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        let keeper = self.keeper(&request)?;
        let rules = self.rules.load_full();
        let caller = Caller::anonymous(request.client, &request.path);
        self.count(&[rules.limit("verify")], caller, seen).await?;
        if let Some(form) = Form::read(&request.headers, request.body.clone()) {
            if keeper == Keeper::Browser {
                let sentence = "`cookies` is not for the form of a link";
                return Err(AuthError::ValidationFailed(sentence.to_owned()));
            }
            return self.submitted(request, &form).await;
        }
        let origin = request.origin().with_keeper(keeper);
        let shown = Verify::parse(Fields::read(&request.headers, request.body)?)?;
        if let Verify::Code { email, .. } = &shown {
            let caller = Caller { account: Some(email.key()), ..caller };
            self.count(&[rules.limit("verify_account")], caller, seen)
                .await
                .map_err(|error| error.with_email(email.address()))?;
        }
        match self.accounts.verify(shown, &origin).await? {
            Some(issued) => self.session(StatusCode::OK, &issued, keeper, seen),
            None => {
                Ok(AuthAnswer::json(StatusCode::OK, &json!({ "msg": HALF_DONE, "code": "200" })))
            }
        }
    }

    /// The link in a letter. Looks nothing up, so that it tells nothing; see [`pages`].
    async fn open_link(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let (Some(token), Some(kind)) =
            (request.filled_parameter("token")?, request.filled_parameter("type")?)
        else {
            return Ok(page(StatusCode::BAD_REQUEST, pages::incomplete(), &pages::plain_policy()));
        };
        let Some(purposes) = purposes_of(&kind) else {
            return Ok(page(StatusCode::BAD_REQUEST, pages::incomplete(), &pages::plain_policy()));
        };
        let redirect_to = request.filled_parameter("redirect_to")?;
        if self.accounts.links.confirm_page || request.method == Method::HEAD {
            let redirect_to = self.accounts.redirects.choose(redirect_to.as_deref());
            let question = Question { token: &token, kind: &kind, redirect_to: &redirect_to };
            return Ok(page(StatusCode::OK, question.page(), &question.policy()));
        }
        let rules = self.rules.load_full();
        self.count(
            &[rules.limit("verify")],
            Caller::anonymous(request.client, &request.path),
            seen,
        )
        .await?;
        self.follow(&request, &token, &purposes, redirect_to.as_deref()).await
    }

    /// The form of our page: the button was pressed.
    async fn submitted(&self, request: AuthRequest, form: &Form) -> Result<AuthAnswer, AuthError> {
        if !self.is_of_our_page(&request.headers) {
            return Err(AuthError::OriginDenied);
        }
        if request.body.len() > MAX_BODY_BYTES {
            return Err(AuthError::BodyTooLarge);
        }
        let field = |name: &str| {
            form.parameter(name).map_err(|RepeatedParameter| {
                AuthError::ValidationFailed(format!("`{name}` is given twice"))
            })
        };
        let (token, redirect_to) = (field("token")?, field("redirect_to")?);
        let purposes = field("type")?.and_then(|kind| purposes_of(&kind));
        let (Some(token), Some(purposes)) = (token, purposes) else {
            return Err(AuthError::ValidationFailed("`token` and `type` are required".to_owned()));
        };
        self.follow(&request, &token, &purposes, redirect_to.as_deref()).await
    }

    /// Whether a form may be that of our page. Whoever has a link of their own could log somebody
    /// else in with it, who then works in the wrong account. Old browsers, and all of them at plain
    /// HTTP, say only `Origin`; what says neither is no browser that somebody works in.
    fn is_of_our_page(&self, headers: &HeaderMap) -> bool {
        let said = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
        match (said(SEC_FETCH_SITE), said(ORIGIN)) {
            (Some(site), _) => matches!(site, b"same-origin" | b"none"),
            (None, Some(origin)) => {
                // Letters lead to the page under this address.
                let ours = Url::parse(&self.accounts.tokens.issuer).map(|url| url.origin());
                ours.is_ok_and(|ours| ours.ascii_serialization().as_bytes() == origin)
            }
            (None, None) => true,
        }
    }

    /// Uses a link and sends the browser on, with what came of it.
    async fn follow(
        &self,
        request: &AuthRequest,
        token: &str,
        purposes: &[Purpose],
        hint: Option<&str>,
    ) -> Result<AuthAnswer, AuthError> {
        let opened = self.accounts.follow(token, purposes, hint, &request.origin()).await;
        let (place, told, user) = match opened {
            Ok(Opened::Session { issued, purpose, redirect_to }) => {
                let now = issued.at.as_second();
                let tokens = &issued.tokens;
                let told = pairs(&[
                    ("access_token", &tokens.access_token),
                    ("expires_at", &tokens.expires_at.to_string()),
                    ("expires_in", &(tokens.expires_at - now).max(0).to_string()),
                    ("refresh_token", &tokens.refresh_token),
                    ("sb", ""),
                    ("token_type", "bearer"),
                    ("type", word_of(purpose)),
                ]);
                (redirect_to, told, Some((issued.user.id.clone(), issued.session_id)))
            }
            Ok(Opened::Code { code, mut redirect_to }) => {
                redirect_to.query_pairs_mut().append_pair("code", code.expose_secret());
                (redirect_to, String::new(), None)
            }
            Ok(Opened::HalfDone { redirect_to }) => {
                (redirect_to, pairs(&[("message", HALF_DONE), ("sb", "")]), None)
            }
            Err(error @ (AuthError::OtpExpired | AuthError::EmailExists)) => {
                // Nobody knows whether the client waits for a code, so it is told in both places.
                let told = [
                    ("error", "access_denied"),
                    ("error_code", error.code()),
                    ("error_description", "The link is wrong, was used, or has expired"),
                ];
                let mut place = self.accounts.redirects.choose(hint);
                place.query_pairs_mut().extend_pairs(told);
                let [one, two, three] = told;
                (place, pairs(&[one, two, three, ("sb", "")]), None)
            }
            Err(other) => return Err(other),
        };
        let mut answer = AuthAnswer::new(StatusCode::SEE_OTHER, HTML, "");
        answer.headers.remove(header::CONTENT_TYPE);
        answer.headers.insert(LOCATION, location(&place, &told)?);
        answer.headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        (answer.user_id, answer.session_id) = user.unzip();
        Ok(answer)
    }

    /// The code that a link left for the client that asked for it.
    pub(super) async fn trade_code(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let keeper = self.keeper(&request)?;
        let rules = self.rules.load_full();
        let origin = request.origin().with_keeper(keeper);
        self.count(
            &[rules.limit("verify")],
            Caller::anonymous(request.client, &request.path),
            seen,
        )
        .await?;
        let shown = input::Pkce::parse(Fields::read(&request.headers, request.body)?)?;
        let issued = self.accounts.trade_code(&shown, &origin).await?;
        self.session(StatusCode::OK, &issued, keeper, seen)
    }
}

/// What is said when one of two addresses has agreed to a change.
const HALF_DONE: &str = "This address agrees. Confirm the link sent to the other address, too";

fn pairs(told: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(told).finish()
}

fn location(place: &Url, told: &str) -> Result<HeaderValue, AuthError> {
    let text = if told.is_empty() { place.to_string() } else { format!("{place}#{told}") };
    HeaderValue::try_from(text).map_err(|error| AuthError::Internal(error.into()))
}

fn page(status: StatusCode, html: String, policy: &str) -> AuthAnswer {
    let mut answer = AuthAnswer::new(status, HTML, html);
    if let Ok(policy) = HeaderValue::try_from(policy) {
        answer.headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        // The address of the page has the token in it. `no-referrer` would make the form's `Origin`
        // `null` (Fetch, "append a request Origin header"), as that of a page which hides its own.
        (REFERRER_POLICY, "same-origin"),
        (OPENER_POLICY, "same-origin"),
        (ROBOTS, "noindex"),
    ] {
        answer.headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
