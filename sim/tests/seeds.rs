//! Seeds that failed once, then new ones for as long as there is time.
//!
//! `SIM_SECONDS` says for how long (20 by default), `SIM_SEED` where to begin.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn run(seed: u64) -> sim::run::Summary {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(sim::run::run(seed)) {
        Ok(summary) => summary,
        Err(error) => panic!(
            "{error:?}\n\nRun it again: cargo run -p sim -- {seed}\nKeep it: add the line `{seed}` \
             to sim/seeds.txt"
        ),
    }
}

#[test]
fn seeds_that_failed_once() {
    for line in include_str!("../seeds.txt").lines() {
        let seed = line.split('#').next().unwrap_or_default().trim();
        if !seed.is_empty() {
            run(seed.parse().unwrap_or_else(|_| panic!("`{line}` is no seed")));
        }
    }
}

#[test]
fn new_seeds() {
    let until = Instant::now() + Duration::from_secs(number("SIM_SECONDS").unwrap_or(20));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = number("SIM_SEED").unwrap_or(since.as_millis() as u64);
    let mut attempts = 0;
    let mut inputs = 0;
    let mut seed = first;
    while Instant::now() < until || seed == first {
        let summary = run(seed);
        attempts += summary.attempts;
        inputs += summary.inputs;
        seed += 1;
    }
    assert!(inputs > 0 && attempts > 0, "nothing ran");
    eprintln!("{} runs from seed {first}: {inputs} inputs, {attempts} attempts", seed - first);
}

/// An even seed twice is the same run.
#[test]
fn a_seed_repeats_its_run() {
    let (one, two) = (run(8), run(8));
    assert_eq!(format!("{one:?}"), format!("{two:?}"));
}
