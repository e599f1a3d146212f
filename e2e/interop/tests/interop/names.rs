//! By name (RFC 3263): a network namespace with a resolver of its own, where NAPTR and SRV say where the edge is.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::agents::{BOTH, announced};
use crate::harness::certificates;
use crate::harness::cli::{self, Ran};
use crate::harness::edge::command;
use crate::harness::manifests::{ADMIN, Manifests, PASSWORD, TCP, TLS, UDP};
use crate::harness::place;
use crate::harness::process::{Program, run};

/// Names of our namespaces, before the number of the process.
const PREFIX: &str = "sipmcp-interop-";

/// A network namespace with `/etc/netns/NAME/resolv.conf`; gone when dropped.
struct Namespace {
    name: String,
    ip: PathBuf,
}

impl Namespace {
    fn make() -> Option<Namespace> {
        let ip = place::peer("ip")?;
        if !place::root_or_skip() {
            return None;
        }
        sweep(&ip);
        let namespace = Namespace { name: format!("{PREFIX}{}", std::process::id()), ip };
        let folder = namespace.folder();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n").unwrap();
        let made = Command::new(&namespace.ip).args(["netns", "add", &namespace.name]).status().unwrap();
        assert!(made.success(), "no network namespace can be made here");
        let up = run("ip", &namespace.inside("ip", ["link", "set", "lo", "up"]), Duration::from_secs(10));
        assert_eq!(up.code, Some(0), "{}", up.err);
        Some(namespace)
    }

    fn folder(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }

    fn inside<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.ip);
        command.args(["netns", "exec", &self.name]).arg(program.as_ref()).args(arguments);
        command
    }

    /// The same command, inside.
    fn within(&self, outside: &Command) -> Command {
        let mut command = self.inside(outside.get_program(), outside.get_args());
        for (name, value) in outside.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.ip, &self.name);
    }
}

fn remove(ip: &Path, name: &str) {
    let _ = Command::new(ip).args(["netns", "del", name]).status();
    let _ = fs::remove_dir_all(Path::new("/etc/netns").join(name));
}

/// Removes what a run left that was killed.
fn sweep(ip: &Path) {
    for folder in ["/run/netns", "/etc/netns"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(process) = name.strip_prefix(PREFIX) else { continue };
            if !Path::new("/proc").join(process).exists() {
                remove(ip, &name);
            }
        }
    }
}

#[test]
fn rfc_3263_the_edge_is_found_by_naptr_and_srv_and_a_dead_target_is_passed_over() {
    let Some(dnsmasq) = place::peer("dnsmasq") else { return };
    let Some(namespace) = Namespace::make() else { return };
    let manifests = Manifests::new();
    let edge_ip = manifests.ip;
    let host = |name: &str| format!("--host-record={name},{edge_ip}");
    let records = [
        // demo.example: TLS first, then TCP, then UDP.
        "--naptr-record=demo.example,10,10,s,SIPS+D2T,,_sips._tcp.demo.example".to_owned(),
        "--naptr-record=demo.example,20,10,s,SIP+D2T,,_sip._tcp.demo.example".to_owned(),
        "--naptr-record=demo.example,30,10,s,SIP+D2U,,_sip._udp.demo.example".to_owned(),
        format!("--srv-host=_sips._tcp.demo.example,edge.demo.example,{TLS},10,1"),
        // Nobody listens at the first one.
        "--srv-host=_sip._tcp.demo.example,gone.demo.example,25999,10,1".to_owned(),
        format!("--srv-host=_sip._tcp.demo.example,edge.demo.example,{TCP},20,1"),
        format!("--srv-host=_sip._udp.demo.example,edge.demo.example,{UDP},10,1"),
        // open.example has no NAPTR.
        format!("--srv-host=_sip._udp.open.example,edge.demo.example,{UDP},10,1"),
        host("edge.demo.example"),
        host("gone.demo.example"),
    ];
    let mut arguments: Vec<String> =
        ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]
            .iter()
            .chain(&[
                "--group=root",
                "--pid-file=",
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                "--local=/example/",
            ])
            .chain(&["--log-facility=-", "--log-queries"])
            .map(|option| (*option).to_owned())
            .collect();
    arguments.extend(records);
    let mut resolver = Program::start("dnsmasq", &namespace.inside(dnsmasq, arguments));
    resolver.line("that it started", |line| line.contains("started"));

    let mut echo = Command::new(place::program("echo-agent"));
    echo.args(["--listen", "127.0.0.1:0"]);
    let echo = announced("echo-agent", &namespace.within(&echo));
    manifests.agent("echo@demo", &echo.url, BOTH, 30);
    manifests.agent("echo@open", &echo.url, BOTH, 30);
    let mut edge = Program::start("edge", &namespace.within(&command(&manifests, ADMIN)));
    edge.line("ready", |line| line.contains(" ready"));

    let ca = certificates::files(manifests.scratch()).ca;
    let call = |uri: &str, more: &[&str]| -> Ran {
        let mut command = cli::plain();
        command.args(["call", uri, "--tool", "echo", "--arg", "text=found", "--json", "--trace", "--timeout", "20"]);
        command.arg("--ca").arg(&ca).args(more);
        if uri.contains("demo.example") {
            command.env("SIPMCP_USER", "alice").env("SIPMCP_PASSWORD", PASSWORD);
        }
        cli::ran(run("sipmcp", &namespace.within(&command), Duration::from_secs(40)))
    };
    for (uri, more, way) in [
        ("sip:echo@demo.example", vec![], format!("TLS/{edge_ip}:{TLS}")),
        ("sips:echo@demo.example", vec![], format!("TLS/{edge_ip}:{TLS}")),
        ("sip:echo@demo.example", vec!["--transport", "tcp"], format!("TCP/{edge_ip}:{TCP}")),
        ("sip:echo@demo.example;transport=udp", vec![], format!("UDP/{edge_ip}:{UDP}")),
        ("sip:echo@open.example", vec!["--via", "info"], format!("UDP/{edge_ip}:{UDP}")),
    ] {
        let ran = call(uri, &more);
        assert_eq!(ran.text(), "found", "{uri} {more:?}: exit {} {}\n{}", ran.code, ran.json, ran.err);
        assert!(ran.err.contains(&way), "{uri} {more:?} did not go by {way}:\n{}", ran.err);
    }
    // A domain that no record names: what to do stands in the message.
    let lost = call("sip:echo@nowhere.example", &[]);
    assert_eq!(lost.code, 4, "{}", lost.err);
    assert!(lost.err.contains("nowhere.example") && lost.err.contains("--proxy"), "{}", lost.err);
}
