//! Two edges with one Redis, one set of keys and a mesh between them.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;

use super::certificates::{FLEET, authority};
use super::edge::{Edge, command};
use super::manifests::{ADMIN, Manifests};
use super::place;
use super::process::{Program, Stream, run, urgent};
use super::{PATIENCE, cli};

const REDIS: u16 = 26379;
const MESH: u16 = 25070;
const ATTEMPTS: u32 = 6;

pub struct Fleet {
    pub edges: Vec<Edge>,
    _store: Program,
}

impl Fleet {
    /// Starts it; `more` writes what both edges know beside the usual. `None`: there is no Redis here.
    #[track_caller]
    pub fn start(more: impl Fn(&Manifests)) -> Option<Fleet> {
        let redis = place::peer("redis-server")?;
        let manifests: Vec<Manifests> = FLEET.iter().map(|_| Manifests::new()).collect();
        let host = place::address();
        let mut server = Command::new(redis);
        server.args(["--bind", &host.to_string(), "--port", &REDIS.to_string(), "--save", "", "--appendonly", "no"]);
        server.args(["--maxmemory-policy", "noeviction"]).current_dir(manifests[0].scratch());
        let mut store = Program::start("redis", &urgent(&server));
        store.line("that it is ready", |line| line.contains("Ready to accept connections"));
        let keys = run("sipmcp", cli::plain().args(["keys", "--edge", "interop"]), PATIENCE);
        assert_eq!(keys.code, Some(0), "{}", keys.err);
        for own in &manifests {
            own.write("keys.yaml", &keys.out);
            own.write(
                "store.yaml",
                &format!(
                    "apiVersion: sipmcp.dev/v1alpha1\nkind: SessionStore\nmetadata: {{name: main}}\nspec:\n  \
                     redis: {{topology: Single, addresses: [\"{host}:{REDIS}\"]}}\n"
                ),
            );
            let edge = fs::read_to_string(own.path().join("edge.yaml")).unwrap();
            own.write("edge.yaml", &edge.replace("spec:\n", "spec:\n  sessionStoreRef: {name: main}\n"));
            more(own);
        }
        let commands: Vec<Command> = manifests.iter().enumerate().map(|(at, own)| member(at, own)).collect();
        let edges = manifests.into_iter().zip(commands).zip(FLEET);
        let edges = edges.map(|((own, command), name)| Edge::run(name, own, &urgent(&command))).collect();
        Some(Fleet { edges, _store: store })
    }
}

/// Runs a scenario against a fleet of its own. Where it fails and a store operation was late meanwhile (a machine so busy that 150 ms are
/// not enough: calls end with 503, as they must), it runs again; any other failure stands.
#[track_caller]
pub fn steadily(more: impl Fn(&Manifests), scenario: impl Fn(&mut Fleet)) {
    for attempt in 1.. {
        let Some(mut fleet) = Fleet::start(&more) else { return };
        let Err(failure) = catch_unwind(AssertUnwindSafe(|| scenario(&mut fleet))) else { return };
        let late = |edge: &Edge| edge.program.said(Stream::Err).contains("the store did not answer in time");
        if attempt == ATTEMPTS || !fleet.edges.iter().any(late) {
            resume_unwind(failure);
        }
        place::say("\nthe store was late; once more");
    }
}

fn member(at: usize, manifests: &Manifests) -> Command {
    let file = |name: &str, text: &str| {
        let path = manifests.scratch().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let pair = &authority().mesh[at];
    let mut command = command(manifests, ADMIN);
    command.args(["--edge-id", FLEET[at], "--mesh-listen", &format!("{}:{MESH}", manifests.ip)]);
    command.arg("--mesh-cert").arg(file("mesh.crt", &pair.certificate));
    command.arg("--mesh-key").arg(file("mesh.key", &pair.key));
    command.arg("--mesh-ca").arg(file("mesh-ca.crt", &authority().pem));
    command
}
