//! Cross-origin requests (Fetch standard, "CORS protocol"): preflights are answered here, before
//! any token is looked at, and answers to allowed origins say so. An origin is allowed when it is
//! written in the configuration, byte for byte, or when that says `*` (then without credentials).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    HeaderValue,
};
use http::{Method, Response, StatusCode};

use crate::config;
use crate::message::{FieldSink, Fields, Known};

/// The compiled `[cors]` table.
#[derive(Debug)]
pub struct Cors {
    origins: Vec<HeaderValue>,
    methods: HeaderValue,
    headers: HeaderValue,
    exposed: HeaderValue,
    credentials: bool,
    max_age: HeaderValue,
}

impl Cors {
    /// Compiles the table.
    ///
    /// # Errors
    /// Names what cannot stand in a header.
    pub fn compile(config: &config::Cors) -> Result<Self, Vec<config::Problem>> {
        let mut problems = Vec::new();
        let mut list = |key: &str, words: &[String]| {
            HeaderValue::from_str(&words.join(", ")).unwrap_or_else(|_| {
                let message = "holds a character that cannot stand in a header";
                problems.push(config::Problem::new(format!("cors.{key}"), message));
                HeaderValue::from_static("")
            })
        };
        let methods = list("allowed_methods", &config.allowed_methods);
        let headers = list("allowed_headers", &config.allowed_headers);
        let exposed = list("exposed_headers", &config.exposed_headers);
        let origins = (config.allowed_origins.iter())
            .map(|origin| list("allowed_origins", std::slice::from_ref(origin)))
            .collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let max_age = HeaderValue::from(config.max_age.0.as_secs());
        let credentials = config.allow_credentials;
        Ok(Self { origins, methods, headers, exposed, credentials, max_age })
    }

    /// Whether any origin is allowed.
    pub fn is_on(&self) -> bool {
        !self.origins.is_empty()
    }

    /// The answer to a preflight. An origin that is not allowed gets one that grants nothing.
    pub fn answer_preflight(&self, origin: Option<&[u8]>) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if self.allowed(origin).is_some() {
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone());
            headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
        response
    }

    /// Whether a field of an upstream's answer is ours to say.
    pub fn replaces(&self, known: Known) -> bool {
        self.is_on() && matches!(known, Known::AllowOrigin | Known::AllowCredentials)
    }

    /// Tells an allowed origin that it may read the answer.
    pub fn write(&self, origin: Option<&[u8]>, out: &mut impl FieldSink) {
        if !self.is_on() {
            return;
        }
        out.field(b"vary", b"origin");
        let Some(origin) = self.allowed(origin) else { return };
        out.field(ACCESS_CONTROL_ALLOW_ORIGIN.as_str().as_bytes(), origin);
        out.field(ACCESS_CONTROL_EXPOSE_HEADERS.as_str().as_bytes(), self.exposed.as_bytes());
        if self.credentials {
            out.field(ACCESS_CONTROL_ALLOW_CREDENTIALS.as_str().as_bytes(), b"true");
        }
    }

    fn allowed<'o>(&self, origin: Option<&'o [u8]>) -> Option<&'o [u8]> {
        origin.filter(|origin| {
            self.origins.iter().any(|allowed| *allowed == "*" || allowed.as_bytes() == *origin)
        })
    }
}

/// The method that a preflight asks for; `None` for every other request.
pub fn preflight<'a>(method: &Method, fields: Fields<'a>) -> Option<&'a [u8]> {
    let asks = *method == Method::OPTIONS && fields.has(Known::Origin);
    if asks { fields.first(Known::RequestMethod) } else { None }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::message::FieldList;

    fn cors(origins: &[&str]) -> Cors {
        let allowed_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        Cors::compile(&config::Cors { allowed_origins, ..config::Cors::default() }).unwrap()
    }

    #[test]
    fn only_written_origins_are_granted_anything() {
        let cors = cors(&["https://app.example"]);
        for (origin, granted) in [
            ("https://app.example", true),
            ("https://app.example.evil", false),
            ("http://app.example", false),
            ("null", false),
        ] {
            let list: FieldList = [("origin", origin), ("access-control-request-method", "PUT")]
                .into_iter()
                .collect();
            let fields = list.view();
            assert_eq!(preflight(&Method::OPTIONS, fields), Some(&b"PUT"[..]));
            assert_eq!(preflight(&Method::GET, fields), None);
            let origin = fields.first(Known::Origin);
            let response = cors.answer_preflight(origin);
            assert_eq!(response.headers().contains_key(ACCESS_CONTROL_ALLOW_METHODS), granted);
            let mut headers = HeaderMap::new();
            cors.write(origin, &mut headers);
            let allowed = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(HeaderValue::as_bytes);
            assert_eq!(allowed, origin.filter(|_| granted));
        }
    }

    #[test]
    fn without_origins_it_is_off() {
        let cors = cors(&[]);
        assert!(!cors.is_on() && !cors.replaces(Known::AllowOrigin));
        let mut headers = HeaderMap::new();
        cors.write(Some(b"https://app.example"), &mut headers);
        assert!(headers.is_empty());
    }
}
