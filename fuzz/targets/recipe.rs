//! Recipes: any lines are read or refused.
#![no_main]

use images::limits::RECIPE_STEPS_MAX;
use images::recipe::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // The client sends pieces of several lines each.
    let pieces: Vec<&str> = text.split('\x1e').collect();
    if let Ok(recipe) = parse(&pieces) {
        assert!(!recipe.stages.is_empty());
        let steps: usize = recipe.stages.iter().map(|stage| stage.steps.len()).sum();
        assert!(recipe.globals.len() + steps <= RECIPE_STEPS_MAX);
    }
});
