//! What the worker answers by itself: what a sandbox may reach, and its volumes.

use http::{Request, Response};
use model::sandbox::NetworkRule;
use model::{TaskId, allowed};
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;
use wire::client::NetworkAccess;
use wire::client::network_access::NetworkAccessType;
use wire::router as pb;

use super::Desk;
use crate::sandbox::policy;

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
            let refused = |error| Status::invalid_argument(format!("network_access: {error}"));
            policy(&rule).map_or(Ok(()), |policy| policy.check()).map_err(refused)?;
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
            let range = |text: &String| {
                allowed::range(text).map_err(|why| invalid(format!("allowed_cidrs: {why}")))
            };
            let domain = |text: &String| {
                allowed::domain(text).map_err(|why| invalid(format!("allowed_domains: {why}")))
            };
            let cidrs = access.allowed_cidrs.iter().map(range).collect::<Result<_, _>>()?;
            let domains = access.allowed_domains.iter().map(domain).collect::<Result<_, _>>()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_strictly_as_when_a_sandbox_is_made() {
        let listed = |cidr: &str, domain: &str| NetworkAccess {
            network_access_type: NetworkAccessType::Allowlist.into(),
            allowed_cidrs: vec![cidr.into()],
            allowed_domains: vec![domain.into()],
        };
        assert!(rule(listed("192.0.2.0/24", "*.Example.com.")).is_ok());
        for (cidr, domain, field) in [
            ("010.0.0.0/8", "example.com", "allowed_cidrs"),
            ("10.1.0.0/8", "example.com", "allowed_cidrs"),
            ("192.0.2.1", "example.com", "allowed_cidrs"),
            ("192.0.2.0/24", "", "allowed_domains"),
            ("192.0.2.0/24", "example.com..", "allowed_domains"),
            ("192.0.2.0/24", "192.0.2.1", "allowed_domains"),
            ("192.0.2.0/24", "a\" }; flush ruleset", "allowed_domains"),
        ] {
            let refused = rule(listed(cidr, domain)).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(field), "{cidr} {domain}: {refused}");
        }
    }
}
