//! Recipes: the lines of a Dockerfile as steps.
//!
//! The crates that read Dockerfiles were looked at and not taken: the maintained one knows here
//! documents of one delimiter only, splits words without their quotes, expands no variables and
//! joins lines before it looks for comments. What counts here is what Docker does with the same
//! lines (docs.docker.com/reference/dockerfile), errors that name the line included.
//!
//! `lines` joins physical lines, `parse` makes instructions of them, `words` splits and expands.
//! Expansion happens when a step runs, because it depends on what the steps before have set.

mod lines;
mod mounts;
mod parse;
mod words;

pub use mounts::RunMount;
pub use parse::parse;
pub(crate) use parse::platform;
pub(crate) use words::{expand, expand_text};

/// A recipe: stages, of which the last one is the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// `ARG` lines before the first FROM, which all FROM lines see.
    pub globals: Vec<Step>,
    /// The stages in order; at least one.
    pub stages: Vec<Stage>,
    /// The character that escapes in it: `\`, or a backquote where a directive says so.
    pub(crate) escape: char,
}

/// One FROM and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What `AS` calls it, in lower case.
    pub name: Option<String>,
    /// Its instructions in order; the first one is FROM.
    pub steps: Vec<Step>,
}

impl Recipe {
    /// The stage that lines of stage `before` mean by `name`: the last one of that name. `None`
    /// when it names something else, an image.
    pub(crate) fn stage(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_lowercase();
        let earlier = self.stages.get(..before)?;
        earlier.iter().rposition(|stage| stage.name.as_ref() == Some(&name))
    }

    /// As [`Recipe::stage`], for `--from=` and `from=`: a number counts stages from 0.
    pub(crate) fn source(&self, name: &str, before: usize) -> Option<usize> {
        self.stage(name, before).or_else(|| name.parse().ok().filter(|number| *number < before))
    }
}

/// One instruction and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Number of its first line, from 1, in all lines joined.
    pub line: usize,
    /// The instruction on one line, shortened, for logs and errors.
    pub text: String,
    /// What it says.
    pub instruction: Instruction,
}

/// An instruction. Texts are as written, variables not yet expanded, where Docker expands them
/// when the step runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `FROM image`, an image or an earlier stage.
    From(String),
    /// `RUN`.
    Run {
        /// What to run.
        command: Command,
        /// Whether the step reaches the network (`--network=none` says no).
        network: bool,
        /// What is there for this command alone.
        mounts: Vec<RunMount>,
    },
    /// `COPY`, or `ADD` where it does the same.
    Copy(Copy),
    /// `ENV`, pairs of name and value.
    Env(Vec<(String, String)>),
    /// `LABEL`, pairs of key and value.
    Label(Vec<(String, String)>),
    /// `ARG`, names and what they are when the build gives no value.
    Arg(Vec<(String, Option<String>)>),
    /// `WORKDIR`.
    Workdir(String),
    /// `USER`.
    User(String),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `CMD`.
    Cmd(Command),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `EXPOSE`, kept with the image.
    Expose(Vec<String>),
    /// `VOLUME`, kept with the image.
    Volume(Vec<String>),
    /// `STOPSIGNAL`, kept with the image.
    StopSignal(String),
    /// An instruction that changes nothing here; the text says why.
    Ignored(&'static str),
}

/// A command in one of Docker's two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// One string for the image's shell.
    Shell(String),
    /// An argv.
    Exec(Vec<String>),
    /// A here document that starts with `#!`: a script with its own interpreter.
    Script(String),
}

/// What `COPY` copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Whether it was written as `ADD`.
    pub is_add: bool,
    /// The stage or image it copies from; the build context when not given.
    pub from: Option<String>,
    /// From where.
    pub sources: Vec<CopySource>,
    /// To where.
    pub destination: String,
    /// `user[:group]` of what is copied; root when not given.
    pub chown: Option<String>,
    /// Mode of what is copied; as in the context when not given.
    pub chmod: Option<u32>,
}

/// One source of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A path or pattern in the build context.
    Path(String),
    /// A here document.
    Text {
        /// The file's name, where the destination is a folder.
        name: String,
        /// The file's content.
        content: String,
        /// Whether variables in it are expanded (the delimiter was not quoted).
        expands: bool,
    },
}

/// A recipe line that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the recipe, {text:?}: {problem}")]
pub struct RecipeError {
    /// Number of the line, from 1, in all lines joined.
    pub line: usize,
    /// The line, shortened.
    pub text: String,
    /// What is wrong with it and what to do.
    pub problem: Problem,
}

/// What can be wrong with a line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Problem {
    /// No such instruction.
    #[error(
        "there is no instruction {0}; a line starts with one of ADD, ARG, CMD, COPY, \
        ENTRYPOINT, ENV, EXPOSE, FROM, LABEL, RUN, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR"
    )]
    Unknown(String),
    /// The instruction is there, its arguments are not.
    #[error("{0} needs {1}")]
    Missing(&'static str, &'static str),
    /// Docker knows it, this platform does not.
    #[error("{what} is not supported; {instead}")]
    Unsupported {
        /// The flag or instruction.
        what: String,
        /// What to do.
        instead: &'static str,
    },
    /// No flag of this instruction.
    #[error("{instruction} has no flag {flag}; it knows {known}")]
    UnknownFlag {
        /// The instruction.
        instruction: &'static str,
        /// As written.
        flag: String,
        /// The flags that there are.
        known: &'static str,
    },
    /// A value that cannot be read.
    #[error("{what} is {value:?}; {wanted}")]
    Value {
        /// Which part of the line.
        what: &'static str,
        /// As written.
        value: String,
        /// How to write it.
        wanted: &'static str,
    },
    /// A quote without its end.
    #[error("a quote {0} has no end; close it or write \\{0}")]
    OpenQuote(char),
    /// A here document without its end.
    #[error("the here document <<{0} has no end; write {0} on a line of its own after it")]
    OpenHeredoc(String),
    /// A variable reference that cannot be read.
    #[error("${{{0} cannot be expanded; write $NAME, ${{NAME}} or ${{NAME:-else}}")]
    Variable(String),
    /// `${NAME:?text}` and NAME is not set.
    #[error("{name} is not set: {text}")]
    Unset {
        /// The variable.
        name: String,
        /// What the recipe says about it.
        text: String,
    },
    /// The first instruction is not FROM or ARG.
    #[error("a recipe starts with FROM; write one before this line")]
    NoFrom,
    /// There is no line at all.
    #[error("there is no FROM; a recipe has at least that line")]
    Empty,
    /// More than one recipe may hold.
    #[error("the recipe is longer than {0}; split it into two images")]
    TooLong(&'static str),
}
