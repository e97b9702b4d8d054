//! Who is who: the handshake, and what a token opens.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use store::tokens;
use wire::client as pb;

use super::gate::{Caller, Cx, Member, Scoped, User};
use super::refusal::Refusal;

/// The oldest client release that is served.
const OLDEST: (u32, u32) = (1, 0);

/// How long a token for the sandboxes' rpcs is good.
const AUTH_TOKEN: Duration = Duration::from_secs(3_600);

/// `major.minor` of a release.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The builder version that a client knows: each release refuses those that came after it
/// (tried with 1.0.5, 1.2.6, 1.4.3 and 1.6.4).
pub(super) fn builder_version(client_version: &str) -> &'static str {
    match release(client_version) {
        Some((1, 0)) => "2024.10",
        Some(_) | None => "2025.06",
    }
}

/// Whether clients take a host for their own machine (1.6.4), and it is nobody else's name.
pub(super) fn is_loopback_name(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]")
}

/// Whether a release of the Python client takes a command router without TLS on loopback (1.5.0
/// and later do; 1.4.3 and earlier demand TLS).
pub(super) fn takes_http_router(client_version: &str) -> bool {
    release(client_version).is_some_and(|release| release >= (1, 5))
}

/// The first word of a client: it learns whether it is welcome.
pub(super) async fn client_hello(
    cx: Cx<Caller>,
    (): (),
) -> Result<pb::ClientHelloResponse, Refusal> {
    if let Caller::Nobody(why) = &cx.caller {
        return Err(Refusal::Unauthenticated((*why).into()));
    }
    let warning = match release(&cx.meta.client_version) {
        Some(version) if version < OLDEST => {
            "this client is older than the releases that palisade is tested with".to_owned()
        }
        Some(_) | None => String::new(),
    };
    let image_builder_version = builder_version(&cx.meta.client_version).to_owned();
    Ok(pb::ClientHelloResponse { warning, image_builder_version, server_warnings: Vec::new() })
}

/// The workspace that the caller's token opens.
pub(super) async fn workspace_name(
    cx: Cx<User>,
    (): (),
) -> Result<pb::WorkspaceNameLookupResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let workspace_name = tokens::workspace_name(&mut db, &cx.scope().workspace).await?;
    Ok(pb::WorkspaceNameLookupResponse { username: workspace_name.clone(), workspace_name })
}

/// What is known of the caller's token.
pub(super) async fn token_info(
    cx: Cx<User>,
    _: pb::TokenInfoGetRequest,
) -> Result<pb::TokenInfoGetResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let workspace = cx.scope().workspace.clone();
    let workspace_name = tokens::workspace_name(&mut db, &workspace).await?;
    let identity =
        pb::UserIdentity { user_id: workspace.to_string(), username: workspace_name.clone() };
    Ok(pb::TokenInfoGetResponse {
        workspace_id: workspace.into(),
        workspace_name,
        identity: Some(pb::token_info_get_response::Identity::UserIdentity(identity)),
        ..pb::TokenInfoGetResponse::default()
    })
}

/// A token that the client echoes with some rpcs. It opens nothing by itself: the transport says
/// who calls. The client reads its `exp` only (modal 1.6.4).
pub(super) async fn auth_token(
    cx: Cx<Member>,
    _: pb::AuthTokenGetRequest,
) -> Result<pb::AuthTokenGetResponse, Refusal> {
    let _ = cx.caller.scope();
    let expires_at_secs = cx.now().0 / 1_000 + AUTH_TOKEN.as_secs();
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let head = part(r#"{"alg":"none","typ":"JWT"}"#);
    let body = part(&format!(r#"{{"exp":{expires_at_secs}}}"#));
    Ok(pb::AuthTokenGetResponse { token: format!("{head}.{body}.{}", part("palisade")) })
}
