//! The try-it page and `/fanfare.js`, embedded in the binary.
//!
//! Everything is served with a strict policy: no inline script, nothing from elsewhere, no
//! framing. So a channel or message that looks like HTML stays text whatever the page does.

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderValue};

use super::{Answer, Body};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The asset at a path. `/` is the page only for a person's browser; programs get the channel.
pub(super) fn find(path: &str, wants_page: bool) -> Option<Answer> {
    let (kind, bytes): (&'static str, &'static [u8]) = match path {
        "/" if wants_page => (
            "text/html; charset=utf-8",
            include_bytes!("../../assets/index.html"),
        ),
        "/page.css" => ("text/css; charset=utf-8", include_bytes!("../../assets/page.css")),
        "/page.js" => (
            "text/javascript; charset=utf-8",
            include_bytes!("../../assets/page.js"),
        ),
        "/fanfare.js" => (
            "text/javascript; charset=utf-8",
            include_bytes!("../../assets/fanfare.js"),
        ),
        "/favicon.svg" => ("image/svg+xml", include_bytes!("../../assets/favicon.svg")),
        _ => return None,
    };
    let mut answer = Response::new(Body::Whole(Some(Bytes::from_static(bytes))));
    let fields = answer.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Some(answer)
}
