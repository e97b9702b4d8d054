//! What steps get of a host's settings, by examples.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Host, ImageApt, Passthrough, SETTINGS_DIR, Sharing, collect, image_apt, suite_of};

/// A host with these files and variables.
struct Case {
    root: tempfile::TempDir,
    host: Host,
}

impl Case {
    fn new(files: &[(&str, &str)], env: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let env: BTreeMap<String, String> = env.iter().map(pair).collect();
        let (home, apt_options) = (PathBuf::from("/root"), Vec::new());
        let host = Host { root: root.path().to_owned(), home, env, apt_options };
        Self { root, host }
    }

    fn collect(&self, passwords: bool) -> Passthrough {
        self.collect_for(false, passwords)
    }

    fn collect_for(&self, has_stanzas: bool, passwords: bool) -> Passthrough {
        let image = ImageApt { suite: "trixie".to_owned(), has_stanzas };
        collect(&self.host, Some(&image), Sharing { passwords }).unwrap()
    }
}

fn env<'p>(passthrough: &'p Passthrough, name: &str) -> Option<&'p str> {
    let found = passthrough.env.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

fn file(passthrough: &Passthrough, name: &str) -> Option<String> {
    let path = PathBuf::from(SETTINGS_DIR).join(name);
    let found = passthrough.files.iter().find(|(known, _)| *known == path);
    found.map(|(_, content)| String::from_utf8(content.clone()).unwrap())
}

fn host(name: &str, port: u16) -> (String, u16) {
    (name.to_owned(), port)
}

#[test]
fn a_host_without_settings_gives_only_where_debian_is() {
    let passthrough = Case::new(&[], &[]).collect(false);
    assert_eq!(passthrough.env, []);
    assert_eq!(passthrough.files, []);
    assert_eq!(passthrough.binds, []);
    assert_eq!(passthrough.hosts.len(), 1);
}

#[test]
fn pips_variables_win_over_its_files() {
    let conf = "[global]\nindex-url = https://file.test/simple\ntimeout = 9\n\
        extra-index-url =\n  https://one.test/simple\n  https://two.test:444/simple\n\
        [list]\nproxy = http://not.test\n";
    let variables = [("PIP_INDEX_URL", "https://env.test/simple"), ("PIP_DEFAULT_TIMEOUT", "180")];
    let passthrough = Case::new(&[("etc/pip.conf", conf)], &variables).collect(false);
    assert_eq!(env(&passthrough, "PIP_INDEX_URL"), Some("https://env.test/simple"));
    assert_eq!(env(&passthrough, "PIP_TIMEOUT"), Some("180"));
    let extra = "https://one.test/simple https://two.test:444/simple";
    assert_eq!(env(&passthrough, "PIP_EXTRA_INDEX_URL"), Some(extra));
    assert_eq!(env(&passthrough, "PIP_PROXY"), None);
    assert_eq!(env(&passthrough, "UV_INDEX_URL"), Some("https://env.test/simple"));
    assert!(passthrough.hosts.contains(&host("env.test", 443)));
    assert!(passthrough.hosts.contains(&host("two.test", 444)));
    assert!(!passthrough.hosts.contains(&host("file.test", 443)));
}

#[test]
fn folders_of_wheels_are_mounted_if_they_are_there() {
    let case = Case::new(
        &[("opt/wheels/a.whl", "")],
        &[
            ("PIP_FIND_LINKS", "/opt/wheels /opt/none https://w.test/ ./here"),
            ("UV_FIND_LINKS", "/opt/wheels,/opt/none"),
        ],
    );
    let passthrough = case.collect(false);
    let inside = format!("{SETTINGS_DIR}/paths/0");
    let links = format!("{inside} https://w.test/");
    assert_eq!(env(&passthrough, "PIP_FIND_LINKS"), Some(links.as_str()));
    assert_eq!(env(&passthrough, "UV_FIND_LINKS"), Some(inside.as_str()));
    let bind = (case.root.path().join("opt/wheels"), PathBuf::from(&inside));
    assert_eq!(passthrough.binds, [bind]);

    let passthrough = Case::new(&[], &[("PIP_FIND_LINKS", "/opt/none")]).collect(false);
    assert_eq!(env(&passthrough, "PIP_FIND_LINKS"), None);
    assert_eq!(passthrough.binds, []);
}

#[test]
fn passwords_stay_out_unless_they_are_shared() {
    let files = [
        ("root/.npmrc", "registry=https://npm.test/\n//npm.test/:_authToken=secret\n"),
        ("etc/apt/auth.conf", "machine m.test login u password secret\n"),
        ("etc/apt/sources.list", "deb https://u:secret@m.test/debian bookworm main\n"),
    ];
    let variables = [
        ("PIP_INDEX_URL", "https://u:secret@i.test/simple"),
        ("HTTPS_PROXY", "http://u:secret@p.test:3128"),
    ];
    let mut case = Case::new(&files, &variables);
    case.host.apt_options = vec!["Acquire::http::Proxy \"http://u:secret@p.test:1\";".to_owned()];
    let passthrough = case.collect(false);
    let everything = format!("{:?} {:?}", passthrough.env, passthrough.files);
    assert!(!everything.contains("secret"), "{everything}");
    assert_eq!(env(&passthrough, "npm_config_registry"), Some("https://npm.test/"));
    let wanted = [
        "HTTPS_PROXY",
        "PIP_INDEX_URL",
        "UV_INDEX_URL",
        "~/.npmrc",
        "apt's Acquire::http::Proxy",
        "apt's sources",
        "/etc/apt/auth.conf",
    ];
    assert_eq!(passthrough.left_out, wanted);

    let passthrough = case.collect(true);
    assert_eq!(passthrough.left_out, Vec::<String>::new());
    assert_eq!(env(&passthrough, "PIP_INDEX_URL"), Some("https://u:secret@i.test/simple"));
    assert!(file(&passthrough, "npmrc").unwrap().contains("_authToken"));
    assert!(file(&passthrough, "apt-auth.conf").unwrap().contains("secret"));
    assert!(file(&passthrough, "sources.list").unwrap().contains("trixie-updates"));
    assert!(!format!("{passthrough:?} {case:?}", case = case.host).contains("secret"));
}

#[test]
fn the_hosts_certificates_get_a_path_of_their_own() {
    let files = [("etc/ssl/certs/ca-certificates.crt", "system"), ("opt/own.crt", "own")];
    let inside = format!("{SETTINGS_DIR}/ca-certificates.crt");
    for (variables, wanted) in [(&[][..], "system"), (&[("PIP_CERT", "/opt/own.crt")], "own")] {
        let passthrough = Case::new(&files, variables).collect(false);
        assert_eq!(file(&passthrough, "ca-certificates.crt").as_deref(), Some(wanted));
        for name in ["PIP_CERT", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
            assert_eq!(env(&passthrough, name), Some(inside.as_str()));
        }
        let conf = file(&passthrough, "apt.conf").unwrap();
        assert!(conf.contains(&format!("Acquire::https::CAInfo \"{inside}\";")), "{conf}");
    }
}

#[test]
fn a_mirror_takes_the_place_of_debians_own_archive() {
    let sources = "deb http://m.test:81/debian bookworm main contrib\n";
    let passthrough = Case::new(&[("etc/apt/sources.list", sources)], &[]).collect(false);
    let conf = file(&passthrough, "apt.conf").unwrap();
    assert!(conf.contains("Dir::Etc::sourcelist"), "{conf}");
    let list = file(&passthrough, "sources.list").unwrap();
    assert!(list.contains("deb http://m.test:81/debian trixie main contrib\n"), "{list}");
    assert_eq!(env(&passthrough, "APT_CONFIG"), Some(&*format!("{SETTINGS_DIR}/apt.conf")));
    assert_eq!(passthrough.hosts, [host("m.test", 81)]);
    let case = Case::new(&[("etc/apt/sources.list", sources)], &[]);
    let covered = case.collect_for(true, false);
    let (path, stanzas) = &covered.files[0];
    assert_eq!(path.to_str(), Some("/etc/apt/sources.list.d/debian.sources"));
    let stanzas = String::from_utf8_lossy(stanzas).into_owned();
    assert!(stanzas.contains("URIs: http://m.test:81/debian\nSuites: trixie\n"), "{stanzas}");
    let foreign = collect(&case.host, None, Sharing::default()).unwrap();
    assert_eq!(foreign.files, []);
}

#[test]
fn proxies_on_the_hosts_loopback_are_told_apart() {
    let variables = [
        ("http_proxy", "localhost:3128"),
        ("https_proxy", "http://127.0.0.1:3129"),
        ("ALL_PROXY", "http://p.test:8080"),
        ("no_proxy", "a.test,10.0.0.0/8"),
    ];
    let passthrough = Case::new(&[], &variables).collect(false);
    assert_eq!(env(&passthrough, "http_proxy"), Some("http://localhost:3128"));
    assert_eq!(env(&passthrough, "no_proxy"), Some("a.test,10.0.0.0/8"));
    let wanted = [host("localhost", 3128), host("127.0.0.1", 3129)];
    assert_eq!(passthrough.loopback_proxies, wanted);
    assert!(passthrough.hosts.contains(&host("p.test", 8080)));
}

#[test]
fn an_images_own_variables_win() {
    let passthrough = Case::new(&[], &[("PIP_INDEX_URL", "https://i.test/")]).collect(false);
    let own = [("PIP_INDEX_URL".to_owned(), "https://own.test/".to_owned())];
    let merged = passthrough.merge_env(&own);
    let index: Vec<_> = merged.iter().filter(|(name, _)| name == "PIP_INDEX_URL").collect();
    assert_eq!(index, [&own[0]]);
}

#[test]
fn the_suite_of_an_image_is_what_its_files_say() {
    let release = |id: &str, code: &str| format!("NAME=x\nID={id}\nVERSION_CODENAME={code}\n");
    assert_eq!(suite_of(&release("debian", "trixie"), "13.1\n").as_deref(), Some("trixie"));
    assert_eq!(suite_of(&release("debian", "forky"), "forky/sid\n").as_deref(), Some("sid"));
    assert_eq!(suite_of(&release("ubuntu", "noble"), "trixie/sid\n"), None);
}

#[test]
fn the_uppermost_layer_says_what_an_image_has() {
    let layer = |files: &[(&str, &str)]| Case::new(files, &[]);
    let sources = ("etc/apt/sources.list.d/debian.sources", "Types: deb\n");
    let base = layer(&[
        ("usr/lib/os-release", "ID=debian\nVERSION_CODENAME=bookworm\n"),
        ("etc/debian_version", "12.11\n"),
        sources,
    ]);
    let without = layer(&[("etc/hosts", "")]);
    let file = without.root.path().join("etc/apt/sources.list.d");
    std::fs::create_dir_all(&file).unwrap();
    let paths = [base.root.path().to_owned(), without.root.path().to_owned()];
    let found = image_apt(&paths).unwrap().unwrap();
    assert_eq!(found, ImageApt { suite: "bookworm".to_owned(), has_stanzas: true });
    // A whiteout, or anything else that is no file.
    std::fs::create_dir(file.join("debian.sources")).unwrap();
    assert!(!image_apt(&paths).unwrap().unwrap().has_stanzas);
    assert_eq!(image_apt(&paths[1..]).unwrap(), None);
}
