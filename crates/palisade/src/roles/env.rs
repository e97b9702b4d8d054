//! `palisade env`: how the client finds the running local server.

use anyhow::Result;

use crate::config::Env;
use crate::data::Data;
use crate::say;

/// Variables that lead the client through a proxy.
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// A value as one word of a shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Prints the settings.
pub(crate) fn run(env: &Env) -> Result<()> {
    let access = Data::of(&env.data.data_dir).access()?;
    let mut settings = vec![
        ("MODAL_SERVER_URL", access.server_url),
        ("MODAL_TOKEN_ID", access.token_id),
        ("MODAL_TOKEN_SECRET", access.token_secret),
    ];
    if PROXIES.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        // The client would send even a loopback address through the proxy (modal 1.6.4).
        settings.push(("MODAL_DISABLE_API_PROXY", "1".into()));
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
