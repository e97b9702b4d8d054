//! A server of our own for as long as a command runs.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::limits::{LOOK_EVERY, READY_MAX, STOP_MAX};

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    binary: PathBuf,
    data: PathBuf,
    log: PathBuf,
    /// Where clients reach it.
    pub(crate) url: String,
}

impl Server {
    /// Starts `binary` on `data` with a free port; its log goes to `log`.
    pub(crate) fn start(binary: &Path, data: &Path, log: &Path) -> Result<Self> {
        let log_file =
            File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
        // setpriv: should this program die, so does the server.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .context("setpriv cannot be run")?;
        let stdout = child.stdout.take().context("the server has no standard output")?;
        let mut server = Self {
            child,
            binary: binary.into(),
            data: data.into(),
            log: log.into(),
            url: String::new(),
        };
        let (sender, receiver) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            // The receiver is gone when the server took too long.
            let _ = sender.send(read.map(|_| line));
        });
        let line = receiver.recv_timeout(READY_MAX).unwrap_or(Ok(String::new()))?;
        match url_in(&line) {
            Some(url) => server.url = url.to_owned(),
            None => bail!("the server is not ready; it says:\n{}{line}", server.last_words()),
        }
        Ok(server)
    }

    /// The variables that lead a client to this server.
    pub(crate) fn environment(&self) -> Result<Vec<(String, String)>> {
        let output = Command::new(&self.binary)
            .arg("env")
            .arg("--data-dir")
            .arg(&self.data)
            .output()
            .context("`palisade env` cannot be run")?;
        if !output.status.success() {
            bail!("`palisade env` fails: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let variables = exports(&String::from_utf8_lossy(&output.stdout));
        if !variables.iter().any(|(name, _)| name == "MODAL_SERVER_URL") {
            bail!("`palisade env` names no MODAL_SERVER_URL");
        }
        Ok(variables)
    }

    /// Ends the server with SIGTERM, waits for it, and fails if it does not end well.
    pub(crate) fn stop(mut self) -> Result<()> {
        let started = Instant::now();
        self.signal(Signal::TERM);
        while started.elapsed() < STOP_MAX {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the server ends with {status}; it says:\n{}", self.last_words());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        bail!("the server does not end within {} s of SIGTERM", STOP_MAX.as_secs())
    }

    /// The end of the server's log.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].iter().map(|line| format!("  {line}\n")).collect()
    }

    fn signal(&self, signal: Signal) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        if let Some(pid) = Pid::from_raw(pid) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::TERM);
        let started = Instant::now();
        while started.elapsed() < STOP_MAX {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the one line that a ready server prints.
fn url_in(line: &str) -> Option<&str> {
    line.strip_prefix("palisade is ready at ")?.split_whitespace().next()
}

/// The pairs of `export NAME=value NAME='value'` lines.
fn exports(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for word in text.lines().filter_map(|line| line.trim().strip_prefix("export ")).flat_map(words)
    {
        if let Some((name, value)) = word.split_once('=') {
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    pairs
}

/// Words as a shell splits them, where quotes are single or double and nothing is expanded.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None) => word.extend(characters.next()),
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (c, _) => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_the_address() {
        let line = "palisade is ready at http://127.0.0.1:4711 (data in /x y)\n";
        assert_eq!(url_in(line), Some("http://127.0.0.1:4711"));
        assert_eq!(url_in("palisade is not ready\n"), None);
        assert_eq!(url_in(""), None);
    }

    #[test]
    fn exports_are_read_as_a_shell_reads_them() {
        let text = "# a comment\nexport A=1 B='two words'\nexport C=\"x\" D=it\\'s\nE=no\n";
        let pairs = exports(text);
        let expected = [("A", "1"), ("B", "two words"), ("C", "x"), ("D", "it's")];
        let expected: Vec<_> =
            expected.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        assert_eq!(pairs, expected);
    }

    #[test]
    fn a_server_that_dies_at_once_is_an_error_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let error = Server::start(Path::new("/bin/false"), dir.path(), &log).unwrap_err();
        assert!(error.to_string().contains("not ready"), "{error}");
    }
}
