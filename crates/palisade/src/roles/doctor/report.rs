//! The report: all points, for people and for scripts.

use std::fmt::Write;

use serde_json::json;

use super::facts::Facts;
use super::points::{Point, State, judge};

/// Characters of a line of text, as far as words allow.
const LINE_CHARS: usize = 96;

/// What was found, judged.
#[derive(Debug)]
pub(super) struct Report {
    points: Vec<Point>,
    data_dir: String,
    server_runs: bool,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Weaker => "weaker",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

impl Report {
    /// Judges the facts.
    pub(super) fn of(facts: &Facts) -> Self {
        let data_dir = facts.data_dir.display().to_string();
        Self { points: judge(facts), data_dir, server_runs: facts.server_runs }
    }

    /// Whether functions can run here.
    pub(super) fn can_run(&self) -> bool {
        self.points.iter().all(|point| matches!(point.state, State::Ok | State::Weaker))
    }

    fn count(&self, state: State) -> usize {
        self.points.iter().filter(|point| point.state == state).count()
    }

    fn verdict(&self) -> String {
        if !self.can_run() {
            return match self.count(State::Missing) {
                0 => "it is not known whether functions can run here".into(),
                1 => "functions cannot run here: 1 thing is missing".into(),
                n => format!("functions cannot run here: {n} things are missing"),
            };
        }
        match self.count(State::Weaker) {
            0 => "functions can run here".into(),
            1 => "functions can run here; 1 thing is weaker than it could be".into(),
            n => format!("functions can run here; {n} things are weaker than they could be"),
        }
    }

    /// For people: a table, and what to do below each point that is not as wanted.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let width = self.points.iter().map(|point| point.key.len()).max().unwrap_or(0);
        let indent = 9 + width + 2;
        for point in &self.points {
            let head = format!("{:<9}{:<width$}  ", point.state.word(), point.key);
            wrap(&mut text, &head, indent, &point.found);
            if let Some(follows) = &point.follows {
                wrap(&mut text, &" ".repeat(indent), indent, follows);
            }
            if let Some(remedy) = &point.remedy {
                wrap(&mut text, &format!("{:>indent$}", "-> "), indent, remedy);
            }
        }
        if self.server_runs {
            // A String takes whatever is written to it.
            let _ = writeln!(text, "\na server runs on {}", self.data_dir);
        }
        let _ = write!(text, "\n{}", self.verdict());
        text
    }

    /// For scripts. Keys and states stay the same from release to release; texts may change.
    pub(super) fn json(&self) -> String {
        let point = |point: &Point| {
            json!({
                "key": point.key,
                "state": point.state.word(),
                "found": point.found,
                "follows": point.follows,
                "remedy": point.remedy,
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "can_run": self.can_run(),
            "verdict": self.verdict(),
            "data_dir": self.data_dir,
            "server_runs": self.server_runs,
            "points": self.points.iter().map(point).collect::<Vec<_>>(),
        })
        .to_string()
    }
}

/// Appends `head` and the words of `text`, broken into lines that begin at `indent`.
fn wrap(out: &mut String, head: &str, indent: usize, text: &str) {
    out.push_str(head);
    let mut column = indent;
    for (n, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if n > 0 && column + 1 + length > LINE_CHARS {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if n > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use jail::disk::Mechanism;
    use jail::host::{CgroupKind, Cgroups, Host};
    use jail::network::Survey;

    use super::super::facts::{DiskFacts, Trial};
    use super::*;

    /// A machine that has everything.
    pub(in super::super) fn facts() -> Facts {
        let cgroups =
            Cgroups { kind: CgroupKind::V2, memory: Some(2), cpu: Some(2), pids: Some(2) };
        let host = Host {
            kernel: "6.1.0-32-amd64".into(),
            kernel_too_old: false,
            root: true,
            initial_user_namespace: true,
            user_namespaces_max: 96_365,
            overlay_known: true,
            seccomp: true,
            cgroups,
            open_files_max: Some(1 << 20),
            capabilities_missing: vec![],
            capabilities_wished: vec![],
            proc_hidden_by: vec![],
        };
        let subnet = "10.213.0.0/16".parse().expect("a range");
        Facts {
            host,
            data_dir: "/var/lib/palisade".into(),
            server_runs: false,
            free_bytes: Some(100 << 30),
            base_images_lack: vec![],
            has_btrfs_tools: true,
            has_nft: true,
            resolver: "192.0.2.53".parse().ok(),
            disk: Trial::Worked(DiskFacts {
                mechanism: Mechanism::ProjectQuota,
                passed_over: vec![],
            }),
            container: Trial::Worked(Duration::from_millis(12)),
            memory_ids: Trial::Worked(true),
            network: Trial::Worked(Survey { subnet, obstacles: vec![] }),
        }
    }

    fn check(change: impl FnOnce(&mut Facts), can_run: bool, verdict: &str) {
        let mut facts = facts();
        change(&mut facts);
        let report = Report::of(&facts);
        assert_eq!(report.can_run(), can_run);
        assert_eq!(report.verdict(), verdict);
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["can_run"], can_run);
        assert!(report.text().ends_with(verdict));
    }

    #[test]
    fn the_verdict_follows_from_the_points() {
        check(|_| {}, true, "functions can run here");
        let one = "functions can run here; 1 thing is weaker than it could be";
        check(|f| f.resolver = None, true, one);
        let lacks = |f: &mut Facts| f.has_nft = false;
        check(lacks, false, "functions cannot run here: 1 thing is missing");
        let nobody = |f: &mut Facts| {
            f.host.root = false;
            (f.disk, f.container, f.network) =
                (Trial::NeedsRoot, Trial::NeedsRoot, Trial::NeedsRoot);
        };
        check(nobody, false, "functions cannot run here: 1 thing is missing");
    }

    #[test]
    fn the_keys_for_scripts_stay() {
        let json: serde_json::Value =
            serde_json::from_str(&Report::of(&facts()).json()).expect("JSON");
        let points = json["points"].as_array().expect("points");
        let keys: Vec<_> = points.iter().filter_map(|point| point["key"].as_str()).collect();
        let want = "kernel root capabilities user_namespaces overlay seccomp proc cgroups \
            open_files disk_space disk_limit network resolver base_images container \
            fallbacks";
        assert_eq!(keys, want.split_whitespace().collect::<Vec<_>>());
        assert!(points.iter().all(|point| point["state"] == "ok" && point["remedy"].is_null()));
    }

    #[test]
    fn text_is_aligned_and_short() {
        let mut facts = facts();
        facts.host.cgroups.memory = None;
        facts.host.open_files_max = Some(1_024);
        let text = Report::of(&facts).text();
        assert!(text.lines().all(|line| line.chars().count() <= LINE_CHARS), "{text}");
        assert!(text.starts_with("ok       kernel           6.1.0-32-amd64\n"), "{text}");
        assert!(text.contains("\nweaker   open_files       hard limit 1024\n"), "{text}");
        assert!(text.contains("                       -> LimitNOFILE"), "{text}");
    }
}
