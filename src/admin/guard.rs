//! Who may ask: the right host name (a name that an attacker's DNS points here is not), the right origin (another site's
//! page is not), the token where one is set. Over TCP without a token everybody on this host may ask, so they may only look.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::http::{Connection, Via};
use super::problem::Problem;

/// Fewest characters of a token: not to be guessed.
pub(crate) const TOKEN_MIN: usize = 16;

/// What a request over TCP must show. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// `None` if it is too short, or has characters that a header cannot carry.
    pub fn new(text: &str) -> Option<Token> {
        let sound = text.len() >= TOKEN_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
        sound.then(|| Token(text.to_owned()))
    }

    /// Takes the same time whatever is wrong.
    fn is(&self, shown: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let differing = own.iter().enumerate().fold(own.len() ^ shown.len(), |differing, (at, byte)| {
            differing | usize::from(byte ^ shown.get(at).copied().unwrap_or(!byte))
        });
        std::hint::black_box(differing) == 0
    }
}

/// What who asks may do. Known to each request that is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// See what is told of files; not what is in drafts, which their modes keep from others.
    Look,
    /// Everything.
    Change,
}

/// Why those who may only look are refused.
pub(super) const ONLY_LOOKS: &str = "without a token this address only looks, and shows no contents: mount with \
                                     admin_token_file (--admin-token-file FILE), or ask over http.sock in the state folder";

impl Rights {
    /// For what an owner of the export may do, and not everybody on the host.
    pub(super) fn to_change(self) -> Result<(), Problem> {
        match self {
            Rights::Change => Ok(()),
            Rights::Look => Err(Problem::new(StatusCode::FORBIDDEN, ONLY_LOOKS)),
        }
    }
}

/// What is let in.
#[derive(Debug, Default)]
pub(super) struct Policy {
    /// For requests over TCP.
    pub(super) token: Option<Token>,
    /// Host names besides `localhost` and plain addresses, lower case.
    pub(super) hosts: Vec<String>,
}

/// Refuses what must not come through, and says of every answer that it is nobody else's business.
pub(super) async fn check(State(policy): State<Arc<Policy>>, mut request: Request, next: Next) -> Response {
    let via = request.extensions().get::<Connection>().map_or(Via::Tcp, |connection| connection.via);
    let mut response = match policy.judge(via, request.method(), request.headers()) {
        Ok(rights) => {
            request.extensions_mut().insert(rights);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl Policy {
    fn judge(&self, via: Via, method: &Method, headers: &HeaderMap) -> Result<Rights, Problem> {
        let forbidden = |detail: String| Err(Problem::new(StatusCode::FORBIDDEN, detail));
        // A proxy in front may have judged another one than would be judged here.
        if headers.get_all(HOST).iter().count() > 1 {
            return Err(Problem::bad_request("more than one Host header"));
        }
        let host = match headers.get(HOST).map(HeaderValue::to_str) {
            None => None,
            Some(Ok(host)) => Some(host),
            Some(Err(_)) => return forbidden("the Host header is not text".to_owned()),
        };
        if let Some(host) = host
            && !self.is_own_name(via, name_of(host))
        {
            return forbidden(format!("host {host:?} is not a name of this server; allow it with --admin-host"));
        }
        for origin in headers.get_all(ORIGIN) {
            let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
            let own = authority.is_some_and(|authority| {
                host.is_some_and(|host| host.eq_ignore_ascii_case(authority)) || self.is_listed(name_of(authority))
            });
            if !own {
                return forbidden(format!("requests from pages of {origin:?} are not answered"));
            }
        }
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        if !method.is_safe() && matches!(site, Some(b"cross-site" | b"same-site")) {
            return forbidden("another site's page asks for a change".to_owned());
        }
        let rights = match (via, &self.token) {
            (Via::Unix, _) => Rights::Change,
            (Via::Tcp, Some(token)) if shows(headers, token) => Rights::Change,
            (Via::Tcp, Some(_)) => return Err(Problem::unauthorized()),
            (Via::Tcp, None) => Rights::Look,
        };
        if !method.is_safe() {
            rights.to_change()?;
        }
        Ok(rights)
    }

    /// A plain address cannot be made to point here by somebody's DNS; a name can, unless it is known.
    fn is_own_name(&self, via: Via, name: &str) -> bool {
        let literal = name.trim_start_matches('[').trim_end_matches(']');
        literal.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.is_listed(name)
            // Over the socket the name means nothing, unless a proxy passes a visitor's on: that one has a dot.
            || (via == Via::Unix && !name.contains('.'))
    }

    fn is_listed(&self, name: &str) -> bool {
        self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }
}

/// `HOST[:PORT]` without the port.
fn name_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

/// `Bearer TOKEN`, or `Basic` with the token as password, which is what browsers can show.
fn shows(headers: &HeaderMap, token: &Token) -> bool {
    headers.get_all(AUTHORIZATION).iter().any(|value| {
        let Some((scheme, shown)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else { return false };
        if scheme.eq_ignore_ascii_case("bearer") {
            return token.is(shown.trim().as_bytes());
        }
        let pair = if scheme.eq_ignore_ascii_case("basic") { from_base64(shown.trim()) } else { None };
        let password =
            pair.as_ref().and_then(|pair| pair.iter().position(|&byte| byte == b':').map(|at| &pair[at + 1..]));
        password.is_some_and(|password| token.is(password))
    })
}

/// Standard alphabet, padded or not.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bits = 0u32;
    let mut held = 0;
    let mut bytes = Vec::new();
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(policy: &Policy, via: Via, method: Method, headers: &[(&str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        match policy.judge(via, &method, &map) {
            Ok(_) => 200,
            Err(problem) => problem.into_response().status().as_u16(),
        }
    }

    #[test]
    fn names_of_this_server_and_of_others() {
        let policy = Policy { hosts: vec!["files.example.org".to_owned()], token: None };
        for (host, tcp, unix) in [
            ("127.0.0.1:9000", 200, 200),
            ("[::1]:9000", 200, 200),
            ("192.0.2.7", 200, 200),
            ("localhost:9000", 200, 200),
            ("LOCALHOST", 200, 200),
            ("Files.Example.Org:443", 200, 200),
            ("evil.example", 403, 403),
            ("evil.example:9000", 403, 403),
            ("127.0.0.1.evil.example", 403, 403),
            ("localhost.evil.example", 403, 403),
            ("backend", 403, 200),
        ] {
            assert_eq!(status(&policy, Via::Tcp, Method::GET, &[("host", host)]), tcp, "{host}");
            assert_eq!(status(&policy, Via::Unix, Method::GET, &[("host", host)]), unix, "{host}");
        }
        assert_eq!(status(&policy, Via::Tcp, Method::GET, &[("host", "localhost"), ("host", "evil.example")]), 400);
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let token = Token::new("0123456789abcdef");
        let policy = Policy { hosts: vec!["files.example.org".to_owned()], token };
        let host = ("host", "127.0.0.1:9000");
        let shown = ("authorization", "Bearer 0123456789abcdef");
        for (origin, expected) in [
            ("http://127.0.0.1:9000", 200),
            ("http://127.0.0.1:9001", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("https://files.example.org", 200),
            ("https://files.example.org.evil.example", 403),
        ] {
            assert_eq!(
                status(&policy, Via::Tcp, Method::POST, &[host, shown, ("origin", origin)]),
                expected,
                "{origin}"
            );
        }
        for (site, post) in [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403)] {
            assert_eq!(
                status(&policy, Via::Tcp, Method::POST, &[host, shown, ("sec-fetch-site", site)]),
                post,
                "{site}"
            );
            assert_eq!(status(&policy, Via::Tcp, Method::GET, &[host, shown, ("sec-fetch-site", site)]), 200, "{site}");
        }
    }

    #[test]
    fn without_a_token_the_address_only_looks() {
        let (open, closed) = (Policy::default(), Policy { token: Token::new("0123456789abcdef"), hosts: Vec::new() });
        let shown = [("authorization", "Bearer 0123456789abcdef")];
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert_eq!(status(&open, Via::Tcp, method.clone(), &[]), 403, "{method}");
            assert_eq!(status(&open, Via::Tcp, method.clone(), &shown), 403, "{method}: there is no token to show");
            assert_eq!(status(&open, Via::Unix, method.clone(), &[]), 200, "{method}");
            assert_eq!(status(&closed, Via::Tcp, method.clone(), &shown), 200, "{method}");
        }
        let rights = |policy: &Policy, via| policy.judge(via, &Method::GET, &HeaderMap::new()).unwrap();
        assert_eq!(rights(&open, Via::Tcp), Rights::Look);
        assert_eq!((rights(&open, Via::Unix), rights(&closed, Via::Unix)), (Rights::Change, Rights::Change));
    }

    #[test]
    fn the_token_as_browsers_and_programs_show_it() {
        let policy = Policy { token: Token::new("0123456789abcdef"), hosts: Vec::new() };
        for (shown, expected) in [
            ("Bearer 0123456789abcdef", 200),
            ("bearer 0123456789abcdef", 200),
            ("Basic YWRtaW46MDEyMzQ1Njc4OWFiY2RlZg==", 200),
            ("Basic YWRtaW46MDEyMzQ1Njc4OWFiY2RlZA==", 401),
            ("Bearer 0123456789abcde", 401),
            ("Bearer 0123456789abcdefg", 401),
            ("Bearer", 401),
            ("Basic !", 401),
            ("Digest 0123456789abcdef", 401),
        ] {
            assert_eq!(status(&policy, Via::Tcp, Method::GET, &[("authorization", shown)]), expected, "{shown}");
        }
        assert_eq!(status(&policy, Via::Tcp, Method::GET, &[]), 401);
        assert_eq!(status(&policy, Via::Unix, Method::GET, &[]), 200, "the socket's mode is the key");
        assert!(Token::new("short").is_none() && Token::new("0123456789 abcdef").is_none());
    }
}
