//! `palisade env`: how the client finds the running local server.

use anyhow::Result;

use crate::config::Env;
use crate::data::Data;
use crate::say;

/// Variables that lead the client through a proxy.
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// How URLs of a server on loopback begin.
const LOOPBACK: [&str; 2] = ["http://127.", "http://[::1]"];

/// A value as one word of a shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Prints the settings.
pub(crate) fn run(env: &Env) -> Result<()> {
    let access = Data::of(&env.data.data_dir).access()?;
    let mut settings = vec![
        ("MODAL_SERVER_URL", access.server_url.clone()),
        ("MODAL_TOKEN_ID", access.token_id),
        ("MODAL_TOKEN_SECRET", access.token_secret),
    ];
    if PROXIES.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        // The client would send even a loopback address through the proxy (modal 1.6.4).
        settings.push(("MODAL_DISABLE_API_PROXY", "1".into()));
    }
    // Loopback needs no trust: the client speaks plaintext there, and asks no sandbox's router for
    // a certificate (modal 1.6.4).
    let is_remote = !LOOPBACK.iter().any(|url| access.server_url.starts_with(url));
    if is_remote && let Some(bundle) = access.ca_bundle {
        settings.push(("SSL_CERT_FILE", bundle.display().to_string()));
    }
    if let Some(ca) = &access.ca_file {
        settings.push(("PALISADE_CA_FILE", ca.display().to_string()));
        if access.server_url.starts_with("https:") {
            crate::say_aside(format!(
                "the client trusts the CAs of its package certifi alone: add this server's to \
                 them with\n  cat {} >> \"$(python -m certifi)\"",
                quoted(&ca.display().to_string())
            ));
        }
    }
    if env.json {
        let settings: std::collections::BTreeMap<_, _> = settings.into_iter().collect();
        say(serde_json::to_string(&settings)?);
    } else {
        for (name, value) in settings {
            say(format!("export {name}={}", quoted(&value)));
        }
    }
    Ok(())
}
