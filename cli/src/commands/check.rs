//! `sipmcp check`: the same validation as the edge's.

use std::path::PathBuf;

use crds::manifest::Loaded;
use serde_json::json;

use crate::failure::{Exit, Failure};

pub fn run(files: &[PathBuf], as_json: bool) -> Result<(), Failure> {
    report(&crds::manifest::load(files), as_json)
}

/// Says what is wrong.
pub fn report(loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    for problem in &loaded.problems {
        if as_json {
            let line = json!({
                "file": problem.file, "line": problem.line, "field": problem.field, "message": problem.message,
            });
            println!("{line}");
        } else {
            println!("{problem}");
        }
    }
    let wrong = loaded.problems.len();
    if wrong > 0 {
        let message = format!("{wrong} problem{} found", if wrong == 1 { "" } else { "s" });
        return Err(Failure { exit: Exit::Usage, message, code: None });
    }
    if !as_json {
        eprintln!("valid");
    }
    Ok(())
}
