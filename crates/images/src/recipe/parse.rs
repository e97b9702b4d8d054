//! From logical lines to instructions.

use crate::recipe::lines::{self, Line, error};
use crate::recipe::mounts::{self, RunMount};
use crate::recipe::words;
use crate::recipe::{
    Command, Copy, CopySource, Instruction, Problem, Recipe, RecipeError, Stage, Step,
};

/// Reads a recipe. Each item may hold several lines; they are read as if joined.
///
/// # Errors
/// For the first line that cannot be used.
pub fn parse<S: AsRef<str>>(commands: &[S]) -> Result<Recipe, RecipeError> {
    let text = commands.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\n");
    let (lines, escape) = lines::split(&text)?;
    let (mut globals, mut stages) = (Vec::new(), Vec::<Stage>::new());
    for line in lines {
        let shown = format!("{} {}", line.name, line.rest);
        let fail = |problem| error(line.number, &shown, problem);
        let parser = Parser { line: &line, escape };
        let instruction = parser.instruction().map_err(fail)?;
        if matches!(instruction, Instruction::From(_)) {
            let name = parser.stage_name().map_err(fail)?;
            stages.push(Stage { name, steps: Vec::new() });
        }
        let is_arg = matches!(instruction, Instruction::Arg(_));
        let text = lines::shorten(&shown);
        let step = Step { line: line.number, text, instruction };
        match stages.last_mut() {
            Some(stage) => stage.steps.push(step),
            None if is_arg => globals.push(step),
            None => return Err(fail(Problem::NoFrom)),
        }
    }
    if stages.is_empty() {
        return Err(error(1, &text, Problem::Empty));
    }
    Ok(Recipe { globals, stages, escape })
}

struct Parser<'l> {
    line: &'l Line,
    escape: char,
}

/// Flags at the start of an instruction's arguments, and what follows them.
struct Flags<'l> {
    flags: Vec<(&'l str, &'l str)>,
    rest: &'l str,
}

impl<'l> Parser<'l> {
    fn instruction(&self) -> Result<Instruction, Problem> {
        let rest = self.line.rest.as_str();
        Ok(match self.line.name.as_str() {
            "FROM" => self.from()?,
            "RUN" => self.run()?,
            "COPY" => Instruction::Copy(self.copy("COPY", false)?),
            "ADD" => Instruction::Copy(self.copy("ADD", true)?),
            "ENV" => Instruction::Env(self.pairs("ENV")?),
            "LABEL" => Instruction::Label(self.pairs("LABEL")?),
            "ARG" => self.arg()?,
            "WORKDIR" => Instruction::Workdir(self.one("WORKDIR", "a path")?),
            "USER" => Instruction::User(self.one("USER", "a user")?),
            "STOPSIGNAL" => Instruction::StopSignal(self.one("STOPSIGNAL", "a signal")?),
            // Both may be empty (`CMD []`, which takes away the base's), but not missing.
            "ENTRYPOINT" => Instruction::Entrypoint(self.command("ENTRYPOINT")?),
            "CMD" => Instruction::Cmd(self.command("CMD")?),
            "SHELL" => match words::json_array(rest) {
                Some(argv) if !argv.is_empty() => Instruction::Shell(argv),
                _ => return Err(Problem::Missing("SHELL", "a JSON array: [\"/bin/sh\", \"-c\"]")),
            },
            "EXPOSE" => Instruction::Expose(self.words("EXPOSE", "a port")?),
            "VOLUME" => match words::json_array(rest) {
                Some(paths) => Instruction::Volume(paths),
                None => Instruction::Volume(self.words("VOLUME", "a path")?),
            },
            "MAINTAINER" => Instruction::Ignored("it only names a person; use LABEL"),
            "HEALTHCHECK" => Instruction::Ignored("nothing here asks a container for its health"),
            "ONBUILD" => {
                let instead = "write the instruction in the recipes that start from this image";
                return Err(Problem::Unsupported { what: "ONBUILD".to_owned(), instead });
            }
            name => return Err(Problem::Unknown(name.chars().take(40).collect())),
        })
    }

    fn from(&self) -> Result<Instruction, Problem> {
        let Flags { flags, rest } = self.flags();
        for (flag, value) in flags {
            if flag != "platform" {
                return Err(unknown_flag("FROM", flag, "--platform"));
            }
            // The host's platform is the only one; asking for it by name is fine.
            if !value.starts_with('$') && value != platform() {
                let what = format!("the platform {value}");
                let instead = "images are built for this machine's own; leave --platform out";
                return Err(Problem::Unsupported { what, instead });
            }
        }
        match words::split(rest, self.escape)?.as_slice() {
            [image] => Ok(Instruction::From(image.clone())),
            [image, keyword, _] if keyword.eq_ignore_ascii_case("as") => {
                Ok(Instruction::From(image.clone()))
            }
            _ => Err(Problem::Missing("FROM", "one image: FROM image [AS name]")),
        }
    }

    /// What stands after AS in a FROM.
    fn stage_name(&self) -> Result<Option<String>, Problem> {
        let words = words::split(self.flags().rest, self.escape)?;
        let Some(name) = words.get(2) else { return Ok(None) };
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(is_part) {
            let wanted = "it starts with a letter; letters, digits, -, _ and . may follow";
            return Err(Problem::Value { what: "a stage's name", value: name.clone(), wanted });
        }
        Ok(Some(name.to_lowercase()))
    }

    fn run(&self) -> Result<Instruction, Problem> {
        let Flags { flags, rest } = self.flags();
        let (mut network, mut mounts) = (true, Vec::<RunMount>::new());
        for (flag, value) in flags {
            match (flag, value) {
                ("network", "none") => network = false,
                ("network", "default") => network = true,
                ("mount", value) => mounts.push(mounts::parse(value)?),
                ("network" | "security", _) => {
                    let what = format!("RUN --{flag}={value}");
                    let instead = "known are --network=none and --network=default";
                    return Err(Problem::Unsupported { what, instead });
                }
                _ => return Err(unknown_flag("RUN", flag, "--mount and --network")),
            }
        }
        if rest.is_empty() {
            return Err(Problem::Missing("RUN", "a command"));
        }
        let command = match self.line.heredocs.as_slice() {
            [] => match command(rest) {
                Command::Exec(argv) if argv.is_empty() => {
                    return Err(Problem::Missing("RUN", "a command"));
                }
                command => command,
            },
            // Nothing but the document: it is the script. An expanding delimiter would expand
            // nothing: the shell that gets the script does.
            [document] if rest == document.token => match document.content.starts_with("#!") {
                true => Command::Script(document.content.clone()),
                false => Command::Shell(document.content.clone()),
            },
            documents => {
                let documents: String = documents.iter().map(|document| &*document.raw).collect();
                Command::Shell(format!("{rest}\n{documents}"))
            }
        };
        Ok(Instruction::Run { command, network, mounts })
    }

    fn copy(&self, name: &'static str, is_add: bool) -> Result<Copy, Problem> {
        let Flags { flags, rest } = self.flags();
        let (mut from, mut chown, mut chmod) = (None, None, None);
        for (flag, value) in flags {
            match flag {
                "chown" => chown = Some(value.to_owned()),
                "chmod" => chmod = Some(parse_octal("--chmod", value)?),
                // Layers are separate here anyway.
                "link" => {}
                "from" if is_add => return Err(unknown_flag(name, flag, "--chown and --chmod")),
                "from" if value.is_empty() || value.contains('$') => {
                    let wanted = "write a stage's name or number, or an image, without variables";
                    let value = value.to_owned();
                    return Err(Problem::Value { what: "--from", value, wanted });
                }
                "from" => from = Some(value.to_owned()),
                "parents" | "exclude" | "checksum" | "keep-git-dir" | "unpack" => {
                    let what = format!("{name} --{flag}");
                    let instead = "write the files and folders that are wanted as sources";
                    return Err(Problem::Unsupported { what, instead });
                }
                _ => return Err(unknown_flag(name, flag, "--from, --chown, --chmod and --link")),
            }
        }
        let mut paths = match words::json_array(rest) {
            Some(paths) => paths,
            None => words::split(rest, self.escape)?,
        };
        let destination = paths.pop().filter(|_| !paths.is_empty());
        let destination = destination.ok_or(Problem::Missing(name, "sources and a destination"))?;
        let mut heredocs = self.line.heredocs.iter();
        let mut sources = Vec::with_capacity(paths.len());
        for path in paths {
            sources.push(match heredocs.clone().next().filter(|document| document.token == path) {
                Some(document) => {
                    heredocs.next();
                    CopySource::Text {
                        name: document.name.clone(),
                        content: document.content.clone(),
                        expands: document.expands,
                    }
                }
                None if is_add && is_remote(&path) => {
                    let what = format!("ADD of {path}");
                    let instead =
                        "download it in a RUN (curl, git), or put it into the build context";
                    return Err(Problem::Unsupported { what, instead });
                }
                None => CopySource::Path(path),
            });
        }
        Ok(Copy { is_add, from, sources, destination, chown, chmod })
    }

    fn arg(&self) -> Result<Instruction, Problem> {
        let words = self.words("ARG", "a name: ARG NAME[=value]")?;
        let args = words.into_iter().map(|word| match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        });
        let args: Vec<_> = args.collect();
        args.iter().try_for_each(|(name, _)| check_name(name))?;
        Ok(Instruction::Arg(args))
    }

    /// `K=V K2="v 2"`, or the old form `K rest of the line`.
    fn pairs(&self, name: &'static str) -> Result<Vec<(String, String)>, Problem> {
        let words = self.words(name, "a name and a value: NAME=value")?;
        if !words[0].contains('=') {
            let (key, value) = self
                .line
                .rest
                .split_once(char::is_whitespace)
                .ok_or(Problem::Missing(name, "a name and a value: NAME=value"))?;
            check_name(key)?;
            return Ok(vec![(key.to_owned(), value.trim_start().to_owned())]);
        }
        let pair = |word: String| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Problem::Value {
                what: "a pair",
                value: word,
                wanted: "write NAME=value, with quotes around a value that has spaces",
            }),
        };
        words.into_iter().map(pair).collect()
    }

    fn command(&self, name: &'static str) -> Result<Command, Problem> {
        match self.line.rest.as_str() {
            "" => Err(Problem::Missing(name, "a command; take the base's away with []")),
            rest => Ok(command(rest)),
        }
    }

    fn one(&self, name: &'static str, what: &'static str) -> Result<String, Problem> {
        match self.line.rest.as_str() {
            "" => Err(Problem::Missing(name, what)),
            rest => Ok(rest.to_owned()),
        }
    }

    fn words(&self, name: &'static str, what: &'static str) -> Result<Vec<String>, Problem> {
        let words = words::split(&self.line.rest, self.escape)?;
        if words.is_empty() { Err(Problem::Missing(name, what)) } else { Ok(words) }
    }

    fn flags(&self) -> Flags<'l> {
        let mut rest = self.line.rest.as_str();
        let mut flags = Vec::new();
        while let Some(flag) = rest.strip_prefix("--") {
            let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
            flags.push(flag.split_once('=').unwrap_or((flag, "")));
            rest = after.trim_start();
        }
        Flags { flags, rest }
    }
}

fn command(rest: &str) -> Command {
    match words::json_array(rest) {
        Some(argv) => Command::Exec(argv),
        None => Command::Shell(rest.to_owned()),
    }
}

fn unknown_flag(instruction: &'static str, flag: &str, known: &'static str) -> Problem {
    Problem::UnknownFlag { instruction, flag: format!("--{flag}"), known }
}

/// Permission bits.
pub(super) fn parse_octal(what: &'static str, text: &str) -> Result<u32, Problem> {
    let is_octal = (3..=4).contains(&text.len());
    match u32::from_str_radix(text, 8) {
        Ok(mode) if is_octal => Ok(mode),
        _ => {
            let wanted = "write three or four octal digits, as in 755";
            Err(Problem::Value { what, value: text.to_owned(), wanted })
        }
    }
}

fn check_name(name: &str) -> Result<(), Problem> {
    let wanted = "write a name without quotes, spaces and $";
    let is_bad = name.is_empty() || name.contains(['"', '\'', '$', '\\']);
    let value = name.to_owned();
    if is_bad { Err(Problem::Value { what: "a name", value, wanted }) } else { Ok(()) }
}

fn is_remote(path: &str) -> bool {
    let starts = |prefix: &&str| path.to_lowercase().starts_with(prefix);
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(starts)
}

/// The platform of this machine as Docker names it.
pub(crate) fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        arch => arch,
    }
}

#[cfg(test)]
mod tests;
