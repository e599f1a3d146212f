//! The baseline: Kamailio as Debian ships it, one configuration per role.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Program, free_port, wait_for_sip};
use crate::scenario::register::PASSWORD;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Relays calls with topology hiding; its dialogs lie in Redis (topos_redis).
    SharedCalls { redis: SocketAddr, to: SocketAddr },
    /// Relays, with state of the transaction only.
    Relay { to: SocketAddr },
    /// Registrar in memory, with SHA-256 digest.
    Registrar,
}

pub struct Kamailio {
    pub program: Program,
    pub address: SocketAddr,
}

impl Kamailio {
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(role: Role, folder: &Path) -> io::Result<Kamailio> {
        let address: SocketAddr = ([127, 0, 0, 1], free_port()?).into();
        let file = folder.join("kamailio.cfg");
        fs::write(&file, configuration(role, address))?;
        let mut command = Command::new("kamailio");
        command.args(["-DD", "-E", "-m", "512", "-M", "16", "-f"]).arg(&file);
        command.arg("-P").arg(folder.join("kamailio.pid")).arg("-Y").arg(folder);
        let program = Program::start("kamailio", &mut command, &folder.join("kamailio.log"))?;
        wait_for_sip(address).map_err(|error| {
            let log = fs::read_to_string(folder.join("kamailio.log")).unwrap_or_default();
            io::Error::new(
                error.kind(),
                format!("{error}; kamailio said:\n{}", log.lines().take(20).collect::<Vec<_>>().join("\n")),
            )
        })?;
        Ok(Kamailio { program, address })
    }
}

fn configuration(role: Role, address: SocketAddr) -> String {
    let base = format!(
        "debug=0\nlog_stderror=yes\nfork=yes\nchildren=2\nauto_aliases=no\ndns=no\nrev_dns=no\ndisable_tcp=yes\n\
         listen=udp:{address}\nloadmodule \"tm.so\"\nloadmodule \"sl.so\"\nloadmodule \"rr.so\"\nloadmodule \"pv.so\"\n\
         loadmodule \"textops.so\"\nloadmodule \"siputils.so\"\n"
    );
    let relay = |to: SocketAddr| {
        format!(
            "request_route {{\n  if (is_method(\"OPTIONS\")) {{ sl_send_reply(\"200\", \"OK\"); exit; }}\n  \
             if (has_totag()) {{ if (loose_route()) {{ t_relay(); exit; }} if (is_method(\"ACK\")) {{ if (t_check_trans()) {{ t_relay(); }} exit; }} \
             t_relay(); exit; }}\n  if (is_method(\"INVITE\")) {{ record_route(); }}\n  $du = \"sip:{to}\";\n  t_relay();\n  exit;\n}}\n"
        )
    };
    match role {
        Role::SharedCalls { redis, to } => format!(
            "{base}loadmodule \"ndb_redis.so\"\nloadmodule \"topos.so\"\nloadmodule \"topos_redis.so\"\n\
             modparam(\"ndb_redis\", \"server\", \"name=srvN;addr={};port={};db=0\")\nmodparam(\"topos_redis\", \"serverid\", \"srvN\")\n\
             modparam(\"topos\", \"storage\", \"redis\")\n{}",
            redis.ip(),
            redis.port(),
            relay(to)
        ),
        Role::Relay { to } => format!("{base}{}", relay(to)),
        Role::Registrar => format!(
            "{base}loadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\nloadmodule \"auth.so\"\n\
             modparam(\"usrloc\", \"db_mode\", 0)\nmodparam(\"auth\", \"algorithm\", \"SHA-256\")\nmodparam(\"auth\", \"qop\", \"auth\")\n\
             modparam(\"auth\", \"nonce_expire\", 600)\nmodparam(\"auth\", \"nonce_count\", 1)\nmodparam(\"auth\", \"nc_array_size\", 1048576)\n\
             request_route {{\n  if (is_method(\"OPTIONS\")) {{ sl_send_reply(\"200\", \"OK\"); exit; }}\n  \
             if (!pv_www_authenticate(\"$td\", \"{PASSWORD}\", \"0\")) {{ auth_challenge(\"$td\", \"1\"); exit; }}\n  \
             save(\"location\");\n  exit;\n}}\n"
        ),
    }
}
