//! `sipmcp-edge`: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use edge::args::Args;
use mimalloc::MiMalloc;
use tokio_rustls::rustls::crypto::aws_lc_rs;

/// A message makes some hundred small allocations that live for microseconds; the C library's allocator took a fifth of a shard's time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Before anything else: whoever builds a TLS configuration takes the provider of the process. It is an error only the second time.
    let _ = aws_lc_rs::default_provider().install_default();
    edge::run::run(&Args::parse())
}
