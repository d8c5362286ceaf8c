//! Errors as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use rustix::io::Errno;
use serde_json::json;

use crate::commit::VerbError;
use crate::journal::JournalError;
use crate::rules::RuleError;
use crate::sys::errno_name;

/// A request that was not answered with what it asked for.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    errno: Option<Errno>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What a handler gives.
pub(super) type Answer<T> = Result<T, Problem>;

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into(), errno: None, headers: Vec::new() }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// The request must show the token; a browser asks for it as a password.
    pub(super) fn unauthorized() -> Problem {
        let mut problem =
            Problem::new(StatusCode::UNAUTHORIZED, "this address asks for the token of --admin-token-file");
        let how = HeaderValue::from_static("Basic realm=\"commitfs\", charset=\"UTF-8\"");
        problem.headers.push((WWW_AUTHENTICATE, how));
        problem.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"commitfs\"")));
        problem
    }

    fn errno(status: StatusCode, detail: String, errno: i32) -> Problem {
        Problem { errno: Some(Errno::from_raw_os_error(errno)), ..Problem::new(status, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(errno) = self.errno {
            body["errno"] = json!(errno_name(errno));
        }
        let mut response = (self.status, Json(body)).into_response();
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// For a path that is there and a method that is not; axum adds which there are.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
}

/// For a path that is not there.
pub(super) async fn no_such_path() -> Problem {
    Problem::not_found("no such path; /v1/openapi.json lists what there is")
}

impl From<VerbError> for Problem {
    fn from(error: VerbError) -> Self {
        let status = match Errno::from_raw_os_error(error.errno) {
            Errno::NOENT => StatusCode::NOT_FOUND,
            Errno::INVAL | Errno::BUSY | Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR => {
                StatusCode::CONFLICT
            }
            // A name that no file system has.
            Errno::NAMETOOLONG => StatusCode::BAD_REQUEST,
            Errno::NODATA => StatusCode::GONE,
            Errno::PERM | Errno::ACCESS | Errno::ROFS => StatusCode::FORBIDDEN,
            Errno::NOSPC | Errno::DQUOT => StatusCode::INSUFFICIENT_STORAGE,
            Errno::AGAIN => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::errno(status, error.message, error.errno)
    }
}

impl From<JournalError> for Problem {
    fn from(error: JournalError) -> Self {
        tracing::warn!(%error, "a request could not read the journal");
        Problem::errno(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), error.errno())
    }
}

impl From<RuleError> for Problem {
    fn from(error: RuleError) -> Self {
        Problem::bad_request(format!("path: {error}"))
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Problem::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Problem::new(rejection.status(), rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Problem::new(rejection.status(), rejection.body_text())
    }
}
