use serde_json::{Value, json};

use super::*;

fn hex(text: &str) -> String {
    format!("sha256:{}", Digest::of(text.as_bytes()))
}

fn manifest(value: &Value) -> Result<Manifest, ManifestError> {
    parse_manifest(value.to_string().as_bytes())
}

fn layer(kind: &str) -> Value {
    json!({"mediaType": kind, "digest": hex("layer"), "size": 7})
}

fn image(layers: &[Value]) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": null,
        "config": {"digest": hex("config"), "size": 3}, "layers": layers,
    })
}

fn entry(name: &str, os: &str, arch: &str, variant: Option<&str>) -> Value {
    let platform = json!({"os": os, "architecture": arch, "variant": variant});
    json!({"digest": hex(name), "size": 5, "platform": platform})
}

#[test]
fn manifests_of_all_kinds_are_read() {
    let kinds = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "",
    ];
    for kind in kinds {
        let Manifest::Image { config, layers } = manifest(&image(&[layer(kind)])).unwrap() else {
            panic!("{kind} is no image");
        };
        assert_eq!((config.digest, config.size), (Digest::of(b"config"), 3));
        assert_eq!((layers[0].digest, layers[0].size), (Digest::of(b"layer"), 7));
    }
}

#[test]
fn the_image_of_this_machine_is_taken() {
    let (os, arch) = this_platform();
    let index = json!({"schemaVersion": 2, "manifests": [
        entry("attestation", "unknown", "unknown", None),
        entry("other", "linux", "s390x", None),
        entry("newer", os, arch, Some("v3")),
        entry("this", os, arch, None),
    ]});
    let wanted = Descriptor { digest: Digest::of(b"this"), size: 5 };
    assert_eq!(manifest(&index), Ok(Manifest::Index(wanted)));
}

#[test]
fn what_cannot_run_here_says_what_there_is() {
    let (_, arch) = this_platform();
    let index = json!({"manifests": [
        entry("a", "unknown", "unknown", None), entry("b", "linux", "arm", Some("v7")),
        entry("c", "windows", arch, None),
    ]});
    let error = manifest(&index).unwrap_err().to_string();
    let wanted = format!("made for linux/arm/v7, windows/{arch}; this machine is linux/{arch}");
    assert!(error.contains(&wanted), "{error}");
    let config = json!({"os": "linux", "architecture": "s390x", "rootfs": {"diff_ids": []}});
    let error = parse_config(config.to_string().as_bytes(), 0).unwrap_err().to_string();
    assert!(error.contains("linux/s390x; this machine is"), "{error}");
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let check = |value: &Value, part: &str| {
        let error = manifest(value).unwrap_err().to_string();
        assert!(error.contains(part), "{value}: {error}");
    };
    check(&json!({"schemaVersion": 1, "fsLayers": []}), "schema 1");
    check(&json!({"schemaVersion": 2}), "neither layers nor manifests");
    let mut both = image(&[]);
    both["manifests"] = json!([]);
    check(&both, "at once");
    check(&image(&[layer("application/vnd.cncf.helm.chart.content.v1.tar+gzip")]), "helm");
    check(&image(&vec![layer(""); 128]), "128 layers");
    let mut huge = layer("");
    huge["size"] = json!(u64::MAX);
    check(&image(&[huge.clone(), huge]), "bytes together");
    let mut negative = layer("");
    negative["size"] = json!(-1);
    check(&image(&[negative]), "cannot be read");
    let mut md5 = layer("");
    md5["digest"] = json!("md5:aa");
    check(&image(&[md5]), "md5:aa");
    assert!(parse_manifest(b"<html>").is_err());
}

#[test]
fn configurations_become_ours() {
    let value = json!({
        "architecture": this_platform().1, "os": "linux",
        "config": {
            "Env": ["PATH=/bin", "EMPTY=", "BARE"], "User": "me", "WorkingDir": "srv/../app/",
            "Entrypoint": null, "Cmd": ["a", "b"], "Labels": {"k": "v"}, "Shell": ["sh"],
            "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "StopSignal": "SIGQUIT",
        },
        "rootfs": {"type": "layers", "diff_ids": [hex("one")]},
    });
    let read = parse_config(value.to_string().as_bytes(), 1).unwrap();
    assert_eq!(read.diff_ids, [Digest::of(b"one")]);
    let config = read.config;
    assert_eq!(config.env("PATH"), Some("/bin"));
    assert_eq!((config.env("EMPTY"), config.env("BARE")), (Some(""), Some("")));
    assert_eq!((config.user.as_str(), config.workdir()), ("me", "/app"));
    assert!(config.entrypoint.is_empty());
    assert_eq!((config.cmd.join(" "), config.shell.join(" ")), ("a b".into(), "sh".into()));
    assert_eq!(
        (config.exposed.join(""), config.volumes.join("")),
        ("80/tcp".into(), "/data".into())
    );
    assert_eq!((config.labels["k"].as_str(), config.stop_signal.as_str()), ("v", "SIGQUIT"));
    let error = parse_config(value.to_string().as_bytes(), 2).unwrap_err().to_string();
    assert!(error.contains("2 layers, its configuration 1"), "{error}");
    let mut zero = value;
    zero["config"]["User"] = json!("a\0b");
    assert!(parse_config(zero.to_string().as_bytes(), 1).is_err());
}
