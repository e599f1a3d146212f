//! What is known so far, on the disk after every run: a program that is interrupted loses no run that ended.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::args::Args;
use crate::table::{self, Row};
use crate::tally::Tally;

/// What a run of a row takes, for the guess at the end: all but the outages of a minute take about this.
const USUAL: f64 = 20.0;
const LONG: f64 = 80.0;
/// Where nobody looks at a terminal, a line of progress each so often.
const LINES: usize = 10;

/// One row and its runs.
pub struct Part {
    pub row: Row,
    pub sum: Tally,
    /// Runs that are asked for.
    pub of: u32,
    /// Runs that could not be made.
    pub broken: u32,
}

impl Part {
    /// Whether it shows what it must.
    pub fn holds(&self) -> bool {
        self.broken == 0 && self.sum.runs > 0 && self.row.holds(&self.sum)
    }

    fn weight(&self, is_quick: bool) -> f64 {
        if self.row.fault.is_outage() && !is_quick { LONG } else { USUAL }
    }
}

pub struct Report {
    pub parts: Vec<Part>,
    is_quick: bool,
    keep: bool,
    start: Instant,
    ended: usize,
    out: PathBuf,
    table: Option<PathBuf>,
    /// What stood in `out` before us.
    before: String,
}

impl Report {
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn new(args: &Args, rows: Vec<Row>, start: Instant) -> Fallible<Report> {
        let parts = rows.into_iter().map(|row| {
            let of = if row.fault.is_outage() { args.long_runs.unwrap_or(args.runs) } else { args.runs };
            Part { row, sum: Tally::default(), of, broken: 0 }
        });
        let before = match fs::read_to_string(&args.out) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{}: {error}", args.out.display())),
        };
        let (out, table) = (args.out.clone(), args.table.clone());
        Ok(Report {
            parts: parts.collect(),
            is_quick: args.quick,
            keep: args.keep,
            start,
            ended: 0,
            out,
            table,
            before,
        })
    }

    /// A run of this part ended; what could not be made is an error.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn add(&mut self, part: usize, run: Fallible<Tally>) -> Fallible<()> {
        self.ended += 1;
        let Some(part) = self.parts.get_mut(part) else { return Ok(()) };
        match run {
            Ok(tally) => {
                // A row that must show something is looked at as a whole, unless somebody wants to see the runs.
                let (row, is_shown) = (part.row, !tally.is_clean() && (self.keep || !part.row.is_expected_to_lose()));
                for note in tally.notes.iter().filter(|_| is_shown) {
                    clear();
                    eprintln!("{} {:?}: {note}", row.id(), row.class);
                }
                part.sum.add(tally);
            }
            Err(_) => part.broken += 1,
        }
        self.progress();
        // A disk that is busy must not stop the clients and the proxies.
        tokio::task::block_in_place(|| self.write())
    }

    /// Rows that have a run.
    fn rows(&self) -> Vec<(Row, &Tally)> {
        self.parts.iter().filter(|part| part.sum.runs > 0).map(|part| (part.row, &part.sum)).collect()
    }

    pub fn print(&self) -> String {
        table::print(&self.rows())
    }

    /// Writes all that is known.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self) -> Fallible<()> {
        let lines: String = self.rows().iter().map(|(row, sum)| table::line(*row, sum) + "\n").collect();
        replace(&self.out, &format!("{}{lines}", self.before))?;
        match &self.table {
            Some(path) => replace(path, &format!("{}\n\n```\n{}```\n", self.line(), self.print())),
            None => Ok(()),
        }
    }

    /// How far we are.
    fn line(&self) -> String {
        let weigh = |runs: &dyn Fn(&Part) -> u32| {
            self.parts.iter().map(|part| f64::from(runs(part)) * part.weight(self.is_quick)).sum::<f64>()
        };
        let (all, done) = (weigh(&|part| part.of), weigh(&|part| part.sum.runs + part.broken));
        let took = self.start.elapsed().as_secs_f64();
        let left = if done > 0.0 { took * (all - done).max(0.0) / done } else { 0.0 };
        let asked: u32 = self.parts.iter().map(|part| part.of).sum();
        let bad: Vec<String> = self
            .parts
            .iter()
            .filter(|part| part.broken > 0 || (part.sum.runs > 0 && !part.row.holds(&part.sum)))
            .map(|part| format!("{} {:?}", part.row.id(), part.row.class))
            .collect();
        let bad = if bad.is_empty() { "all clean".to_owned() } else { format!("not clean: {}", bad.join(", ")) };
        format!("{} of {asked} runs after {}, about {} to go; {bad}", self.ended, minutes(took), minutes(left))
    }

    fn progress(&self) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{}", self.line());
        } else if self.ended.is_multiple_of(LINES) {
            eprintln!("{}", self.line());
        }
    }
}

fn minutes(seconds: f64) -> String {
    let seconds = Duration::from_secs_f64(seconds).as_secs();
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

/// In one step, so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> Fallible<()> {
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(words)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    fs::write(&name, text).and_then(|()| fs::rename(&name, path)).map_err(words)
}

/// Makes room where the last line is progress.
pub fn clear() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Class, Fault, Topology};
    use clap::Parser;

    #[tokio::test(flavor = "multi_thread")]
    async fn every_run_is_on_the_disk_and_other_lines_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (out, table) = (folder.path().join("deep/kill.jsonl"), folder.path().join("table.md"));
        fs::create_dir_all(out.parent().unwrap()).unwrap();
        fs::write(&out, "{\"id\":\"earlier\"}\n").unwrap();
        let words = ["kill", "--runs", "2", "--out", out.to_str().unwrap(), "--table", table.to_str().unwrap()];
        let args = Args::try_parse_from(words).unwrap();
        let row = Row { fault: Fault::Edge, class: Class::Memory, topology: Topology::Single };
        let mut report = Report::new(&args, vec![row], Instant::now()).unwrap();
        for runs in 1..=2 {
            report.add(0, Ok(Tally { runs: 1, acknowledged: 5, ..Tally::default() })).unwrap();
            let text = fs::read_to_string(&out).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!((lines.len(), lines[0]), (2, "{\"id\":\"earlier\"}"));
            let json: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
            assert_eq!((&json["runs"], &json["acknowledged"]), (&runs.into(), &(5 * runs).into()));
        }
        assert!(fs::read_to_string(&table).unwrap().contains("2 of 2 runs"));
        assert!(report.parts[0].holds());
        report.add(0, Err("not made".into())).unwrap();
        assert!(!report.parts[0].holds());
    }
}
