//! Which crate may import which. A new edge is a visible change of this one table.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;

/// For each crate those of our own that it may depend on.
const WALLS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &[]),
    ("blobs", &["model"]),
    ("store", &["model"]),
    ("jail", &[]),
    ("images", &["model", "blobs"]),
    ("fstools", &[]),
    ("fstools-embedded", &["fstools"]),
    ("plane", &["model", "wire", "blobs", "store"]),
    ("worker", &["model", "wire", "blobs", "jail", "images", "fstools-embedded"]),
    ("gateway", &["model", "blobs", "plane"]),
    (
        "palisade",
        &["model", "wire", "blobs", "store", "jail", "images", "plane", "worker", "gateway"],
    ),
    ("sim", &["model", "wire", "blobs", "store", "plane"]),
    ("xtask", &[]),
];

/// The dependencies in `cargo metadata`'s answer that the table does not allow, and the packages
/// that it does not know. What only tests use does not count.
pub(super) fn broken(metadata: &Value) -> Result<Vec<Finding>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let ours: Vec<String> = packages.iter().map(name).collect();
    let mut findings = Vec::new();
    for package in packages {
        let importer = name(package);
        let Some((_, allowed)) = WALLS.iter().find(|(known, _)| *known == importer) else {
            let what = "has no row in the table of xtask/src/tidy/walls.rs";
            findings.push(Finding::new(importer, what));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let imported = name(dependency);
            let forbidden = ours.contains(&imported) && !allowed.contains(&imported.as_str());
            if forbidden && dependency["kind"] != "dev" {
                let what = format!("must not depend on {imported}: see ARCHITECTURE.md");
                findings.push(Finding::new(importer.clone(), what));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(importer: &str, imported: &str, kind: Value) -> Value {
        json!({ "packages": [
            { "name": importer, "dependencies": [{ "name": imported, "kind": kind }] },
            { "name": imported, "dependencies": [{ "name": "serde", "kind": null }] },
        ]})
    }

    fn found(importer: &str, imported: &str, kind: Value) -> Vec<String> {
        let findings = broken(&metadata(importer, imported, kind)).unwrap();
        findings.into_iter().map(|finding| format!("{} {}", finding.place, finding.what)).collect()
    }

    #[test]
    fn a_worker_never_reaches_the_store() {
        let findings = found("worker", "store", Value::Null);
        assert_eq!(findings, ["worker must not depend on store: see ARCHITECTURE.md"]);
        assert_eq!(found("worker", "store", json!("build")).len(), 1);
    }

    #[test]
    fn allowed_edges_and_tests_pass() {
        assert!(found("plane", "store", Value::Null).is_empty());
        assert!(found("worker", "store", json!("dev")).is_empty());
    }

    #[test]
    fn a_new_crate_needs_a_row() {
        let findings = found("queue", "model", Value::Null);
        assert!(findings[0].starts_with("queue has no row"), "{findings:?}");
    }

    #[test]
    fn no_crate_is_allowed_a_circle() {
        for (importer, allowed) in WALLS {
            for imported in *allowed {
                let back = WALLS.iter().find(|(name, _)| name == imported);
                let back = back.unwrap_or_else(|| panic!("{imported} has no row")).1;
                assert!(!back.contains(importer), "{importer} and {imported}");
            }
        }
    }
}
