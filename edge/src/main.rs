//! `sipmcp-edge`: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use edge::args::Args;
use tokio_rustls::rustls::crypto::aws_lc_rs;

fn main() -> ExitCode {
    // Before anything else: whoever builds a TLS configuration takes the provider of the process. It is an error only the second time.
    let _ = aws_lc_rs::default_provider().install_default();
    edge::run::run(&Args::parse())
}
