//! Serves the console, a page that uses this API, from files that are compiled in. The page itself is in `console/`.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, IF_NONE_MATCH, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use sha2::{Digest, Sha256};

use super::headers::set_header;
use crate::{body::Body, hex::hex};

/// A file of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

/// The page may load from and connect to this node only, and no site may frame it, because it uses its user's key.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! embed {
    ($name:literal, $kind:literal) => {
        File { name: $name, kind: $kind, text: include_str!(concat!("../../../console/", $name)) }
    };
}

/// Every file; nothing else is served below `/console`.
pub(super) const FILES: [File; 11] = [
    embed!("index.html", "text/html; charset=utf-8"),
    embed!("console.css", "text/css; charset=utf-8"),
    embed!("console.js", "text/javascript; charset=utf-8"),
    embed!("api.js", "text/javascript; charset=utf-8"),
    embed!("chat.js", "text/javascript; charset=utf-8"),
    embed!("dom.js", "text/javascript; charset=utf-8"),
    embed!("items.js", "text/javascript; charset=utf-8"),
    embed!("schedules.js", "text/javascript; charset=utf-8"),
    embed!("sessions.js", "text/javascript; charset=utf-8"),
    embed!("status.js", "text/javascript; charset=utf-8"),
    embed!("turn.js", "text/javascript; charset=utf-8"),
];

/// The file at `path`; the page itself is at `/console`.
pub(super) fn find(path: &str) -> Option<File> {
    let name = match path.strip_prefix("/console")? {
        "" | "/" => "index.html",
        rest => rest.strip_prefix('/')?,
    };
    FILES.into_iter().find(|file| file.name == name)
}

/// `GET /console`, `GET /console/{file}`
pub(super) fn serve(file: File, request_headers: &HeaderMap) -> Response<Body> {
    // Names do not change with the content, so a browser must revalidate each file, or it would mix two versions.
    let etag = format!("\"{}\"", hex(&Sha256::digest(file.text)));
    let known = request_headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let mut response =
        Response::new(if known { Body::Empty } else { Body::from(Bytes::from_static(file.text.as_bytes())) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, file.kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    set_header(headers, "etag", &etag);
    response
}
