//! The machine itself, and what it says on its serial line.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::payload::Payload;
use super::root::Root;
use crate::limits::{VM_LINES_MAX, VM_MAX, VM_MEMORY_MIB, VM_PROCESSORS};

/// How lines begin that are meant for this program.
const MARK: &str = "palisade-vm: ";

/// Boots the machine, shows what it says, and fails unless every step passed.
pub(super) fn run(root: &Root, payload: &Payload) -> Result<()> {
    println!("\nbooting {} in a virtual machine", root.kernel_release);
    let mut qemu = command(root, payload)
        .spawn()
        .context("qemu-system-x86_64 cannot be run: install qemu-system-x86")?;
    let heard = listen(&mut qemu);
    // Whatever was heard: no machine is left running.
    let _ = qemu.kill();
    qemu.wait()?;
    let mut results = Results::default();
    for line in heard? {
        results.hear(&line);
    }
    results.judge(&payload.steps)
}

fn command(root: &Root, payload: &Payload) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    // Emulated: kvm is not to be had everywhere. The kernel has NVMe built in, so that it needs no
    // initial memory disk.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults", "-no-reboot"]);
    qemu.args(["-display", "none", "-serial", "stdio", "-nic", "none"]);
    qemu.args(["-smp", &VM_PROCESSORS.to_string(), "-m", &VM_MEMORY_MIB.to_string()]);
    qemu.arg("-kernel").arg(&root.kernel);
    qemu.args(["-append", "console=ttyS0 quiet root=/dev/nvme0n1 rw init=/vm/init panic=-1"]);
    for (name, disk) in [("root", &root.disk), ("payload", &payload.disk)] {
        qemu.arg("-drive").arg(drive(name, disk));
        qemu.args(["-device", &format!("nvme,serial={name},drive={name}")]);
    }
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    qemu
}

/// What the machine writes is thrown away. A comma in an option's value is written twice.
fn drive(name: &str, disk: &Path) -> String {
    let file = disk.display().to_string().replace(',', ",,");
    format!("if=none,id={name},format=raw,snapshot=on,file={file}")
}

/// Shows what the machine says until it ends, and returns the lines that are meant for us.
fn listen(qemu: &mut Child) -> Result<Vec<String>> {
    let output = qemu.stdout.take().context("the machine has no serial line")?;
    let (sender, lines) = sync_channel(VM_LINES_MAX);
    let reader = std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    let heard = collect(&lines);
    drop(lines);
    // It ends with the machine, which is killed next.
    drop(reader);
    heard
}

fn collect(lines: &Receiver<String>) -> Result<Vec<String>> {
    let deadline = Instant::now() + VM_MAX;
    let mut heard = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left.max(Duration::from_millis(1))) {
            Ok(line) => {
                println!("| {line}");
                heard.extend(line.strip_prefix(MARK).map(str::to_owned));
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(heard),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the virtual machine is not done after {} s", VM_MAX.as_secs())
            }
        }
    }
}

/// How the steps went, as the machine said.
#[derive(Debug, Default)]
struct Results {
    passed: Vec<String>,
    failed: Vec<String>,
    ended: bool,
}

impl Results {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        match (words.next(), words.next()) {
            (Some(step), Some("passed")) => self.passed.push(step.to_owned()),
            (Some(step), Some("failed")) => self.failed.push(step.to_owned()),
            (Some("end"), None) => self.ended = true,
            _ => {}
        }
    }

    fn judge(&self, steps: &[String]) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("these steps fail in the virtual machine: {}", self.failed.join(", "));
        }
        let missing: Vec<&str> =
            steps.iter().filter(|step| !self.passed.contains(step)).map(String::as_str).collect();
        if !missing.is_empty() {
            bail!("the virtual machine says nothing of these steps: {}", missing.join(", "));
        }
        if !self.ended {
            bail!("the virtual machine stopped before its end");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], error: Option<&str>) {
        let mut results = Results::default();
        lines.iter().for_each(|line| results.hear(line));
        let judged = results.judge(&["jail".to_owned(), "client".to_owned()]);
        assert_eq!(judged.err().map(|error| error.to_string()).as_deref(), error, "{lines:?}");
    }

    #[test]
    fn only_what_passed_and_was_said_counts() {
        let (jail, client) = ("jail passed (0) after 7 s", "client passed (0) after 90 s");
        check(&["jail begins", jail, "client begins", client, "end"], None);
        check(
            &[jail, "client failed (1) after 3 s", "end"],
            Some("these steps fail in the virtual machine: client"),
        );
        check(&[jail, "end"], Some("the virtual machine says nothing of these steps: client"));
        check(&[jail, client], Some("the virtual machine stopped before its end"));
    }

    #[test]
    fn paths_with_commas_are_one_value() {
        assert!(drive("a", Path::new("/x,y")).ends_with("file=/x,,y"));
    }
}
