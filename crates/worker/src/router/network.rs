//! What the worker answers by itself: what a sandbox may reach, and its volumes.

use http::{Request, Response};
use model::TaskId;
use model::sandbox::NetworkRule;
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;
use wire::client::NetworkAccess;
use wire::client::network_access::NetworkAccessType;
use wire::router as pb;

use super::Desk;

/// Replaces what a sandbox may reach.
pub(super) async fn set(
    desk: &Desk,
    task: &TaskId,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let set = tower::service_fn(|request: tonic::Request<pb::TaskSetNetworkAccessRequest>| {
        let (desk, task) = (desk.clone(), task.clone());
        async move {
            let request = request.into_inner();
            super::check_task(&task, &request.task_id)?;
            let missing = || Status::invalid_argument("network_access: it is missing");
            let rule = rule(request.network_access.ok_or_else(missing)?)?;
            let sandbox = desk.running(&task)?;
            let worker = desk.worker()?;
            let done = tokio::task::spawn_blocking(move || sandbox.set_network(&worker, rule));
            let died = |_| Status::internal("a thread of the worker died");
            done.await.map_err(died)?.map_err(|error| Status::internal(error.to_string()))?;
            Ok(tonic::Response::new(pb::TaskSetNetworkAccessResponse {}))
        }
    });
    let codec =
        ProstCodec::<pb::TaskSetNetworkAccessResponse, pb::TaskSetNetworkAccessRequest>::default();
    Ok(Grpc::new(codec).unary(set, request).await)
}

/// What a request allows.
fn rule(access: NetworkAccess) -> Result<NetworkRule, Status> {
    let invalid = |why: String| Status::invalid_argument(format!("network_access.{why}"));
    let kind = NetworkAccessType::try_from(access.network_access_type);
    let is_listed = !access.allowed_cidrs.is_empty() || !access.allowed_domains.is_empty();
    match kind {
        Ok(NetworkAccessType::Open) if !is_listed => Ok(NetworkRule::Open),
        Ok(NetworkAccessType::Blocked) if !is_listed => Ok(NetworkRule::Blocked),
        Ok(NetworkAccessType::Open | NetworkAccessType::Blocked) => {
            Err(invalid("network_access_type: lists need ALLOWLIST".into()))
        }
        Ok(NetworkAccessType::Allowlist) => {
            let cidr = |text: &String| match text.parse::<ipnet::IpNet>() {
                Ok(range) if range.trunc() == range => Ok(range),
                Ok(range) => Err(invalid(format!(
                    "allowed_cidrs: {text} has bits set beyond its prefix: write {}",
                    range.trunc()
                ))),
                Err(_) => Err(invalid(format!("allowed_cidrs: {text:?} is no range"))),
            };
            let cidrs = access.allowed_cidrs.iter().map(cidr).collect::<Result<_, _>>()?;
            let plain = |name: String| name.trim_end_matches('.').to_lowercase();
            let domains = access.allowed_domains.into_iter().map(plain).collect();
            Ok(NetworkRule::Listed { cidrs, domains })
        }
        Ok(NetworkAccessType::Unspecified) | Err(_) => Err(invalid(format!(
            "network_access_type: {} is not known",
            access.network_access_type
        ))),
    }
}

/// Says that volumes are up to date: there are none.
pub(super) async fn reload_volumes(
    desk: &Desk,
    task: &TaskId,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let reload = tower::service_fn(|request: tonic::Request<pb::TaskReloadVolumesRequest>| {
        let (desk, task) = (desk.clone(), task.clone());
        async move {
            super::check_task(&task, &request.get_ref().task_id)?;
            desk.running(&task)?;
            Ok(tonic::Response::new(pb::TaskReloadVolumesResponse {}))
        }
    });
    let codec =
        ProstCodec::<pb::TaskReloadVolumesResponse, pb::TaskReloadVolumesRequest>::default();
    Ok(Grpc::new(codec).unary(reload, request).await)
}
