//! Figures: printed, and appended to a file, one JSON object per line.

use std::fs::{OpenOptions, create_dir_all};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::Fallible;

/// A test fails at so many times its goal; up to there the figure speaks for itself.
const FAILS_AT: f64 = 10.0;

/// Where figures go.
#[derive(Debug)]
pub struct Figures {
    file: PathBuf,
    /// What every line has: the cluster's version and nodes.
    common: Map<String, Value>,
    writing: Mutex<()>,
}

impl Figures {
    pub fn new(file: PathBuf, common: Map<String, Value>) -> Figures {
        Figures { file, common, writing: Mutex::default() }
    }

    /// `values`: an object whose names end in their unit.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tell(&self, id: &str, values: Value) -> Fallible<()> {
        let mut line = Map::new();
        line.insert("id".to_owned(), json!(id));
        line.extend(values.as_object().cloned().unwrap_or_default());
        line.extend(self.common.clone());
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        line.insert("at_s".to_owned(), json!(at.as_secs()));
        let line = Value::Object(line).to_string();
        println!("figure {line}");
        let _one_at_a_time = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let cannot = |error: std::io::Error| format!("{}: {error}", self.file.display());
        if let Some(folder) = self.file.parent() {
            create_dir_all(folder).map_err(cannot)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file).map_err(cannot)?;
        writeln!(file, "{line}").map_err(cannot)
    }
}

/// Whether a figure is so far from its goal that something is broken.
///
/// # Errors
/// It is ten times its goal.
pub fn bearable(what: &str, figure: f64, goal: f64) -> Fallible<()> {
    if figure < goal * FAILS_AT {
        Ok(())
    } else {
        Err(format!("{what} is {figure:.0}; the goal is {goal:.0}, and at ten times that the test fails"))
    }
}

pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The value that `share` (0 to 1) of the times do not exceed (nearest rank). Zero where there are none.
pub fn percentile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among few"
    )]
    let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// `p50_ms`, `p99_ms`, `max_ms` and how many.
pub fn times(times: &[Duration]) -> Value {
    json!({
        "p50_ms": ms(percentile(times, 0.5)), "p99_ms": ms(percentile(times, 0.99)), "max_ms": ms(percentile(times, 1.0)), "count": times.len(),
    })
}

/// Two objects in one.
pub fn with(mut values: Value, more: Value) -> Value {
    if let (Some(values), Value::Object(more)) = (values.as_object_mut(), more) {
        values.extend(more);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        let at = |share| percentile(&times, share).as_millis();
        assert_eq!((at(0.5), at(0.99), at(1.0), at(0.0)), (50, 99, 100, 1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn a_figure_is_one_line_and_nobodys_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bench/e2e.jsonl");
        let figures = Figures::new(file.clone(), Map::from_iter([("nodes".to_owned(), json!(2))]));
        figures.tell("a", json!({"p50_ms": 1.5})).unwrap();
        figures.tell("b", with(json!({"x": 1}), json!({"y": 2}))).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["id"], &lines[0]["p50_ms"], &lines[0]["nodes"]), (&json!("a"), &json!(1.5), &json!(2)));
        assert_eq!((lines.len(), &lines[1]["y"]), (2, &json!(2)));
    }

    #[test]
    fn ten_times_the_goal_is_too_much() {
        assert!(bearable("it", 9999.0, 1000.0).is_ok() && bearable("it", 10_000.0, 1000.0).is_err());
    }
}
