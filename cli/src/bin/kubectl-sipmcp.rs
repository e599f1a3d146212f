//! `kubectl sipmcp`: see `--help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::kubectl()
}
