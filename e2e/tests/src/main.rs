//! What the charts, the operator and the edges do on a real Kubernetes: tests one after another, and figures of what they show.
//!
//! `scripts/e2e.sh` brings a cluster, images and tools, and runs this. KUBECONFIG names the cluster.

mod args;
mod certificates;
mod harness;
mod manifests;
mod runner;
mod sip;
mod tests;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

/// A result whose error is a sentence.
pub type Fallible<T> = Result<T, String>;

/// Leaves a test with a sentence where something is not as it must be.
#[macro_export]
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for test in tests::ALL {
            println!("{:<44} {}", test.name, test.shows);
        }
        return ExitCode::SUCCESS;
    }
    // One provider for the API server and the edges. A second installation would be refused, and changes nothing.
    let _ = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("e2e: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(runner::run(args));
    // What a broken test left running is not waited for.
    runtime.shutdown_background();
    code
}
