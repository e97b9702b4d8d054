//! What a definition may say, and what is refused by its name.

use model::Millis;
use model::sandbox::{NetworkRule, Probe, ProbeCheck, Pty};
use tonic::Code;
use wire::client as pb;
use wire::client::network_access::NetworkAccessType as Access;
use wire::rpc::client as names;

use crate::bench::Bench;
use crate::world::{call, refused};

fn access(kind: Access, cidrs: &[&str], domains: &[&str]) -> Option<pb::NetworkAccess> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
    Some(pb::NetworkAccess {
        network_access_type: kind as i32,
        allowed_cidrs: texts(cidrs),
        allowed_domains: texts(domains),
    })
}

fn open(ports: &[u32]) -> Option<pb::sandbox::OpenPortsOneof> {
    let ports = ports.iter().map(|port| pb::PortSpec { port: *port, ..Default::default() });
    let ports = pb::PortSpecs { ports: ports.collect() };
    Some(pb::sandbox::OpenPortsOneof::OpenPorts(ports))
}

fn probe(check: Option<pb::probe::ProbeOneof>, interval_ms: Option<u32>) -> Option<pb::Probe> {
    Some(pb::Probe { probe_oneof: check, interval_ms })
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_by_name() {
    let bench = Bench::new().await;
    type Change = Box<dyn Fn(&mut pb::Sandbox)>;
    let cases: Vec<(&str, &str, Change)> = vec![
        ("timeout", "0 s", Box::new(|s| s.timeout_secs = 0)),
        ("timeout", "a day", Box::new(|s| s.timeout_secs = 86_401)),
        ("idle_timeout", "0 s", Box::new(|s| s.idle_timeout_secs = Some(0))),
        ("workdir", "absolute", Box::new(|s| s.workdir = Some("here".into()))),
        ("workdir", "absolute", Box::new(|s| s.workdir = Some("/a\0b".into()))),
        ("name", "`a b`", Box::new(|s| s.name = Some("a b".into()))),
        ("name", "64", Box::new(|s| s.name = Some("a".repeat(65)))),
        ("name", "64", Box::new(|s| s.name = Some(String::new()))),
        ("name", "an app", Box::new(|s| s.name = Some(format!("ap-{}", "x".repeat(22))))),
        ("open_ports", "port 0", Box::new(|s| s.open_ports_oneof = open(&[0]))),
        ("open_ports", "port 70000", Box::new(|s| s.open_ports_oneof = open(&[70_000]))),
        ("open_ports", "twice", Box::new(|s| s.open_ports_oneof = open(&[80, 80]))),
        (
            "open_ports",
            "block_network",
            Box::new(|s| {
                s.open_ports_oneof = open(&[80]);
                s.network_access = access(Access::Blocked, &[], &[]);
            }),
        ),
        (
            "inbound_cidr_allowlist",
            "block_network",
            Box::new(|s| {
                s.inbound_cidr_allowlist = vec!["10.0.0.0/8".into()];
                s.block_network = true;
            }),
        ),
        (
            "inbound_cidr_allowlist",
            "write 10.0.0.0/8",
            Box::new(|s| s.inbound_cidr_allowlist = vec!["10.0.0.1/8".into()]),
        ),
        (
            "network_access",
            "choose one",
            Box::new(|s| s.network_access = access(Access::Blocked, &["10.0.0.0/8"], &[])),
        ),
        (
            "network_access",
            "not ALLOWLIST",
            Box::new(|s| s.network_access = access(Access::Open, &[], &["a.com"])),
        ),
        (
            "network_access",
            "choose one",
            Box::new(|s| {
                s.block_network = true;
                s.network_access = access(Access::Allowlist, &[], &["a.com"]);
            }),
        ),
        (
            "outbound_cidr_allowlist",
            "1.2.3.4/32",
            Box::new(|s| s.network_access = access(Access::Allowlist, &["1.2.3.4"], &[])),
        ),
        (
            "outbound_domain_allowlist",
            "front only",
            Box::new(|s| s.network_access = access(Access::Allowlist, &[], &["a.*.com"])),
        ),
        (
            "entrypoint_args",
            "70001 bytes",
            Box::new(|s| s.entrypoint_args = vec!["x".repeat(70_000)]),
        ),
        ("entrypoint_args", "zero", Box::new(|s| s.entrypoint_args = vec!["a\0b".into()])),
        (
            "memory",
            "largest worker",
            Box::new(|s| {
                let memory_mb = 1 << 20;
                s.resources = Some(pb::Resources { memory_mb, ..Default::default() });
            }),
        ),
        (
            "memory",
            "beyond the largest",
            Box::new(|s| {
                let memory_mb_max = 1 << 20;
                s.resources = Some(pb::Resources { memory_mb_max, ..Default::default() });
            }),
        ),
        (
            "cpu",
            "cores",
            Box::new(|s| {
                s.resources = Some(pb::Resources { milli_cpu: 64_000, ..Default::default() });
            }),
        ),
        ("readiness_probe", "neither", Box::new(|s| s.readiness_probe = probe(None, None))),
        (
            "readiness_probe",
            "1 or more",
            Box::new(|s| {
                let check = pb::probe::ProbeOneof::TcpPort(80);
                s.readiness_probe = probe(Some(check), Some(0));
            }),
        ),
        ("experimental_options", "`x`", {
            Box::new(|s| s.experimental_options_v2 = [("x".into(), "True".into())].into())
        }),
        ("proxy", "not served", Box::new(|s| s.proxy_id = Some("pr-1".into()))),
        ("enable_snapshot", "memory", Box::new(|s| s.enable_snapshot = true)),
        ("runtime", "leave", Box::new(|s| s.runtime = Some("vm".into()))),
    ];
    for (field, why, change) in cases {
        let request = bench.request_with(change);
        let answer = call::<names::SandboxCreateV2>(&bench.api(), None, request).await;
        let status = answer.unwrap_err();
        let text = status.message();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}, {why}: {status}");
        assert!(text.starts_with(&format!("{field}: ")) && text.contains(why), "{text}");
    }
    let mut request = bench.request();
    let env = pb::StringMap { contents: [("A=B".to_owned(), "1".to_owned())].into() };
    let source = pb::secret_source::Source::Env(env);
    request.secret_sources.push(pb::SecretSource { source: Some(source) });
    let answer = call::<names::SandboxCreateV2>(&bench.api(), None, request).await;
    refused(answer, Code::InvalidArgument, "`A=B`");
}

#[tokio::test]
async fn what_is_kept_reaches_the_worker() {
    let mut bench = Bench::new().await;
    let request = bench.request_with(|s| {
        s.entrypoint_args = Vec::new();
        s.workdir = Some("/work".into());
        s.idle_timeout_secs = Some(20);
        s.network_access =
            access(Access::Allowlist, &["203.0.113.0/24"], &["*.Example.com", "a.org."]);
        s.readiness_probe = probe(Some(pb::probe::ProbeOneof::TcpPort(8_000)), Some(250));
        s.pty_info = Some(pb::PtyInfo {
            enabled: true,
            winsz_rows: 0,
            winsz_cols: 132,
            env_term: "xterm".into(),
            ..Default::default()
        });
        s.resources = Some(pb::Resources {
            milli_cpu: 500,
            milli_cpu_max: 1_000,
            memory_mb: 64,
            memory_mb_max: 128,
            ..Default::default()
        });
        s.verbose = true;
    });
    let (_, start) = bench.create(request).await;
    assert!(start.entrypoint.is_empty());
    assert_eq!(start.workdir.as_deref(), Some("/work"));
    assert_eq!(start.idle_timeout_ms, Some(Millis(20_000)));
    let network = NetworkRule::Listed {
        cidrs: vec!["203.0.113.0/24".parse().unwrap()],
        domains: vec!["*.example.com".into(), "a.org".into()],
    };
    assert_eq!(start.network, network);
    let check = ProbeCheck::Tcp(8_000);
    assert_eq!(start.probe, Some(Probe { check, interval_ms: Millis(250) }));
    let env = vec![("TERM".into(), "xterm".into())];
    assert_eq!(start.pty, Some(Pty { rows: 24, columns: 132, env }));
    assert_eq!((start.limits.memory_bytes, start.limits.cpu_max_millis), (128 << 20, 1_000));
    for (blocked, want) in [(true, NetworkRule::Blocked), (false, NetworkRule::Open)] {
        let request = bench.request_with(|sandbox| sandbox.block_network = blocked);
        let (_, start) = bench.create(request).await;
        assert_eq!(start.network, want);
    }
}

#[tokio::test]
async fn an_allow_list_with_nothing_on_it_allows_nothing() {
    let mut bench = Bench::new().await;
    let request = bench.request_with(|s| s.network_access = access(Access::Allowlist, &[], &[]));
    let (_, start) = bench.create(request).await;
    assert_eq!(start.network, NetworkRule::Listed { cidrs: vec![], domains: vec![] });
}
