//! A request into the sandbox and the answer out of it, by HTTP/1.1 inside.

use std::sync::Arc;

use axum::response::Response;
use http::header::{
    CONNECTION, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::{Forwarded, Grant, refuse};
use crate::carry::carry;
use crate::port::Peer;
use crate::visits::Visit;

/// What is said of a token's holder. The name is that of the hosted service.
const VERIFIED: HeaderName = HeaderName::from_static("x-verified-user-data");

/// Headers that speak of one connection alone (RFC 9110, 7.6.1), and one that was answered by us.
const OF_CONNECTION: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

/// Asks the program inside.
pub(super) async fn forward(
    mut request: Forwarded,
    grant: &Grant,
    peer: &Peer,
    visit: &Arc<Visit>,
) -> Response {
    let upgrade = upgrade(&request);
    let outside = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    if let Err(refusal) = rewrite(&mut request, grant, peer, upgrade.as_ref()) {
        return refuse(StatusCode::BAD_REQUEST, refusal);
    }
    let port = grant.port;
    let stream = match visit.dial(port).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(task = %visit.task(), port, %error, "nobody listens");
            let text = format!("nobody listens on port {port} of the sandbox");
            return refuse(StatusCode::BAD_GATEWAY, text);
        }
    };
    let asked = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        visit.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection into a sandbox ended");
            }
        });
        sender.send_request(request).await
    };
    let mut response = match asked.await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(task = %visit.task(), port, %error, "no answer of HTTP");
            let text = format!("port {port} of the sandbox gave no answer of HTTP/1.1");
            return refuse(StatusCode::BAD_GATEWAY, text);
        }
    };
    let inside = hyper::upgrade::on(&mut response);
    let agreed = response.headers().get(UPGRADE).cloned();
    strip_connection(response.headers_mut());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(outside), Some(agreed)) = (outside, agreed) else {
            return refuse(StatusCode::BAD_GATEWAY, "the sandbox upgraded what asked for nothing");
        };
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE, agreed);
        visit.spawn(join(outside, inside, visit.clone()));
    }
    response.map(axum::body::Body::new)
}

/// Carries bytes after an upgrade; the visit lasts as long.
async fn join(outside: OnUpgrade, inside: OnUpgrade, visit: Arc<Visit>) {
    let joined = async {
        let (outside, inside) = tokio::try_join!(outside, inside).map_err(std::io::Error::other)?;
        carry(TokioIo::new(outside), TokioIo::new(inside)).await
    };
    if let Err(error) = joined.await {
        tracing::debug!(task = %visit.task(), %error, "an upgraded connection ended");
    }
}

/// What the peer would like to speak instead. Only HTTP/1.1 has this.
fn upgrade(request: &Forwarded) -> Option<HeaderValue> {
    let asks = |value: &HeaderValue| {
        let words = value.to_str().unwrap_or_default();
        words.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
    };
    let is_asked = request.version() == Version::HTTP_11
        && request.headers().get_all(CONNECTION).iter().any(asks);
    request.headers().get(UPGRADE).filter(|_| is_asked).cloned()
}

/// Makes a request into one for the program inside.
fn rewrite(
    request: &mut Forwarded,
    grant: &Grant,
    peer: &Peer,
    upgrade: Option<&HeaderValue>,
) -> Result<(), String> {
    let uri = request.uri();
    let authority = uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let path = uri.path_and_query().cloned().filter(|path| path.as_str().starts_with('/'));
    let path = path.ok_or("ask for a path, as /index.html")?;
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    strip_connection(headers);
    strip_claims(headers);
    if let Some(Ok(authority)) = authority {
        headers.insert(HOST, authority);
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert("x-forwarded-host", host);
    }
    let address = peer.address.ip().to_canonical().to_string();
    let address = HeaderValue::from_str(&address).map_err(|error| error.to_string())?;
    headers.insert("x-forwarded-for", address);
    let scheme = HeaderValue::from_static(if peer.is_tls { "https" } else { "http" });
    headers.insert("x-forwarded-proto", scheme);
    if let Some(metadata) = &grant.user_metadata {
        // Bytes beyond ASCII are allowed, controls are not: the token's maker is told before.
        let value = HeaderValue::from_bytes(metadata.as_bytes())
            .map_err(|_| "the token's user_metadata holds characters that no header may")?;
        headers.insert(VERIFIED, value);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade.clone());
    }
    Ok(())
}

/// Removes what speaks of one connection alone, and what the header `Connection` names.
fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_CONNECTION) {
        headers.remove(name);
    }
}

/// Removes what only we may say. Programs that see headers as variables (CGI, WSGI) take `_` for
/// `-`, so names that differ in that alone go, too.
fn strip_claims(headers: &mut HeaderMap) {
    let is_ours = |name: &HeaderName| {
        let name = name.as_str().replace('_', "-");
        name == VERIFIED.as_str()
            || ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"]
                .contains(&name.as_str())
    };
    let ours: Vec<_> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}
