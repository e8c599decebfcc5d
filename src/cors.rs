//! Cross-origin requests (Fetch standard, "CORS protocol"): preflights are answered here, before
//! any token is looked at, and answers to allowed origins say so. An origin is allowed when it is
//! written in the configuration, byte for byte, or when that says `*` (then without credentials).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Method, Request, Response, StatusCode};

use crate::config;

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
    pub fn answer_preflight(&self, origin: Option<&HeaderValue>) -> Response<()> {
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

    /// Tells an allowed origin that it may read the answer. What the upstream said of that is
    /// replaced.
    pub fn mark(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if !self.is_on() {
            return;
        }
        headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = self.allowed(origin) else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, self.exposed.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<&HeaderValue> {
        let any = |allowed: &&HeaderValue| *allowed == "*" || Some(*allowed) == origin;
        origin.and_then(|_| self.origins.iter().find(any))
    }
}

/// The method that a preflight asks for; `None` for every other request.
pub fn preflight<B>(request: &Request<B>) -> Option<&HeaderValue> {
    let asks = request.method() == Method::OPTIONS && request.headers().contains_key(ORIGIN);
    asks.then(|| request.headers().get(ACCESS_CONTROL_REQUEST_METHOD)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        let allowed_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        Cors::compile(&config::Cors { allowed_origins, ..config::Cors::default() }).unwrap()
    }

    fn preflight(origin: &str) -> Request<()> {
        Request::builder()
            .method("OPTIONS")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .body(())
            .unwrap()
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
            let request = preflight(origin);
            assert_eq!(super::preflight(&request).unwrap(), "PUT");
            let origin = request.headers().get(ORIGIN);
            let mut response = cors.answer_preflight(origin);
            cors.mark(origin, response.headers_mut());
            let headers = response.headers();
            assert_eq!(headers.contains_key(ACCESS_CONTROL_ALLOW_METHODS), granted);
            assert_eq!(headers.get(ACCESS_CONTROL_ALLOW_ORIGIN), origin.filter(|_| granted));
        }
    }

    #[test]
    fn without_origins_it_is_off() {
        let cors = cors(&[]);
        assert!(!cors.is_on());
        let mut headers = HeaderMap::new();
        cors.mark(Some(&HeaderValue::from_static("https://app.example")), &mut headers);
        assert!(headers.is_empty());
    }
}
