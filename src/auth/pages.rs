//! The pages that a link in a letter leads to: one form with one button, no script. Mail programs
//! and virus scanners follow links to look at them, so opening the page does nothing; the button
//! does.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;

/// The one style of all pages.
const STYLE: &str = "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:28rem;margin:20vh auto 0;\
padding:0 1rem;text-align:center}button{font:inherit;padding:.6rem 1.4rem;border:0;\
border-radius:.4rem;background:#174ea6;color:#fff;cursor:pointer}p{color:#444}";

/// What a page asks its reader to confirm.
pub(super) struct Question<'a> {
    /// The token in the link.
    pub(super) token: &'a str,
    /// What the link says it is for.
    pub(super) kind: &'a str,
    /// Where it leads afterwards.
    pub(super) redirect_to: &'a Url,
}

impl Question<'_> {
    /// The page with its button.
    pub(super) fn page(&self) -> String {
        let (title, button) = match self.kind {
            "signup" => ("Confirm your e-mail address", "Confirm"),
            "invite" => ("You have been invited", "Accept the invitation"),
            "recovery" => ("Log in to set a new password", "Continue"),
            "email_change" => ("Confirm the change of your e-mail address", "Confirm"),
            _ => ("Log in", "Log in"),
        };
        let [token, kind, redirect_to] =
            [self.token, self.kind, self.redirect_to.as_str()].map(escaped);
        document(
            title,
            &format!(
                "<form method=\"post\" action=\"verify\">\
                 <input type=\"hidden\" name=\"token\" value=\"{token}\">\
                 <input type=\"hidden\" name=\"type\" value=\"{kind}\">\
                 <input type=\"hidden\" name=\"redirect_to\" value=\"{redirect_to}\">\
                 <button>{button}</button></form>\
                 <p>If you did not ask for this, close this page: nothing has happened.</p>"
            ),
        )
    }

    /// Its `Content-Security-Policy`. Browsers hold `form-action` also against where the answer to
    /// the form sends them.
    pub(super) fn policy(&self) -> String {
        let place = match self.redirect_to.origin() {
            origin if origin.is_tuple() => origin.ascii_serialization(),
            _ => format!("{}:", self.redirect_to.scheme()),
        };
        policy(&format!("'self' {place}"))
    }
}

/// The page for a link that something is missing from.
pub(super) fn incomplete() -> String {
    document(
        "This link is incomplete",
        "<p>Copy the whole link from the letter into the address bar of your browser.</p>",
    )
}

/// The `Content-Security-Policy` of a page without a form.
pub(super) fn plain_policy() -> String {
    policy("'none'")
}

fn policy(form_action: &str) -> String {
    let style = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action {form_action}; \
         frame-ancestors 'none'; base-uri 'none'"
    )
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head>\
         <body><h1>{title}</h1>{body}</body></html>\n"
    )
}

/// Text inside of an attribute's quotation marks.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_says_cannot_leave_its_quotation_marks() {
        let redirect_to = Url::parse("https://app.example.com/?a=b&c='").unwrap();
        let odd = "\"><script>alert('x')</script>&";
        let page = Question { token: odd, kind: odd, redirect_to: &redirect_to }.page();
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        let shown = "value=\"&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;\"";
        assert_eq!(page.matches(shown).count(), 2, "{page}");
        assert!(page.contains("value=\"https://app.example.com/?a=b&amp;c=%27\""), "{page}");
    }

    #[test]
    fn forms_lead_to_the_gateway_and_on_to_the_app_only() {
        for (redirect_to, place) in [
            ("https://app.example.com:8443/a", "'self' https://app.example.com:8443;"),
            ("myapp://callback/x", "'self' myapp:;"),
        ] {
            let redirect_to = Url::parse(redirect_to).unwrap();
            let question = Question { token: "t", kind: "signup", redirect_to: &redirect_to };
            let policy = question.policy();
            assert!(policy.contains(&format!("form-action {place}")), "{policy}");
            assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        }
        assert!(plain_policy().contains("form-action 'none';"));
    }
}
