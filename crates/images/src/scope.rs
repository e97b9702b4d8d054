//! Variables of a recipe: what ARG declares and what the build gives, beside the image's own
//! environment, which always wins.

use std::collections::BTreeMap;

use crate::image::Config;
use crate::recipe::{Problem, expand, expand_text, platform};

/// Arguments that count without an ARG, and that change no key: how to reach the network says
/// nothing about what comes out.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// The variables that lines see.
#[derive(Debug)]
pub(crate) struct Scope<'r> {
    given: &'r BTreeMap<String, String>,
    escape: char,
    /// Declared before FROM; seen by FROM, and after it only when declared again.
    global: BTreeMap<String, String>,
    /// Declared after FROM.
    local: BTreeMap<String, String>,
    in_stage: bool,
}

impl<'r> Scope<'r> {
    pub(crate) fn new(given: &'r BTreeMap<String, String>, escape: char) -> Self {
        let (global, local) = (BTreeMap::new(), BTreeMap::new());
        Self { given, escape, global, local, in_stage: false }
    }

    /// A FROM was passed: what the stage before it declared is forgotten.
    pub(crate) fn enter_stage(&mut self) {
        self.in_stage = true;
        self.local.clear();
    }

    /// Expands a name after FROM, which sees what stands before the first FROM and nothing else.
    pub(crate) fn expand_from(&self, text: &str) -> Result<String, Problem> {
        let lookup = |name: &str| {
            self.global.get(name).cloned().or_else(|| platform_arg(name).map(str::to_owned))
        };
        expand(text, self.escape, &lookup)
    }

    /// `ARG name[=default]`.
    pub(crate) fn declare(
        &mut self,
        config: &Config,
        name: &str,
        default: Option<&str>,
    ) -> Result<(), Problem> {
        let default = default.map(|default| self.expand(config, default)).transpose()?;
        let value = self.given.get(name).cloned().or(default);
        let value = value.or_else(|| self.global.get(name).cloned());
        let value = value.or_else(|| platform_arg(name).map(str::to_owned));
        let declared = if self.in_stage { &mut self.local } else { &mut self.global };
        if let Some(value) = value {
            declared.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// What RUN sees of the arguments.
    pub(crate) fn env(&self, config: &Config) -> Vec<(String, String)> {
        let is_free = |(name, _): &(&String, &String)| config.env(name).is_none();
        self.local.iter().filter(is_free).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// The proxies that the build was given.
    pub(crate) fn proxies(&self) -> Vec<(String, String)> {
        let given = |name: &&str| Some(((*name).to_owned(), self.given.get(*name)?.clone()));
        PROXIES.iter().filter_map(given).collect()
    }

    /// Expands a word of an instruction.
    pub(crate) fn expand(&self, config: &Config, text: &str) -> Result<String, Problem> {
        expand(text, self.escape, &|name| self.lookup(config, name))
    }

    /// Expands the variables of a here document, where quotes are ordinary characters.
    pub(crate) fn expand_text(&self, config: &Config, text: &str) -> Result<String, Problem> {
        expand_text(text, self.escape, &|name| self.lookup(config, name))
    }

    fn lookup(&self, config: &Config, name: &str) -> Option<String> {
        let value = config.env(name).map(str::to_owned);
        if self.in_stage {
            return value.or_else(|| self.local.get(name).cloned());
        }
        let value = value.or_else(|| self.global.get(name).cloned());
        value.or_else(|| platform_arg(name).map(str::to_owned))
    }
}

/// The platform arguments that Docker defines, as this machine answers them.
fn platform_arg(name: &str) -> Option<&'static str> {
    let platform = platform();
    match name {
        "TARGETPLATFORM" | "BUILDPLATFORM" => Some(platform),
        "TARGETOS" | "BUILDOS" => Some("linux"),
        "TARGETARCH" | "BUILDARCH" => platform.split_once('/').map(|(_, arch)| arch),
        "TARGETVARIANT" | "BUILDVARIANT" => Some(""),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Scope;
    use crate::image::Config;

    #[test]
    fn arguments_count_where_docker_counts_them() {
        let given = BTreeMap::from([("GIVEN".to_owned(), "given".to_owned())]);
        let mut config = Config::default();
        let mut scope = Scope::new(&given, '\\');
        scope.declare(&config, "TAG", Some("3.11")).unwrap();
        scope.declare(&config, "GIVEN", Some("default")).unwrap();
        assert_eq!(scope.expand(&config, "p:$TAG-$GIVEN-$TARGETOS").unwrap(), "p:3.11-given-linux");
        scope.enter_stage();
        assert_eq!(scope.expand(&config, "$TAG$GIVEN$TARGETOS").unwrap(), "");
        for name in ["TAG", "GIVEN", "TARGETOS", "UNSET"] {
            scope.declare(&config, name, None).unwrap();
        }
        scope.declare(&config, "BOTH", Some("arg")).unwrap();
        config.set_env("BOTH", "env".to_owned());
        assert_eq!(scope.expand_from("$TAG$BOTH").unwrap(), "3.11", "FROM sees the globals alone");
        let said = scope.expand(&config, "$TAG $GIVEN $TARGETOS $BOTH$UNSET").unwrap();
        assert_eq!(said, "3.11 given linux env");
        let names: Vec<String> = scope.env(&config).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["GIVEN", "TAG", "TARGETOS"]);
        scope.enter_stage();
        assert!(scope.env(&config).is_empty(), "the next stage begins anew");
    }

    #[test]
    fn proxies_count_without_an_arg() {
        let given = BTreeMap::from([("http_proxy".to_owned(), "http://p.test".to_owned())]);
        let scope = Scope::new(&given, '\\');
        assert_eq!(scope.proxies().len(), 1);
        assert!(scope.env(&Config::default()).is_empty());
    }
}
