//! What lines become, by examples.

use super::parse;
use crate::recipe::Instruction::{self, Arg, Cmd, Entrypoint, Env, From, Ignored, Run};
use crate::recipe::{Command, Copy, CopySource, RunMount, Step};

fn check(recipe: &str, wanted: &[Instruction]) {
    let steps = steps(&[recipe]);
    let found: Vec<Instruction> = steps.into_iter().map(|step| step.instruction).collect();
    assert_eq!(found[0], From("base".to_owned()), "{recipe}");
    assert_eq!(&found[1..], wanted, "{recipe}");
}

/// The steps of a recipe with one stage, with what stands before it.
fn steps<S: AsRef<str>>(lines: &[S]) -> Vec<Step> {
    let recipe = parse(lines).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(recipe.stages.len(), 1);
    recipe.globals.into_iter().chain(recipe.stages.into_iter().flat_map(|s| s.steps)).collect()
}

/// The text of the error must hold all of `parts`.
fn check_error(recipe: &str, parts: &[&str]) {
    let error = parse(&[recipe]).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{recipe}: {error} lacks {part}");
    }
}

fn run(command: &str) -> Instruction {
    Run { command: Command::Shell(command.to_owned()), network: true, mounts: vec![] }
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn copy(sources: &[&str], destination: &str) -> Copy {
    Copy {
        is_add: false,
        from: None,
        sources: sources.iter().map(|path| CopySource::Path((*path).to_owned())).collect(),
        destination: destination.to_owned(),
        chown: None,
        chmod: None,
    }
}

#[test]
fn commands_in_both_forms() {
    check("FROM base\nRUN echo hi  # not a comment", &[run("echo hi  # not a comment")]);
    let exec = Run { command: Command::Exec(argv(&["a", "b c"])), network: true, mounts: vec![] };
    check("FROM base\nRUN [\"a\", \"b c\"]", &[exec]);
    check("FROM base\nRUN [ -f /x ] && true", &[run("[ -f /x ] && true")]);
    check("FROM base\nRUN ['a']", &[run("['a']")]);
    check("FROM base AS b\nCMD []", &[Cmd(Command::Exec(vec![]))]);
    check("from base\ncmd sleep 1", &[Cmd(Command::Shell("sleep 1".to_owned()))]);
    let entrypoint = Command::Exec(argv(&["/bin/x"]));
    check("FROM base\nENTRYPOINT [\"/bin/x\"]", &[Entrypoint(entrypoint)]);
}

#[test]
fn continuations_comments_and_empty_lines() {
    check("\n# c\nFROM base\n\n  # c\nRUN a \\\n  # inside\n\n  && b\n", &[run("a   && b")]);
    check("FROM base\r\nRUN a \\\r\n b\r\n", &[run("a  b")]);
    check("FROM base\nRUN a \\ \n b", &[run("a  b")]);
    check("FROM base\nRUN a \\", &[run("a")]);
    check("# escape=`\nFROM base\nRUN a `\n b\\", &[run("a  b\\")]);
    check("# a comment\n# escape=`\nFROM base\nRUN a `\nRUN b", &[run("a `"), run("b")]);
}

#[test]
fn here_documents() {
    check("FROM base\nRUN <<EOF\na\n  # kept\nb\nEOF\nRUN c", &[run("a\n  # kept\nb\n"), run("c")]);
    check("FROM base\nRUN <<-'E'\n\ta\n\tE\nRUN c", &[run("a\n"), run("c")]);
    check("FROM base\nRUN python3 <<EOF\nx = 1\nEOF", &[run("python3 <<EOF\nx = 1\nEOF\n")]);
    let both = "FROM base\nRUN cat <<A - <<B\n1\nA\n2\nB";
    check(both, &[run("cat <<A - <<B\n1\nA\n2\nB\n")]);
    let script = Command::Script("#!/usr/bin/env python3\nprint()\n".to_owned());
    let script = Run { command: script, network: true, mounts: vec![] };
    check("FROM base\nRUN <<EOF\n#!/usr/bin/env python3\nprint()\nEOF", &[script]);
    check("FROM base\nRUN echo \"a <<EOF b\"", &[run("echo \"a <<EOF b\"")]);
    check("FROM base\nRUN echo $((1<<2))", &[run("echo $((1<<2))")]);
    let text = |expands| CopySource::Text {
        name: "EOF".to_owned(),
        content: "a $B\n".to_owned(),
        expands,
    };
    for (token, expands) in [("<<EOF", true), ("<<\"EOF\"", false)] {
        let sources = vec![text(expands), CopySource::Path("x".to_owned())];
        let wanted = Copy { sources, ..copy(&[], "/dir/") };
        let recipe = format!("FROM base\nCOPY {token} x /dir/\na $B\nEOF");
        check(&recipe, &[Instruction::Copy(wanted)]);
    }
}

#[test]
fn copies_and_their_flags() {
    check("FROM base\nCOPY . /", &[Instruction::Copy(copy(&["."], "/"))]);
    check("FROM base\nCOPY a b c/", &[Instruction::Copy(copy(&["a", "b"], "c/"))]);
    check("FROM base\nCOPY [\"a b\", \"c d\"]", &[Instruction::Copy(copy(&["a b"], "c d"))]);
    let flagged =
        Copy { chown: Some("me:you".to_owned()), chmod: Some(0o755), ..copy(&["a"], "b") };
    check("FROM base\nCOPY --chown=me:you --chmod=0755 --link a b", &[Instruction::Copy(flagged)]);
    let add = Copy { is_add: true, ..copy(&["a"], "b") };
    check("FROM base\nADD a b", &[Instruction::Copy(add)]);
}

#[test]
fn names_and_values() {
    check("FROM base\nENV A='x y' B=2", &[Env(pairs(&[("A", "'x y'"), ("B", "2")]))]);
    check("FROM base\nENV A x  y=z", &[Env(pairs(&[("A", "x  y=z")]))]);
    let args = vec![("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)];
    check("FROM base\nARG A=1 B", &[Arg(args)]);
    let label = Instruction::Label(pairs(&[("\"a.b\"", "\"c d\"")]));
    check("FROM base\nLABEL \"a.b\"=\"c d\"", &[label]);
}

#[test]
fn an_arg_may_stand_before_from() {
    let steps = steps(&["ARG V=3.11\nFROM python:${V}-slim"]);
    assert_eq!(steps[1].instruction, From("python:${V}-slim".to_owned()));
}

#[test]
fn stages_have_names_and_numbers() {
    let text =
        "ARG A\nFROM base AS Build\nRUN a\nFROM build\nFROM other AS build\nCOPY --from=0 a b";
    let recipe = parse(&[text]).unwrap();
    assert_eq!((recipe.globals.len(), recipe.stages.len()), (1, 3));
    let names: Vec<_> = recipe.stages.iter().map(|stage| stage.name.as_deref()).collect();
    assert_eq!(names, [Some("build"), None, Some("build")]);
    assert_eq!(recipe.stage("BUILD", 1), Some(0));
    assert_eq!(recipe.stage("build", 3), Some(2), "the last one of that name");
    assert_eq!(recipe.stage("0", 3), None, "FROM 0 names an image");
    assert_eq!(recipe.source("1", 3), Some(1));
    assert_eq!(recipe.source("2", 2), None, "stages after a line are none of its");
    let from = Some("0".to_owned());
    let wanted = Instruction::Copy(Copy { from, ..copy(&["a"], "b") });
    assert_eq!(recipe.stages[2].steps[1].instruction, wanted);
}

#[test]
fn lines_of_several_items_are_one_recipe() {
    let steps = steps(&["FROM base", "RUN a \\\n b", "RUN c"]);
    assert_eq!(steps.iter().map(|step| step.line).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(steps[1].text, "RUN a b");
}

#[test]
fn what_changes_nothing_is_kept_as_such() {
    let steps = steps(&["FROM base\nHEALTHCHECK CMD true\nMAINTAINER me"]);
    assert!(matches!(steps[1].instruction, Ignored(why) if why.contains("health")));
    assert!(matches!(steps[2].instruction, Ignored(why) if why.contains("LABEL")));
    let quiet = Run {
        command: Command::Shell("a".to_owned()),
        network: false,
        mounts: vec![RunMount::Cache],
    };
    check("FROM base\nRUN --network=none --mount=type=cache,target=/c a", &[quiet]);
}

#[test]
fn errors_name_the_line_and_say_what_to_do() {
    check_error("", &["no FROM"]);
    check_error("RUN a", &["line 1", "starts with FROM"]);
    check_error("FROM base\n\nRUM a", &["line 3", "RUM a", "no instruction RUM"]);
    check_error("FROM base\nRUN", &["line 2", "RUN needs a command"]);
    check_error("FROM base\nCOPY a", &["COPY needs sources and a destination"]);
    check_error("FROM base\nCOPY --from=$X a b", &["--from is \"$X\"", "without variables"]);
    check_error("FROM base\nADD --from=x a b", &["ADD has no flag --from"]);
    check_error("FROM base AS 1x", &["a stage's name is \"1x\""]);
    check_error("FROM base\nCOPY --chmod=u+x a b", &["--chmod", "octal"]);
    check_error("FROM base\nCOPY --chown a", &["COPY needs"]);
    check_error("FROM base\nCOPY --own=a a b", &["no flag --own", "--chown"]);
    check_error("FROM base\nADD https://host/x /x", &["ADD of https://host/x", "RUN"]);
    check_error("FROM --platform=linux/s390x base", &["linux/s390x"]);
    check_error("FROM a b", &["FROM needs one image"]);
    check_error("FROM base\nRUN --mount=type=ssh a", &["type=ssh", "secrets"]);
    check_error("FROM base\nRUN --security=insecure a", &["--security=insecure"]);
    check_error("FROM base\nRUN <<EOF\na", &["<<EOF has no end"]);
    check_error("FROM base\nENV A='x", &["quote ' has no end"]);
    check_error("FROM base\nENV A", &["ENV needs a name and a value"]);
    check_error("FROM base\nENV A=1 B", &["\"B\"", "NAME=value"]);
    check_error("FROM base\nSHELL /bin/sh", &["SHELL needs a JSON array"]);
    check_error("FROM base\nONBUILD RUN a", &["ONBUILD is not supported"]);
    check_error("FROM base\nCMD", &["CMD needs a command"]);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(
        lines in proptest::collection::vec("(RUN|COPY|ENV|ARG|ADD)? ?[ -~\n\\\\<'\"$]{0,40}", 0..5),
    ) {
        let _ = parse(&lines);
        let _ = parse(&[&["FROM base".to_owned()], &*lines].concat());
    }

    /// A shell command on one line reaches the shell as it was written.
    #[test]
    fn shell_commands_are_not_touched(command in "[a-z][ -~]{0,60}[a-z]") {
        proptest::prop_assume!(!command.contains("<<"));
        let steps = steps(&["FROM base".to_owned(), format!("RUN {command}")]);
        proptest::prop_assert_eq!(&steps[1].instruction, &run(&command));
    }
}
