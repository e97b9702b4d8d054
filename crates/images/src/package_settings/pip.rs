//! Pip's settings: files and variables, in pip's own order (pip documentation, "Configuration").

use std::collections::BTreeMap;

use super::Collector;
use crate::tree::TreeError;

/// Keys that say where packages are and how to reach them.
const KEYS: [&str; 8] = [
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "proxy",
    "timeout",
    "retries",
];

/// What pip is set to on the host.
#[derive(Debug, Default)]
pub(super) struct Settings {
    values: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the files that pip would read, weakest first, and then its variables.
    pub(super) fn read(collector: &Collector<'_>) -> Result<Self, TreeError> {
        let mut settings = Self::default();
        let mut paths = vec!["/etc/xdg/pip/pip.conf".to_owned(), "/etc/pip.conf".to_owned()];
        paths.push(collector.home_path(".pip/pip.conf"));
        paths.push(collector.home_path(".config/pip/pip.conf"));
        paths.extend(collector.env("PIP_CONFIG_FILE").map(str::to_owned));
        for path in paths.iter().filter(|path| *path != "/dev/null") {
            let text = collector.tree.read(path)?.unwrap_or_default();
            settings.read_text(&String::from_utf8_lossy(&text));
        }
        for (name, value) in &collector.host.env {
            if let Some(key) = name.strip_prefix("PIP_").filter(|_| !value.is_empty()) {
                settings.set(key, value);
            }
        }
        Ok(settings)
    }

    fn read_text(&mut self, text: &str) {
        let mut is_wanted = false;
        let mut last: Option<String> = None;
        for line in text.lines() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                continue;
            }
            if let Some(section) = trimmed.strip_prefix('[').and_then(|s| s.strip_suffix(']')) {
                is_wanted = matches!(section, "global" | "install" | "download");
                last = None;
            } else if line.starts_with([' ', '\t']) {
                // A value goes on in an indented line.
                if let Some(value) = last.as_ref().and_then(|key| self.values.get_mut(key)) {
                    *value = format!("{value} {trimmed}").trim_start().to_owned();
                }
            } else if let Some((key, value)) = trimmed.split_once(['=', ':']).filter(|_| is_wanted)
            {
                last = Some(self.set(key.trim(), value.trim()));
            }
        }
    }

    fn set(&mut self, key: &str, value: &str) -> String {
        let key = key.to_lowercase().replace('_', "-");
        let key = if key == "default-timeout" { "timeout".to_owned() } else { key };
        self.values.insert(key.clone(), value.to_owned());
        key
    }

    /// One setting by its name in a file, as "index-url".
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The settings that steps get, as variables of pip.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let variable = |key: &&str| {
            let name = format!("PIP_{}", key.to_uppercase().replace('-', "_"));
            Some((name, self.get(key)?.to_owned()))
        };
        KEYS.iter().filter_map(variable).collect()
    }
}
