//! baresip, a phone: registers with digest (it knows MD5 only) over TCP and TLS, and is gone when it quits (REG-6).

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use crate::harness::PATIENCE;
use crate::harness::certificates;
use crate::harness::cli::{Ran, Who, sipmcp};
use crate::harness::edge::Edge;
use crate::harness::manifests::Manifests;
use crate::harness::place;
use crate::harness::process::Program;

const CONTROL: u16 = 25044;

struct Phone {
    program: Program,
    ip: Ipv4Addr,
}

/// Starts a phone that registers for an hour, and waits until it says that it is registered.
fn phone(edge: &Edge, transport: &str) -> Option<Phone> {
    let baresip = place::peer("baresip")?;
    let ip = place::address();
    let folder = edge.manifests.scratch().join("baresip");
    fs::create_dir(&folder).unwrap();
    let ca = certificates::files(edge.manifests.scratch()).ca;
    let config = format!(
        "poll_method epoll\nsip_listen {ip}:0\nsip_cafile {ca}\nmodule_path /usr/lib/baresip/modules\nmodule ctrl_tcp.so\n\
         module_tmp uuid.so\nmodule_tmp account.so\nmodule_app menu.so\nctrl_tcp_listen {ip}:{CONTROL}\n",
        ca = ca.display()
    );
    fs::write(folder.join("config"), config).unwrap();
    let account = format!(
        "<sip:baresip@md5.example;transport={transport}>;auth_user=baresip;auth_pass=wonderland;\
         outbound=\"sip:{};transport={transport}\";regint=3600\n",
        edge.address(transport)
    );
    fs::write(folder.join("accounts"), account).unwrap();
    fs::write(folder.join("contacts"), "").unwrap();
    let mut command = Command::new(baresip);
    command.arg("-f").arg(&folder).arg("-s");
    let mut program = Program::start("baresip", &command);
    program.line("that it is registered", |line| line.contains("200 OK") && line.contains("binding"));
    Some(Phone { program, ip })
}

/// What the edge has of the phone.
#[track_caller]
fn bindings(edge: &Edge) -> Vec<String> {
    let Ran { code, json, err, .. } =
        sipmcp(edge, "tcp", Who::Digest("baresip"), "register", "sip:baresip@md5.example", &["--query", "--allow-md5"]);
    assert_eq!(code, 0, "{err}");
    json["contacts"].as_array().unwrap().iter().map(|contact| contact.as_str().unwrap().to_owned()).collect()
}

#[test]
fn reg_6_sec_4_baresip_registers_over_tcp_and_leaves_when_told_to_quit() {
    let edge = Edge::start(Manifests::new());
    let Some(mut phone) = phone(&edge, "tcp") else { return };
    let contacts = bindings(&edge);
    assert!(contacts.len() == 1 && contacts[0].contains(&phone.ip.to_string()), "{contacts:?}");
    let mut control = TcpStream::connect((phone.ip, CONTROL)).unwrap();
    let order = r#"{"command":"quit"}"#;
    write!(control, "{}:{order},", order.len()).unwrap();
    phone.program.wait(PATIENCE);
    assert_eq!(bindings(&edge), Vec::<String>::new());
}

#[test]
fn reg_6_sec_1_baresip_registers_over_tls_and_leaves_on_sigterm() {
    let edge = Edge::start(Manifests::new());
    let Some(mut phone) = phone(&edge, "tls") else { return };
    let contacts = bindings(&edge);
    assert!(contacts.len() == 1 && contacts[0].contains("transport=tls"), "{contacts:?}");
    phone.program.terminate();
    phone.program.wait(PATIENCE);
    assert_eq!(bindings(&edge), Vec::<String>::new());
}
