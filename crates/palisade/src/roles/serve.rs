//! `palisade serve`: control plane, gateway and one worker in one process, joined by channels.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gateway::routes;
use model::resources::{Capacity, Defaults, MIB};
use model::{EnvironmentId, WorkerId, WorkspaceId};
use plane::api::rows::client_rows;
use plane::api::table::RpcTable;
use plane::{Plane, Transport};
use store::environments::Environment;
use store::{Scope, Store, environments, tokens};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use worker::door::Routes;
use worker::networks::NetworksConfig;
use worker::{Networks, Worker};

use crate::admin::{Desk, Tools};
use crate::config::Serve;
use crate::data::{Access, Data, PYTHONS, Token};
use crate::reach::Reach;
use crate::say;
use crate::shelf::{Shelf, secrets};
use crate::ways::Ways;

/// The port at which a container finds its own blobs, on its own loopback address.
const BLOB_PORT_INSIDE: u16 = 61_017;

/// How long the server may take to end its containers and close its files.
const GRACE: Duration = Duration::from_secs(25);

/// Runs the server until it is told to end.
pub(crate) fn run(serve: Serve) -> Result<()> {
    log(&serve);
    if !rustix::process::geteuid().is_root() {
        bail!("`palisade serve` needs root, to build the containers' walls: run it with sudo");
    }
    let data = Data::make(&serve.data.data_dir)?;
    let lock = data.lock()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(until_told(&serve, &data));
    runtime.shutdown_timeout(Duration::from_secs(5));
    data.remove_access();
    drop(lock);
    result
}

fn log(serve: &Serve) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&serve.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if serve.log_json {
        builder.json().init();
    } else {
        builder.with_ansi(false).init();
    }
}

/// What the machine has for containers: all cores, its memory but for a share of its own, and the
/// disk of the data directory.
fn capacity(serve: &Serve) -> Result<Capacity> {
    let cores = std::thread::available_parallelism()?.get() as u64;
    let memory_bytes = match serve.capacity_mib {
        Some(mib) => mib * MIB,
        None => {
            let total = memory_total_bytes()?;
            total.saturating_sub((total / 8).max(512 * MIB))
        }
    };
    let disk = rustix::fs::statvfs(&serve.data.data_dir).context("the data directory's disk")?;
    let disk_bytes = disk.f_blocks * disk.f_frsize;
    Ok(Capacity { cpu_millis: cores * 1_000, memory_bytes, disk_bytes })
}

fn memory_total_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("/proc/meminfo does not say MemTotal")? * 1_024)
}

/// Makes the workspace, its environment and its token, once.
async fn first_start(store: &Store, data: &Data, plane: &Plane) -> Result<Token> {
    let mut tx = store.begin().await?;
    let workspace = match tokens::first_workspace(&mut tx).await? {
        Some(workspace) => workspace,
        None => {
            let workspace = WorkspaceId::new(plane.bits());
            tokens::insert_workspace(&mut tx, &workspace, "palisade", plane.now()).await?;
            let scope = Scope { workspace: workspace.clone() };
            let environment = Environment {
                id: EnvironmentId::new(plane.bits()),
                name: "main".into(),
                created_at: plane.now(),
            };
            environments::insert(&mut tx, &scope, &environment).await?;
            workspace
        }
    };
    let kept = match data.token()? {
        Some(token) => tokens::get(&mut tx, &token.id).await?.map(|_| token),
        None => None,
    };
    let token = match kept {
        Some(token) => token,
        None => {
            let token = Token {
                id: format!("ak-{}", hex::encode(rand::random::<[u8; 12]>())),
                secret: format!("as-{}", hex::encode(rand::random::<[u8; 24]>())),
            };
            let hash = plane::identity::secret_hash(&token.secret);
            // Whoever deletes the file wants the token gone that was in it.
            tokens::remove_all(&mut tx, &workspace).await?;
            tokens::insert(&mut tx, &token.id, &workspace, &hash, plane.now()).await?;
            data.put_token(&token)?;
            token
        }
    };
    tx.commit().await?;
    Ok(token)
}

/// The worker's id: the same at each start, so that what it ran before is known to be lost.
fn worker_id(path: &Path) -> Result<WorkerId> {
    if let Ok(text) = std::fs::read_to_string(path) {
        return Ok(WorkerId::parse(text.trim())?);
    }
    let id = WorkerId::new(rand::random());
    std::fs::write(path, id.as_str())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(id)
}

/// What one running server consists of.
struct Server {
    plane: Arc<Plane>,
    worker: Arc<Worker>,
    networks: Arc<Networks>,
    ways: Ways,
    worker_id: WorkerId,
    tables: Arc<[RpcTable]>,
    work: JoinSet<()>,
    agent: tokio::task::JoinHandle<()>,
}

async fn until_told(serve: &Serve, data: &Data) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let reach = Reach::open(serve.listen, &serve.reach, data).await?;
    let mut server = start(serve, data, &reach).await?;
    let token = first_start(&server.plane.store, data, &server.plane).await?;
    let shelf = Arc::new(Shelf(server.plane.clone()));
    let routes = routes(&server.plane, &server.tables, Transport::Port)
        .merge(worker::router::service(&server.worker, secrets(&server.plane), shelf));
    let (plane, local) = (server.plane.clone(), routes.clone());
    let listener = UnixListener::from_std(data.listen(crate::calls::SOCKET)?)?;
    let closing = plane.clone();
    server.work.spawn(async move {
        gateway::local::serve(listener, local, closing.closed()).await;
    });
    let Reach { port, speech, url, ca_file, ca_bundle, .. } = reach;
    server.work.spawn(async move { port.serve(routes, &speech, plane.closed()).await });
    data.put_access(&Access {
        server_url: url.clone(),
        token_id: token.id,
        token_secret: token.secret,
        ca_file,
        ca_bundle,
        pid: std::process::id(),
    })?;
    say(format!("palisade is ready at {url} (data in {})", data.dir().display()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to end: containers are ended");
    if tokio::time::timeout(GRACE, stop(server)).await.is_err() {
        bail!("the server did not end within {} s", GRACE.as_secs());
    }
    Ok(())
}

async fn start(serve: &Serve, data: &Data, reach: &Reach) -> Result<Server> {
    let store = Store::open(&data.path("palisade.db")).await?;
    let bytes_max = serve.payload_bytes_max;
    let blobs = blobs::Local::open_limited(data.path("blobs"), bytes_max).await?;
    let config = plane::Config {
        gateway_url: reach.url.clone(),
        blob_port_inside: BLOB_PORT_INSIDE,
        payload_bytes_max: bytes_max,
        defaults: Defaults {
            memory_bytes: serve.memory_mib * MIB,
            pids: serve.pids,
            open_files: serve.open_files,
            disk_bytes: serve.disk_mib * MIB,
        },
        pythons: plane::Pythons::of(data.path(PYTHONS)),
        // Some clients take no other scheme: the port tells TLS by its first byte.
        router_url: reach.url.replacen("http://", "https://", 1),
        router_key: data.router_key()?,
    };
    let plane = Plane::new(store, blobs.clone(), config);
    let tables: Arc<[RpcTable]> = Arc::new([client_rows()]);
    let (report, reports) = mpsc::channel(plane::limits::REPORTS_MAX);
    let (order, orders) = mpsc::channel(plane::limits::ORDERS_MAX);
    let keep = worker::networks_to_keep(&data.path("worker"));
    let keep = keep.context("the sandboxes that an earlier server left cannot be read")?;
    let networks_config = NetworksConfig { keep, ..NetworksConfig::default() };
    let networks = Arc::new(Networks::open(networks_config).await);
    if let Some(why) = networks.missing() {
        tracing::warn!(why, "containers can have no network: functions need block_network=True");
    }
    let worker_config = worker::Config {
        id: worker_id(&data.path("worker-id"))?,
        dir: data.path("worker"),
        pythons: data.path(PYTHONS),
        capacity: capacity(serve)?,
        blob_port: BLOB_PORT_INSIDE,
        sources: images::Sources { mirrors: serve.registry_mirrors.clone() },
        router_key: data.router_key()?,
    };
    let (worker_id, capacity) = (worker_config.id.clone(), worker_config.capacity);
    let doors = door_routes(&plane, &tables);
    let worker = {
        let networks = networks.clone();
        let open = move || Worker::open(worker_config, blobs, doors, networks, report);
        tokio::task::spawn_blocking(open).await??
    };
    tracing::info!(mechanism = %worker.disk().mechanism(), "disk limit of containers");
    let Reach { identity, speech, host_ports, .. } = reach;
    let ways = Ways::new(&plane, &worker, *host_ports, identity, speech.clone());
    plane.set_reach(Arc::new(ways.clone()));
    plane.fleet.join(worker_id.clone(), capacity, order);
    let mut work = JoinSet::new();
    work.spawn(plane::reports::run(plane.clone(), reports));
    let agent = tokio::spawn(worker::agent::run(worker.clone(), orders));
    work.spawn(plane::scheduler::run(plane.clone()));
    work.spawn(plane::builder::run(plane.clone()));
    work.spawn(plane::claims::run(plane.clone()));
    work.spawn(plane::reconcile::run_deadlines(plane.clone()));
    work.spawn(plane::reconcile::run_sweeps(plane.clone()));
    let tools = Tools {
        store: plane.store.clone(),
        builder: worker.builder().clone(),
        worker: data.path("worker"),
    };
    let (desk, closing) = (Desk::open(data)?, plane.clone());
    work.spawn(async move { desk.serve(tools, closing.closed()).await });
    Ok(Server { plane, worker, networks, ways, worker_id, tables, work, agent })
}

/// What stands behind a container's door: the same routes, as that container.
fn door_routes(plane: &Arc<Plane>, tables: &Arc<[RpcTable]>) -> Routes {
    let (plane, tables) = (plane.clone(), tables.clone());
    Routes(Arc::new(move |task| {
        let (plane, tables) = (plane.clone(), tables.clone());
        Box::pin(async move {
            let caller = match plane.identify_task(&task).await {
                Ok(plane::api::gate::Caller::Nobody(_)) => return None,
                Ok(caller) => caller,
                Err(error) => {
                    tracing::error!(%task, %error, "a container cannot be identified");
                    return None;
                }
            };
            let transport = Transport::Door(Box::new(caller));
            Some(routes(&plane, &tables, transport))
        })
    }))
}

/// Takes no work, ends containers, closes files.
async fn stop(server: Server) {
    let Server { plane, worker, networks, ways, worker_id, mut work, agent, .. } = server;
    plane.close();
    // Without a sender the agent's orders end, and it ends what runs.
    plane.fleet.leave(&worker_id);
    if agent.await.is_err() {
        tracing::error!("the worker's agent died");
    }
    ways.close().await;
    let closing = worker.clone();
    if tokio::task::spawn_blocking(move || closing.close()).await.is_err() {
        tracing::error!("the worker could not be closed");
    }
    networks.close().await;
    // The last holder of the way for reports: once it is gone, all are written.
    drop(worker);
    while work.join_next().await.is_some() {}
    // Answers from queues have left while connections were ending, or have not.
    if let Err(error) = plane.settle().await {
        tracing::error!(%error, "items of queues could not be settled");
    }
    plane.store.close().await;
}
