//! Builds as they are, as root and with the host's package archives: real base images, steps in
//! a chroot, the client's packages. The store stays between runs, so that only the first makes
//! base images; everything else is forced or of a new key.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bases;
mod chroot;
mod clients;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use chroot::Chroot;
use images::recipe::parse;
use images::{
    Builder, Context, ContextFile, Exit, Image, LayerStore, Request, RunError, RunStep, Secrets,
    StepDirs, StepRunner, TreeCopy,
};

const BASE: &str = "python:3.11.12-slim-bookworm";

static BUILDER: LazyLock<Builder> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    Builder::new(Arc::new(LayerStore::open(dir).unwrap()))
});

/// One build: what it gives, and its log.
struct Case {
    context: Context,
    args: BTreeMap<String, String>,
    secrets: Secrets,
    is_forced: bool,
}

impl Case {
    fn new() -> Self {
        let (context, args, secrets) = (Context::default(), BTreeMap::new(), Secrets::default());
        Self { context, args, secrets, is_forced: false }
    }

    fn build(
        &self,
        lines: &[&str],
        runner: &dyn StepRunner,
    ) -> (Result<Image, images::BuildError>, String) {
        let recipe = parse(lines).unwrap();
        let mut log = Vec::new();
        let bases = BTreeMap::from([("base".to_owned(), base())]);
        let request = Request {
            recipe: &recipe,
            bases: &bases,
            context: &self.context,
            args: &self.args,
            secrets: &self.secrets,
            credentials: None,
            is_forced: self.is_forced,
            step_timeout: None,
        };
        let built = BUILDER.build(&request, runner, &mut |bytes| log.extend_from_slice(bytes));
        (built, String::from_utf8_lossy(&log).into_owned())
    }

    fn build_well(&self, lines: &[&str]) -> (Image, String) {
        let (built, log) = self.build(lines, &Chroot::new());
        (built.unwrap_or_else(|error| panic!("{error}\n{log}")), log)
    }
}

fn base() -> Image {
    BUILDER.base(BASE, &mut |_| {}).unwrap()
}

/// A text that no earlier run has seen, so that a step with it is not remembered.
fn fresh() -> String {
    format!("{:x}", rand::random::<u128>())
}

/// What a shell command prints in an image.
fn output(image: &Image, command: &str) -> String {
    let draft = BUILDER.store().draft().unwrap();
    let step = RunStep {
        layers: BUILDER.store().diffs(&image.layers).unwrap(),
        bound: Vec::new(),
        dirs: StepDirs { upper: draft.upper(), work: draft.work() },
        argv: vec!["/bin/sh".to_owned(), "-ec".to_owned(), command.to_owned()],
        env: image.config.env.clone(),
        cwd: image.config.workdir().to_owned(),
        user: String::new(),
        mounts: Vec::new(),
        network: true,
        timeout: None,
    };
    let mut log = Vec::new();
    let exit = Chroot::new().run(&step, &mut |bytes| log.extend_from_slice(bytes)).unwrap();
    let log = String::from_utf8_lossy(&log).into_owned();
    assert_eq!(exit, Exit::Code(0), "{log}");
    log
}

#[test]
fn the_clients_own_default_image_builds() {
    let fresh = fresh();
    let (image, log) = Case::new().build_well(&[
        "FROM python:3.11.12-slim-bookworm",
        "RUN apt-get update",
        "RUN apt-get install -y gcc gfortran build-essential",
        "RUN pip install --upgrade pip wheel uv",
        "RUN echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections",
        &format!("ENV FRESH={fresh}"),
        "CMD [\"sleep\", \"172800\"]",
    ]);
    assert_eq!(image.config.cmd, ["sleep", "172800"]);
    assert!(log.contains("Step 2/7: RUN apt-get update"), "{log}");
    let code = "printf '#include <Python.h>\\nint x = PY_MAJOR_VERSION;' >/tmp/a.c; \
        gcc $(python -c 'import sysconfig; print(\"-I\" + sysconfig.get_path(\"include\"))') \
        -c /tmp/a.c -o /tmp/a.o; uv --version; uv pip install --system six; python -c 'import six'";
    assert!(output(&image, code).contains("uv "));
}

#[test]
fn steps_see_what_recipes_say() {
    let mut case = Case::new();
    case.args.insert("GIVEN".to_owned(), "given".to_owned());
    case.secrets.0.push(("TOKEN".to_owned(), fresh()));
    case.context = Context::new([
        ContextFile::of_bytes("/dir/one", b"1"),
        ContextFile::of_bytes("/dir/sub/two", b"2"),
    ]);
    let (image, log) = case.build_well(&[
        "FROM base",
        "ARG GIVEN=default",
        "ARG OTHER=other",
        "ENV A='x y' B=$OTHER",
        "WORKDIR /work/$GIVEN",
        "COPY dir .",
        "COPY --chown=daemon:daemon --chmod=600 dir/one /etc",
        "COPY <<EOF note\nhello $A\nEOF",
        "RUN test -n \"$TOKEN\" && echo \"$PWD $A $B $GIVEN\" > said",
        "RUN [\"python\", \"-c\", \"open('exec', 'w').write('e')\"]",
        "RUN <<EOF\n#!/usr/bin/env python3\nopen('script', 'w').write('s')\nEOF",
        "RUN <<EOF\necho a > shell\necho b >> shell\nEOF",
        "RUN rm -r sub",
        "USER daemon",
        "RUN id -un > /tmp/who && cp /tmp/who /var/tmp/who",
        "ENTRYPOINT [\"/bin/x\"]",
        "LABEL k=v",
        "EXPOSE 80",
    ]);
    let said = output(
        &image,
        "cat said note exec script shell one; ls; stat -c '%a %U:%G' /etc/one; \
        cat /var/tmp/who; env | grep -c TOKEN || true; stat -c %a /tmp /etc /work",
    );
    let wanted = "/work/given x y other given\nhello x y\nesa\nb\n1exec\nnote\none\nsaid\nscript\n\
        shell\n600 daemon:daemon\ndaemon\n0\n1777\n755\n755\n";
    assert_eq!(said, wanted, "{log}");
    assert_eq!(image.config.user, "daemon");
    assert_eq!(image.config.entrypoint, ["/bin/x"]);
    assert!(image.config.cmd.is_empty());
    assert_eq!(image.config.labels["k"], "v");
    assert_eq!(image.config.env("GIVEN"), None);
    for layer in &image.layers {
        BUILDER.store().verify(*layer).unwrap();
    }
}

#[test]
fn a_step_runs_once() {
    let line = format!("RUN echo {}", fresh());
    let (first, log) = Case::new().build_well(&["FROM base", &line, "ENV A=1"]);
    assert!(!log.contains("cached"), "{log}");
    let (second, log) = Case::new().build_well(&["FROM base", "ENV B=1", &line]);
    assert!(!log.contains("cached"), "another environment is another step: {log}");
    let (third, log) = Case::new().build_well(&["FROM base", &line, "ENV A=1"]);
    assert!(log.contains("Step 2/3: cached"), "{log}");
    assert_eq!(first, third);
    // It leaves no file, so it needs no layer.
    assert_eq!(second.layers, base().layers);
    let forced = Case { is_forced: true, ..Case::new() };
    let (fourth, log) = forced.build_well(&["FROM base", &line, "ENV A=1"]);
    assert!(!log.contains("cached"), "{log}");
    assert_eq!(first, fourth);
}

#[test]
fn who_has_other_secrets_does_not_get_what_was_built_with_these() {
    let line = format!("RUN echo \"$TOKEN\" > /token-{}", fresh());
    let mut one = Case::new();
    one.secrets.0.push(("TOKEN".to_owned(), "one".to_owned()));
    let mut two = Case::new();
    two.secrets.0.push(("TOKEN".to_owned(), "two".to_owned()));
    let (first, _) = one.build_well(&["FROM base", &line]);
    let (second, log) = two.build_well(&["FROM base", &line]);
    assert_ne!(first.layers, second.layers, "{log}");
    let (third, log) = one.build_well(&["FROM base", &line]);
    assert!(log.contains("cached"), "{log}");
    assert_eq!(first, third);
}

#[test]
fn a_step_that_fails_says_how_and_leaves_nothing() {
    let before = BUILDER.store().list().unwrap().len();
    let line = format!("RUN touch /x; echo it is {0}; exit 3", fresh());
    let (built, log) = Case::new().build(&["FROM base", &line], &Chroot::new());
    let error = built.unwrap_err().to_string();
    assert!(error.contains("exit code 3") && error.contains("RUN touch /x"), "{error}");
    assert!(error.contains("step 2 of 2"), "{error}");
    assert!(log.contains("\nit is "), "{log}");
    let (built, log) = Case::new().build(&["FROM base", &line], &Chroot::new());
    assert!(built.is_err() && !log.contains("cached"), "{log}");
    // Other tests add layers at the same time; this one's would hold /x.
    let store = BUILDER.store();
    let kept = store.list().unwrap().into_iter().any(|layer| store.diff(layer).join("x").exists());
    assert!(!kept && store.list().unwrap().len() >= before);
}

/// Counts the steps that really run.
#[derive(Debug, Default)]
struct Counting {
    lines: Mutex<Vec<Vec<String>>>,
    copies: Mutex<Vec<String>>,
}

impl StepRunner for Counting {
    fn run(&self, step: &RunStep, _: &mut dyn FnMut(&[u8])) -> Result<Exit, RunError> {
        self.lines.lock().unwrap().push(step.argv.clone());
        std::thread::sleep(std::time::Duration::from_millis(200));
        std::fs::write(step.dirs.upper.join("file"), &step.argv[2]).unwrap();
        Ok(Exit::Code(0))
    }

    fn write(
        &self,
        _: &[std::path::PathBuf],
        _: &StepDirs,
        _: &[images::Entry],
    ) -> Result<(), RunError> {
        Err(RunError::Refused("nothing is written here".to_owned()))
    }

    fn copy(
        &self,
        _: &[std::path::PathBuf],
        dirs: &StepDirs,
        copy: &TreeCopy,
    ) -> Result<(), RunError> {
        self.copies.lock().unwrap().push(copy.name.clone());
        std::fs::write(dirs.upper.join("copied"), copy.sources.join(" ")).unwrap();
        Ok(())
    }
}

#[test]
fn the_same_step_of_two_builds_at_the_same_time_runs_once() {
    let runner = Counting::default();
    let line = format!("RUN {}", fresh());
    let images: Vec<Image> = std::thread::scope(|scope| {
        let build = || Case::new().build(&["FROM base", &line], &runner).0.unwrap();
        let builds: Vec<_> = (0..4).map(|_| scope.spawn(build)).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(runner.lines.lock().unwrap().len(), 1);
}

#[test]
fn errors_of_a_build_name_its_line() {
    let check = |lines: &[&str], parts: &[&str]| {
        let error = Case::new().build(lines, &Counting::default()).0.unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    };
    check(&["FROM python:3.12-slim"], &["line 1", "python:3.11-slim"]);
    check(&["FROM base", "COPY nowhere /x"], &["line 2", "\"nowhere\"", "empty"]);
    check(&["FROM base", "WORKDIR ${X:?which}"], &["line 2", "X is not set: which"]);
    check(&["FROM base", "WORKDIR /x"], &["step 2 of 2", "nothing is written here"]);
    let long = format!("RUN echo {}", "x".repeat(200_000));
    check(&["FROM base", &long], &["line 2", "128 KiB"]);
}
