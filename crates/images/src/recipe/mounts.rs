//! What `RUN --mount=` asks for: things that are there for one command and in no layer.

use crate::recipe::Problem;
use crate::recipe::parse::parse_octal;

/// One `--mount`. Paths are as written: variables are expanded when the step runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunMount {
    /// `type=cache`: without a cache between builds the command does the same, only slower.
    Cache,
    /// `type=tmpfs`: an empty memory file system.
    Tmpfs {
        /// Path inside.
        target: String,
        /// Its size; the runner's own when not given.
        size_bytes: Option<u64>,
    },
    /// `type=bind`: files of the context, a stage or an image, read-only.
    Bind {
        /// The stage or image; the build context when not given.
        from: Option<String>,
        /// File or folder there.
        source: String,
        /// Path inside.
        target: String,
    },
    /// `type=secret`: a variable of the build's secrets as a file.
    Secret {
        /// The variable's name.
        id: String,
        /// Path inside; `/run/secrets/` and the id when not given.
        target: Option<String>,
        /// A variable that holds the same, instead of the file.
        env: Option<String>,
        /// Permission bits of the file.
        mode: u32,
        /// Whether the step fails without it.
        is_required: bool,
    },
}

/// Options of one `--mount`, in the order in which they stand there.
struct Options<'v>(Vec<(&'v str, Option<&'v str>)>);

/// Reads what follows `--mount=`.
pub(super) fn parse(value: &str) -> Result<RunMount, Problem> {
    let pair = |part: &'_ str| match part.split_once('=') {
        Some((name, value)) => (name.trim().to_lowercase(), Some(value.trim().to_owned())),
        None => (part.trim().to_lowercase(), None),
    };
    let pairs: Vec<(String, Option<String>)> = value.split(',').map(pair).collect();
    let options = Options(pairs.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect());
    match options.get(&["type"]).unwrap_or("bind") {
        // Whatever it says: nothing of it is kept.
        "cache" => Ok(RunMount::Cache),
        "tmpfs" => options.tmpfs(),
        "bind" => options.bind(),
        "secret" => options.secret(),
        _ => {
            let what = format!("RUN --mount={value}");
            let instead = "known are the types bind, cache, secret and tmpfs; give keys to the \
                build as secrets";
            Err(Problem::Unsupported { what, instead })
        }
    }
}

impl<'v> Options<'v> {
    /// The value of an option that has several names.
    fn get(&self, names: &[&str]) -> Option<&'v str> {
        let found = self.0.iter().find(|(name, _)| names.contains(name));
        found.map(|(_, value)| value.unwrap_or("true"))
    }

    fn check(&self, known: &'static str) -> Result<(), Problem> {
        let is_known = |name: &str| known.split(", ").any(|one| one == name);
        match self.0.iter().find(|(name, _)| *name != "type" && !is_known(name)) {
            Some((name, _)) => Err(Problem::UnknownFlag {
                instruction: "RUN --mount",
                flag: (*name).to_owned(),
                known,
            }),
            None => Ok(()),
        }
    }

    fn target(&self) -> Result<String, Problem> {
        let target = self.get(&["target", "dst", "destination"]).filter(|path| !path.is_empty());
        target.map(str::to_owned).ok_or(Problem::Missing("RUN --mount", "a target: target=/path"))
    }

    fn tmpfs(&self) -> Result<RunMount, Problem> {
        self.check("target, dst, destination, size")?;
        let size_bytes = self.get(&["size"]).map(parse_size).transpose()?;
        Ok(RunMount::Tmpfs { target: self.target()?, size_bytes })
    }

    fn bind(&self) -> Result<RunMount, Problem> {
        self.check("target, dst, destination, source, src, from, readonly, ro, rw, readwrite")?;
        let writes = self.get(&["rw", "readwrite"]).is_some_and(|value| value != "false")
            || self.get(&["ro", "readonly"]) == Some("false");
        if writes {
            let instead = "a bind is read-only here: COPY the files, and remove them in the RUN";
            return Err(Problem::Unsupported { what: "RUN --mount with rw".to_owned(), instead });
        }
        Ok(RunMount::Bind {
            from: self.get(&["from"]).map(str::to_owned),
            source: self.get(&["source", "src"]).unwrap_or("/").to_owned(),
            target: self.target()?,
        })
    }

    fn secret(&self) -> Result<RunMount, Problem> {
        self.check("id, target, dst, destination, env, mode, required")?;
        let target = self.get(&["target", "dst", "destination"]);
        // As in Docker, a target alone names the secret by its last part.
        let id = self.get(&["id"]).or_else(|| target.and_then(|path| path.rsplit('/').next()));
        let id = id.ok_or(Problem::Missing("RUN --mount=type=secret", "an id: id=NAME"))?;
        Ok(RunMount::Secret {
            id: id.to_owned(),
            target: target.map(str::to_owned),
            env: self.get(&["env"]).map(str::to_owned),
            mode: self
                .get(&["mode"])
                .map(|mode| parse_octal("mode", mode))
                .transpose()?
                .unwrap_or(0o400),
            is_required: self.get(&["required"]).is_some_and(|value| value != "false"),
        })
    }
}

/// Bytes, or with a letter: `64m`.
fn parse_size(text: &str) -> Result<u64, Problem> {
    let lower = text.to_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[number.len()..] {
        "" | "b" => Some(0),
        "k" | "kb" => Some(10),
        "m" | "mb" => Some(20),
        "g" | "gb" => Some(30),
        _ => None,
    };
    let size = shift.zip(number.parse::<u64>().ok());
    let size = size.and_then(|(shift, number)| number.checked_mul(1 << shift));
    let wanted = "write bytes, or a number with k, m or g, as in size=64m";
    size.ok_or(Problem::Value { what: "size", value: text.to_owned(), wanted })
}

#[cfg(test)]
mod tests {
    use super::{RunMount, parse};

    #[test]
    fn mounts_are_read_as_docker_reads_them() {
        let check =
            |text: &str, wanted: RunMount| assert_eq!(parse(text).unwrap(), wanted, "{text}");
        let text = str::to_owned;
        check("type=cache,target=/c,sharing=locked", RunMount::Cache);
        let (target, size_bytes) = (text("/t"), Some(64 << 20));
        check("type=tmpfs,target=/t,size=64m", RunMount::Tmpfs { target, size_bytes });
        let (from, source, target) = (None, text("uv.lock"), text("uv.lock"));
        check("type=bind,source=uv.lock,target=uv.lock", RunMount::Bind { from, source, target });
        let (from, source, target) = (Some(text("build")), text("/"), text("/b"));
        check("from=build,dst=/b,ro", RunMount::Bind { from, source, target });
        let secret = |target, env, mode, is_required| {
            let id = text("TOKEN");
            RunMount::Secret { id, target, env, mode, is_required }
        };
        check("type=secret,id=TOKEN", secret(None, None, 0o400, false));
        let file = Some(text("/root/TOKEN"));
        check("type=secret,target=/root/TOKEN,required", secret(file, None, 0o400, true));
        let env = Some(text("T"));
        check("type=secret,id=TOKEN,env=T,mode=0444", secret(None, env, 0o444, false));
    }

    #[test]
    fn what_cannot_be_mounted_is_refused() {
        let check = |text: &str, wanted: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        };
        check("type=ssh", "bind, cache, secret and tmpfs");
        check("type=bind,source=a", "target=/path");
        check("type=bind,target=/a,rw", "read-only here");
        check("type=bind,target=/a,ro=false", "read-only here");
        check("type=tmpfs,target=/a,size=lots", "size=64m");
        check("type=tmpfs,target=/a,size=99999999999999g", "size=64m");
        check("type=tmpfs,target=/a,sise=1", "no flag sise");
        check("type=secret", "id=NAME");
    }
}
