//! Form bodies (`application/x-www-form-urlencoded`), which OAuth's endpoints take and nothing else
//! but the page of a mailed link does: a browser sends a form of any site without asking, so what
//! takes one must not act on the word of a cookie.

use bytes::Bytes;
use http::{HeaderMap, header};

/// The media type of a form.
const FORM: &str = "application/x-www-form-urlencoded";

/// The parameters of a form.
pub(super) struct Form(Bytes);

/// A parameter that is there more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RepeatedParameter;

impl Form {
    /// The body, when it is declared as a form.
    pub(super) fn read(headers: &HeaderMap, body: Bytes) -> Option<Self> {
        is_form(headers).then_some(Self(body))
    }

    /// The one value of a parameter. An empty one is none (RFC 6749 §3.2).
    ///
    /// # Errors
    /// [`RepeatedParameter`]: two readers could take different ones.
    pub(super) fn parameter(&self, name: &str) -> Result<Option<String>, RepeatedParameter> {
        let mut values = form_urlencoded::parse(&self.0).filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(RepeatedParameter),
            (value, _) => Ok(value.map(|(_, value)| value.into_owned()).filter(|v| !v.is_empty())),
        }
    }
}

/// Whether a body is declared as a form.
fn is_form(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    line.to_str().is_ok_and(|line| {
        let media_type = line.split(';').next().unwrap_or_default();
        media_type.trim().eq_ignore_ascii_case(FORM)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_has_one_value() {
        let mut headers = HeaderMap::new();
        let body = Bytes::from_static(b"a=1&b=x%20y+z&c=&d=1&d=1&%61b=2");
        assert!(Form::read(&headers, body.clone()).is_none());
        headers.insert(header::CONTENT_TYPE, format!("{FORM}; charset=UTF-8").parse().unwrap());
        let form = Form::read(&headers, body).unwrap();
        for (name, value) in
            [("a", Some("1")), ("b", Some("x y z")), ("c", None), ("ab", Some("2")), ("e", None)]
        {
            assert_eq!(form.parameter(name), Ok(value.map(str::to_owned)), "{name}");
        }
        assert_eq!(form.parameter("d"), Err(RepeatedParameter));
        headers.append(header::CONTENT_TYPE, FORM.parse().unwrap());
        assert!(!is_form(&headers), "two types are none");
    }
}
