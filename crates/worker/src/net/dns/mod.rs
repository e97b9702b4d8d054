//! The resolver of containers with a network.
//!
//! It listens on the gateway's address, knows containers by their own, and asks the resolvers of
//! the host, whatever network those are in; /etc/hosts of the host is not read. An answer never
//! holds an address that the container could not reach: private and special IPv4 addresses and
//! all of IPv6 are taken out of it, in every section, whatever name they are given for. An answer
//! of which nothing is left is an empty one (NOERROR), which programs take as "has no address"
//! without asking again. Only hosts that the container's policy names keep their addresses: each
//! is let through the firewall before the answer is sent.
//!
//! A container with an allow list may ask for the host names of its list only, whatever the type
//! of the record; the others do not exist (NXDOMAIN), and no question for them leaves this
//! process. Without host names in the list no name resolves. The name that is asked for decides:
//! aliases behind it may be called anything. Its addresses pass the firewall before they are told.
//!
//! Refused are zone transfers, ANY, classes other than IN, and reverse lookups of closed ranges
//! do not exist (NXDOMAIN): they would tell of the host's network. AAAA, and SVCB and HTTPS
//! records, which carry addresses of their own, have empty answers.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Name;
use jail::network::{Fabric, Outbound, Policy, TTL_MAX, ranges};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod listen;
mod question;
mod servers;
mod sift;
mod upstream;

use question::Verdict;
use servers::Servers;
use sift::Found;

use crate::limits::{
    DNS_CONNECTIONS_MAX, DNS_CONNECTIONS_PER_CONTAINER_MAX, NAMES_PER_CONTAINER_MAX,
    QUESTION_BYTES_MAX, QUESTIONS_MAX, QUESTIONS_PER_CONTAINER_MAX, UDP_ANSWER_BYTES_MAX,
};

/// Where the resolver listens and whom it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverConfig {
    /// The gateway's address, and the port to which containers' questions are led.
    pub listen: SocketAddr,
    /// The host's resolver configuration, usually /etc/resolv.conf; it is read again when it
    /// changes.
    pub resolv_conf: PathBuf,
}

/// Why the resolver does not run, or does not know a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("listen for names on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("network policy names {0:?}, which is no host name")]
    Name(String),
    #[error("network policy names more than {NAMES_PER_CONTAINER_MAX} hosts")]
    TooMany,
}

/// A running resolver.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// What the resolver's tasks share.
struct Shared {
    containers: Mutex<HashMap<Ipv4Addr, Arc<Container>>>,
    servers: Servers,
    fabric: Arc<Fabric>,
    questions: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("containers", &self.containers).finish_non_exhaustive()
    }
}

/// What is known of one container.
#[derive(Debug)]
struct Container {
    address: Ipv4Addr,
    rights: Mutex<Arc<Rights>>,
    questions: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// What a policy says of names.
#[derive(Debug)]
struct Rights {
    /// Which names may be asked for.
    outbound: Outbound,
    /// Ports of the hosts that the policy names.
    ports: HashMap<Name, Vec<u16>>,
}

/// A container's right to ask; it ends with this value.
#[derive(Debug)]
pub struct Registration {
    container: Arc<Container>,
    shared: Arc<Shared>,
}

/// How a question came, and so how long its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Resolver {
    /// Listens by UDP and TCP. `fabric` lets the addresses of named hosts pass before their answer
    /// is sent. Port 0 takes a free one.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub async fn start(config: ResolverConfig, fabric: Arc<Fabric>) -> Result<Self, Error> {
        let failed = |error| Error::Listen(config.listen, error);
        let udp = UdpSocket::bind(config.listen).await.map_err(failed)?;
        let address = udp.local_addr().map_err(failed)?;
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let shared = Arc::new(Shared {
            containers: Mutex::default(),
            servers: Servers::new(config.resolv_conf),
            fabric,
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            connections: Arc::new(Semaphore::new(DNS_CONNECTIONS_MAX)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(listen::by_udp(Arc::clone(&shared), udp));
        shared.tasks.spawn(listen::by_tcp(Arc::clone(&shared), tcp));
        Ok(Self { shared, address })
    }

    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the container at `address` ask for what `policy` allows. An earlier registration of
    /// the same address ends.
    ///
    /// # Errors
    /// A name that is none, or too many of them.
    pub fn register(&self, address: Ipv4Addr, policy: &Policy) -> Result<Registration, Error> {
        let container = Arc::new(Container {
            address,
            rights: Mutex::new(Arc::new(Rights::of(policy)?)),
            questions: Arc::new(Semaphore::new(QUESTIONS_PER_CONTAINER_MAX)),
            connections: Arc::new(Semaphore::new(DNS_CONNECTIONS_PER_CONTAINER_MAX)),
        });
        lock(&self.shared.containers).insert(address, Arc::clone(&container));
        Ok(Registration { container, shared: Arc::clone(&self.shared) })
    }

    /// Stops listening and waits until nothing of it runs any more.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Registration {
    /// Judges the container's questions by `policy` from now on.
    ///
    /// # Errors
    /// As [`Resolver::register`]; then the old policy stands.
    pub fn set_policy(&self, policy: &Policy) -> Result<(), Error> {
        let rights = Arc::new(Rights::of(policy)?);
        *lock(&self.container.rights) = rights;
        Ok(())
    }
}

impl Rights {
    fn of(policy: &Policy) -> Result<Self, Error> {
        if policy.names.len() > NAMES_PER_CONTAINER_MAX {
            return Err(Error::TooMany);
        }
        let mut ports: HashMap<Name, Vec<u16>> = HashMap::new();
        for (name, port) in &policy.names {
            let parsed = Name::from_ascii(name).ok().filter(|parsed| !parsed.is_root());
            let parsed = parsed.ok_or_else(|| Error::Name(name.clone()))?;
            ports.entry(folded(&parsed)).or_default().push(*port);
        }
        Ok(Self { outbound: policy.outbound.clone(), ports })
    }

    /// The answer to a question that may not be asked.
    fn refusal(&self, asked: &Message) -> Option<ResponseCode> {
        let [question] = asked.queries.as_slice() else { return None };
        let name = folded(&question.name).to_ascii();
        match asked.metadata.op_code {
            OpCode::Query if self.outbound.allows(&name) => None,
            OpCode::Query if self.outbound.allows_below(&name) => Some(ResponseCode::NoError),
            OpCode::Query => Some(ResponseCode::NXDomain),
            _ => None,
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut containers = lock(&self.shared.containers);
        let address = self.container.address;
        if containers.get(&address).is_some_and(|now| Arc::ptr_eq(now, &self.container)) {
            containers.remove(&address);
        }
    }
}

impl Shared {
    /// The container that has the address, if it may ask.
    fn container(&self, peer: SocketAddr) -> Option<Arc<Container>> {
        match peer.ip() {
            IpAddr::V4(ip) => lock(&self.containers).get(&ip).cloned(),
            IpAddr::V6(_) => None,
        }
    }

    /// The answer to a container's message; `None` where there is nothing to say, because it is
    /// no question at all.
    async fn answer(
        self: &Arc<Self>,
        container: &Container,
        bytes: &[u8],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let asked = match parse(bytes) {
            Ok(asked) => asked,
            Err(reply) => return reply,
        };
        let rights = Arc::clone(&lock(&container.rights));
        let reply =
            match rights.refusal(&asked).map_or_else(|| question::judge(&asked), Verdict::Answer) {
                Verdict::Answer(code) => reply_to(&asked, code),
                Verdict::Ask => self.forward(container.address, &rights, &asked).await,
            };
        encode(&reply, &asked, transport)
    }

    /// Asks the host's resolvers, and takes out of the answer what is closed.
    async fn forward(
        self: &Arc<Self>,
        container: Ipv4Addr,
        rights: &Rights,
        asked: &Message,
    ) -> Message {
        let Some(question) = asked.queries.first() else {
            return reply_to(asked, ResponseCode::FormErr);
        };
        let servers = self.servers.current().await;
        let Some(answer) = upstream::ask(&servers, question).await else {
            return reply_to(asked, ResponseCode::ServFail);
        };
        let mut reply = reply_to(asked, answer.metadata.response_code);
        let found = sift::addresses(&answer, question);
        if rights.outbound == Outbound::Open {
            let admitted = self.admit(container, rights, question, &found).await;
            let passes = |ip| admitted.contains(&ip) || !ranges::refused(ip);
            sift::fill(&mut reply, answer, question, passes);
            return reply;
        }
        let Some(listed) = self.admit_listed(container, question, &found).await else {
            return reply_to(asked, ResponseCode::ServFail);
        };
        sift::fill(&mut reply, answer, question, |ip| listed.contains(&ip));
        let ttl_max = u32::try_from(TTL_MAX.as_secs()).unwrap_or(u32::MAX);
        reply.answers.iter_mut().for_each(|record| record.ttl = record.ttl.min(ttl_max));
        reply
    }

    /// The addresses of a host that the policy names that are let through; none if they cannot
    /// be. What is told besides is remembered, in case that the policy becomes a list.
    async fn admit(
        self: &Arc<Self>,
        container: Ipv4Addr,
        rights: &Rights,
        question: &Query,
        found: &Found,
    ) -> Vec<Ipv4Addr> {
        let Some(ports) = rights.ports.get(&folded(&question.name)) else {
            let name = folded(&question.name).to_ascii();
            self.fabric.hear(container, &name, &found.open(), found.time());
            return Vec::new();
        };
        let pairs = |ip: &Ipv4Addr| ports.iter().map(|port| (*ip, *port)).collect::<Vec<_>>();
        let to: Vec<_> = found.addresses.iter().flat_map(pairs).collect();
        let (fabric, time) = (Arc::clone(&self.fabric), found.time());
        let admit = move || to.is_empty() || passed(fabric.allow_all(container, &to, time));
        match tokio::task::spawn_blocking(admit).await {
            Ok(true) => found.addresses.clone(),
            _ => Vec::new(),
        }
    }

    /// The addresses of a name on the container's list, which pass now; `None` if they cannot be
    /// let through.
    async fn admit_listed(
        self: &Arc<Self>,
        container: Ipv4Addr,
        question: &Query,
        found: &Found,
    ) -> Option<Vec<Ipv4Addr>> {
        let addresses = found.open();
        if addresses.is_empty() {
            return Some(addresses);
        }
        let (fabric, time) = (Arc::clone(&self.fabric), found.time());
        let (name, to) = (folded(&question.name).to_ascii(), addresses.clone());
        let admit = move || passed(fabric.admit_named(container, &name, &to, time));
        tokio::task::spawn_blocking(admit).await.ok()?.then_some(addresses)
    }
}

fn passed(admitted: jail::network::Result<()>) -> bool {
    if let Err(error) = &admitted {
        tracing::debug!(%error, "the addresses of a name are not let through");
    }
    admitted.is_ok()
}

/// The message as a question, or what to answer to what is none.
fn parse(bytes: &[u8]) -> Result<Message, Option<Vec<u8>>> {
    // Answers are never answered: two resolvers could go on for ever.
    let is_answer = bytes.get(2).is_none_or(|flags| flags & 0x80 != 0);
    if bytes.len() < 12 || is_answer {
        return Err(None);
    }
    let malformed = |_| {
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
    };
    if bytes.len() > QUESTION_BYTES_MAX {
        return Err(malformed(()));
    }
    Message::from_vec(bytes).map_err(|_| malformed(()))
}

/// An empty answer to `asked`.
fn reply_to(asked: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries = asked.queries.iter().take(1).cloned().collect();
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_ANSWER_BYTES_MAX);
        reply.edns = Some(edns);
    }
    reply
}

/// The bytes of `reply`, or of one without records that says that it is too long for UDP.
fn encode(reply: &Message, asked: &Message, transport: Transport) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    let room = match transport {
        Transport::Tcp => crate::limits::TCP_ANSWER_BYTES_MAX,
        // Without EDNS a program is prepared for 512 bytes (RFC 1035, 2.3.4).
        Transport::Udp => {
            let room = asked.edns.as_ref().map_or(512, |edns| edns.max_payload().max(512));
            usize::from(room.min(UDP_ANSWER_BYTES_MAX))
        }
    };
    if bytes.len() <= room {
        return Some(bytes);
    }
    let mut short = reply_to(asked, reply.metadata.response_code);
    short.metadata.truncation = true;
    short.to_vec().ok()
}

/// The name as names are compared: without case, with its final dot.
fn folded(name: &Name) -> Name {
    let mut name = name.to_lowercase();
    name.set_fqdn(true);
    name
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
