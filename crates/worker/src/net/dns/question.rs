//! Which questions are asked of the host's resolvers, and which are answered here.

use std::net::IpAddr;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use jail::network::ranges;

/// What to do with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask the host's resolvers.
    Ask,
    /// Answer with this code and no records.
    Answer(ResponseCode),
}

/// Judges a well-formed message.
pub(super) fn judge(asked: &Message) -> Verdict {
    if asked.metadata.op_code != OpCode::Query {
        return Verdict::Answer(ResponseCode::NotImp);
    }
    match asked.queries.as_slice() {
        [question] => judge_question(question),
        _ => Verdict::Answer(ResponseCode::FormErr),
    }
}

fn judge_question(question: &Query) -> Verdict {
    if question.query_class != DNSClass::IN {
        return Verdict::Answer(ResponseCode::Refused);
    }
    match question.query_type {
        RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB => {
            Verdict::Answer(ResponseCode::NoError)
        }
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR | RecordType::OPT => {
            Verdict::Answer(ResponseCode::Refused)
        }
        RecordType::PTR if !is_open_reverse(question) => Verdict::Answer(ResponseCode::NXDomain),
        _ => Verdict::Ask,
    }
}

/// Whether a reverse lookup is one of an open address, or (as service discovery does) of a name.
fn is_open_reverse(question: &Query) -> bool {
    let name = question.name.to_lowercase().to_ascii();
    let name = name.trim_end_matches('.');
    if !name.ends_with(".arpa") && name != "arpa" {
        return true;
    }
    match question.name.parse_arpa_name() {
        Ok(net) => match net.addr() {
            IpAddr::V4(ip) => net.prefix_len() == 32 && !ranges::refused(ip),
            IpAddr::V6(_) => false,
        },
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;

    use super::*;

    fn check(name: &str, kind: RecordType, want: Verdict) {
        let mut asked = Message::query();
        let name = Name::from_ascii(name).expect("name");
        asked.add_query(Query::query(name.clone(), kind));
        assert_eq!(judge(&asked), want, "{name} {kind}");
    }

    #[test]
    fn questions_are_judged_by_their_type_and_name() {
        let empty = Verdict::Answer(ResponseCode::NoError);
        let refused = Verdict::Answer(ResponseCode::Refused);
        let absent = Verdict::Answer(ResponseCode::NXDomain);
        check("example.org.", RecordType::A, Verdict::Ask);
        check("example.org.", RecordType::MX, Verdict::Ask);
        check("example.org.", RecordType::TXT, Verdict::Ask);
        check("example.org.", RecordType::AAAA, empty);
        check("example.org.", RecordType::HTTPS, empty);
        check("example.org.", RecordType::ANY, refused);
        check("example.org.", RecordType::AXFR, refused);
        check("9.113.0.203.in-addr.arpa.", RecordType::PTR, Verdict::Ask);
        check("1.0.0.10.IN-ADDR.ARPA.", RecordType::PTR, absent);
        check("254.169.254.169.in-addr.arpa.", RecordType::PTR, absent);
        check("0.10.in-addr.arpa.", RecordType::PTR, absent);
        check("b.a.ip6.arpa.", RecordType::PTR, absent);
        check("_http._tcp.example.org.", RecordType::PTR, Verdict::Ask);
    }

    #[test]
    fn what_is_no_single_question_is_malformed() {
        let mut asked = Message::query();
        assert_eq!(judge(&asked), Verdict::Answer(ResponseCode::FormErr));
        let question = Query::query(Name::from_ascii("a.").expect("name"), RecordType::A);
        asked.add_query(question.clone()).add_query(question);
        assert_eq!(judge(&asked), Verdict::Answer(ResponseCode::FormErr));
        asked.metadata.op_code = OpCode::Update;
        assert_eq!(judge(&asked), Verdict::Answer(ResponseCode::NotImp));
    }
}
