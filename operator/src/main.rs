//! `sipmcp-operator`: see `--help`.

use clap::Parser;
use operator::config::Args;
use std::process::ExitCode;

fn main() -> ExitCode {
    operator::run::run(&Args::parse())
}
