//! Requests that are almost right: each known request with bytes changed, cut out, doubled. The
//! answer may be anything but a fault of the server.

use std::time::Duration;

use tonic::Code;

use crate::place::{Place, Who};
use crate::raw::{frame, pieces, request, send};
use crate::scope::{Case, foreign, foreign_to_container};

/// Mutants of each request.
const MUTANTS: u64 = 12;

/// The next of a sequence of numbers without an order (splitmix64).
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

fn below(seed: &mut u64, most: usize) -> usize {
    usize::try_from(next(seed) % most.max(1) as u64).unwrap()
}

fn mutant(message: &[u8], seed: &mut u64) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for _ in 0..=below(seed, 3) {
        let at = below(seed, bytes.len());
        match below(seed, 6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(seed, 8),
            1 if !bytes.is_empty() => bytes[at] = u8::try_from(below(seed, 256)).unwrap(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, u8::try_from(below(seed, 256)).unwrap()),
            4 => bytes.extend_from_slice(message),
            _ => bytes.splice(at..at, [0xff; 9]).for_each(drop),
        }
    }
    bytes
}

async fn check(place: &Place, who: Who, cases: Vec<Case>, first: u64) {
    let (api, headers) = (place.api(who).await, place.headers(who));
    for (name, message) in cases {
        for n in 0..MUTANTS {
            let mut seed = first + n;
            let bytes = mutant(&message, &mut seed);
            let path = format!("/{}/{name}", wire::CLIENT_SERVICE);
            let request = request(&path, &headers, pieces(vec![frame(&bytes)]));
            // What is held is a poll that has begun: that is an answer, too.
            let answer = send(api.clone(), request, Duration::from_millis(50)).await;
            let Some(answer) = answer else { continue };
            let faults = [Code::Internal, Code::Unknown, Code::DataLoss, Code::Unavailable];
            let text = format!("{name} as {who:?} with {bytes:02x?}: {answer:?}");
            assert!(!faults.contains(&answer.code), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_a_fault_of_the_server() {
    let seed = rand::random::<u64>() >> 1;
    println!("seed {seed}");
    let place = Place::new().await;
    let (ours, theirs) = (&place.ours, &place.theirs);
    for who in [Who::User, Who::Task] {
        check(&place, who, foreign(ours, theirs), seed).await;
        check(&place, who, foreign(ours, ours), seed).await;
    }
    for who in [Who::Task, Who::Restricted] {
        check(&place, who, foreign_to_container(ours, theirs), seed).await;
        check(&place, who, foreign_to_container(ours, ours), seed).await;
    }
}
