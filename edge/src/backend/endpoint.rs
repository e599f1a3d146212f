//! The URL of a backend, taken apart once.

use hyper::Uri;
use hyper::header::HeaderValue;
use tokio_rustls::rustls::pki_types::ServerName;

/// Why a URL cannot be a backend's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("not a URL: {0}")]
    Syntax(String),
    #[error("the scheme must be http or https")]
    Scheme,
    #[error("user information is not allowed in the URL; use a credential")]
    UserInfo,
    #[error("the host `{0}` is neither a DNS name nor an IP address")]
    Host(String),
}

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host as the resolver wants it: an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// `Some` for https: the name that the certificate must have.
    pub server_name: Option<ServerName<'static>>,
    /// The `Host` header field.
    pub host_header: HeaderValue,
    /// Path and query, the request target.
    pub target: Uri,
}

impl Endpoint {
    pub(super) fn parse(url: &str) -> Result<Self, EndpointError> {
        let uri: Uri =
            url.parse().map_err(|error: hyper::http::uri::InvalidUri| EndpointError::Syntax(error.to_string()))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(EndpointError::Scheme),
        };
        let authority = uri.authority().ok_or(EndpointError::Scheme)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| EndpointError::Host(host.clone()))?;
        // `Authority::port` is also `None` where a port is none, such as `:99999`.
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default().strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| EndpointError::Syntax(format!("invalid port `{port}`")))?,
            None if is_tls => 443,
            None => 80,
        };
        let host_header = HeaderValue::from_str(authority.as_str()).map_err(|_| EndpointError::Host(host.clone()))?;
        let target = uri.path_and_query().map_or("/", |path| path.as_str());
        let target =
            target.parse().map_err(|error: hyper::http::uri::InvalidUri| EndpointError::Syntax(error.to_string()))?;
        Ok(Self { host, port, server_name: is_tls.then_some(name), host_header, target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_says() {
        let plain = Endpoint::parse("http://billing-mcp.acme.svc:8080/mcp?x=1").expect("a URL");
        assert_eq!((plain.host.as_str(), plain.port), ("billing-mcp.acme.svc", 8080));
        assert_eq!(plain.host_header, "billing-mcp.acme.svc:8080");
        assert_eq!(plain.target.to_string(), "/mcp?x=1");
        assert!(plain.server_name.is_none());

        let tls = Endpoint::parse("https://[2001:db8::1]").expect("a URL");
        assert_eq!((tls.host.as_str(), tls.port), ("2001:db8::1", 443));
        assert_eq!(tls.host_header, "[2001:db8::1]");
        assert_eq!(tls.target.to_string(), "/");
        assert!(matches!(tls.server_name, Some(ServerName::IpAddress(_))));
        assert_eq!(Endpoint::parse("http://a/").map(|endpoint| endpoint.port), Ok(80));
    }

    #[test]
    fn what_is_no_backend() {
        for (url, wanted) in [
            ("ftp://a/", EndpointError::Scheme),
            ("/mcp", EndpointError::Scheme),
            ("http://user:secret@a/", EndpointError::UserInfo),
            ("http://a_%20b/", EndpointError::Syntax(String::new())),
            ("http://a:99999/", EndpointError::Syntax(String::new())),
            ("http://a:/", EndpointError::Syntax(String::new())),
            ("http:// a/", EndpointError::Syntax(String::new())),
            ("", EndpointError::Syntax(String::new())),
        ] {
            let error = Endpoint::parse(url).expect_err(url);
            assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&wanted), "{url}: {error}");
        }
    }
}
