//! Taking closed addresses out of answers.

use std::net::Ipv4Addr;
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use jail::network::ranges;

use super::folded;
use crate::limits::{ADMITTED_PER_ANSWER_MAX, ADMITTED_SECONDS_MIN};

/// The addresses that an answer gives for the name that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<Ipv4Addr>,
    /// The shortest time to live among them.
    pub(super) ttl_seconds: u64,
}

impl Found {
    /// Those that are closed to nobody.
    pub(super) fn open(&self) -> Vec<Ipv4Addr> {
        self.addresses.iter().copied().filter(|ip| !ranges::refused(*ip)).collect()
    }

    /// For how long they are to pass.
    pub(super) fn time(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds.max(ADMITTED_SECONDS_MIN))
    }
}

/// The addresses at the end of the question's chain of aliases, but for those that no container
/// may reach.
pub(super) fn addresses(answer: &Message, question: &Query) -> Found {
    let mut found = Found { addresses: Vec::new(), ttl_seconds: u64::MAX };
    let names = chain(answer, &question.name);
    for record in &answer.answers {
        let RData::A(ip) = &record.data else { continue };
        let is_new = !found.addresses.contains(&ip.0);
        if names.contains(&folded(&record.name))
            && is_new
            && !ranges::never(ip.0)
            && found.addresses.len() < ADMITTED_PER_ANSWER_MAX
        {
            found.addresses.push(ip.0);
            found.ttl_seconds = found.ttl_seconds.min(u64::from(record.ttl));
        }
    }
    found
}

/// The name and its aliases, in the order in which they follow each other.
fn chain(answer: &Message, name: &Name) -> Vec<Name> {
    let mut names = vec![folded(name)];
    // Each alias is followed once, so that circles end.
    for _ in 0..answer.answers.len() {
        let last = &names[names.len() - 1];
        let next = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(to) if folded(&record.name) == *last => Some(folded(&to.0)),
            _ => None,
        });
        match next {
            Some(next) if !names.contains(&next) => names.push(next),
            _ => break,
        }
    }
    names
}

/// Moves into `reply` what of `answer` may be told: in every section only addresses that pass,
/// and nothing at all if no address that was asked for does.
pub(super) fn fill(
    reply: &mut Message,
    answer: Message,
    question: &Query,
    passes: impl Fn(Ipv4Addr) -> bool,
) {
    let had_addresses = answer.answers.iter().any(is_address);
    let keep = |record: &Record| match &record.data {
        RData::A(ip) => passes(ip.0),
        RData::AAAA(_) | RData::HTTPS(_) | RData::SVCB(_) => false,
        _ => true,
    };
    reply.answers = answer.answers.into_iter().filter(keep).collect();
    reply.authorities = answer.authorities.into_iter().filter(keep).collect();
    if question.query_type == RecordType::A
        && had_addresses
        && !reply.answers.iter().any(is_address)
    {
        // Aliases without an address at their end would tell names of the host's network.
        reply.answers.clear();
    }
}

fn is_address(record: &Record) -> bool {
    matches!(record.data, RData::A(_))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, AAAA, CNAME};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("name")
    }

    fn a(owner: &str, ip: [u8; 4]) -> Record {
        Record::from_rdata(name(owner), 30, RData::A(A(ip.into())))
    }

    fn alias(owner: &str, to: &str) -> Record {
        Record::from_rdata(name(owner), 30, RData::CNAME(CNAME(name(to))))
    }

    /// The addresses left of an answer to a question for example.org.
    fn check(records: Vec<Record>, admitted: &[[u8; 4]], want: &[[u8; 4]]) -> Message {
        let question = Query::query(name("example.org."), RecordType::A);
        let mut answer = Message::query();
        answer.insert_answers(records);
        let mut reply = Message::query();
        let admitted: Vec<_> = admitted.iter().map(|ip| Ipv4Addr::from(*ip)).collect();
        fill(&mut reply, answer, &question, |ip| admitted.contains(&ip) || !ranges::refused(ip));
        let ips: Vec<_> = reply
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::A(ip) => Some(ip.0.octets()),
                _ => None,
            })
            .collect();
        assert_eq!(ips, want);
        reply
    }

    #[test]
    fn closed_addresses_are_taken_out() {
        let public = [203, 0, 113, 9];
        let mixed = vec![
            a("example.org.", [10, 0, 0, 1]),
            a("example.org.", public),
            a("example.org.", [169, 254, 169, 254]),
            Record::from_rdata(
                name("example.org."),
                30,
                RData::AAAA(AAAA("::1".parse().expect("ip"))),
            ),
        ];
        let reply = check(mixed, &[], &[public]);
        assert_eq!(reply.answers.len(), 1);
        let closed = vec![alias("example.org.", "db.corp."), a("db.corp.", [10, 0, 0, 1])];
        let reply = check(closed.clone(), &[], &[]);
        assert!(reply.answers.is_empty(), "the alias is told: {:?}", reply.answers);
        let reply = check(closed, &[[10, 0, 0, 1]], &[[10, 0, 0, 1]]);
        assert_eq!(reply.answers.len(), 2);
    }

    #[test]
    fn only_addresses_at_the_end_of_the_chain_are_found() {
        let question = Query::query(name("Example.org."), RecordType::A);
        let mut answer = Message::query();
        answer.insert_answers(vec![
            a("c.example.", [10, 0, 0, 3]),
            a("other.example.", [10, 0, 0, 4]),
            a("c.example.", [127, 0, 0, 1]),
            alias("b.example.", "C.example."),
            alias("example.org.", "b.example."),
            alias("c.example.", "b.example."),
        ]);
        let found = addresses(&answer, &question);
        assert_eq!(found.addresses, [Ipv4Addr::new(10, 0, 0, 3)]);
        assert_eq!(found.ttl_seconds, 30);
    }
}
