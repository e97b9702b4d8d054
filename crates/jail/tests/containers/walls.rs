//! The walls, seen from inside.

use crate::ground::Ground;

#[test]
fn runs_a_program() {
    let ground = Ground::new();
    assert_eq!(ground.say("echo hello; echo $ONLY; env | wc -l"), "hello\nthis\n4");
}
