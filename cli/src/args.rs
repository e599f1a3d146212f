//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::net::Transport;

const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  the tool said that it failed
  2  wrong arguments, an unreadable file, an invalid manifest
  3  refused by SIP (the message starts with the status)
  4  nobody answered, no connection, or the certificate is not trusted
  5  an MCP error (the message starts with the JSON-RPC code)";

/// Call AI agents by their SIP address.
#[derive(Debug, Parser)]
#[command(name = "sipmcp", version, about, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Call a tool of an agent: sipmcp call sip:echo@demo.example --tool echo --arg text=hi
    Call(CallArgs),
    /// List the tools of an agent that you may see
    Tools(ToolsArgs),
    /// Register a contact at a domain, or show and remove what is registered
    Register(RegisterArgs),
    /// Validate manifests as the edge does
    Check {
        /// YAML files or directories
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// One JSON object per problem
        #[arg(long)]
        json: bool,
    },
    /// Print a Secret with fresh keys for edges that share a store, or rotate the keys of one
    #[command(after_help = KEYS_HELP)]
    Keys(KeysArgs),
    /// Print a completion script
    Completions { shell: clap_complete::Shell },
}

const KEYS_HELP: &str = "\
The Secret <edge>-keys has the token keys (key id 0 to 255: 64 octets), `current` (which of them seals) and
`naming` (32 octets, with which all names in the store are made). Nothing is written to a file: redirect the
output, and keep it as you keep passwords. `naming` never changes while the store lives.

  sipmcp keys --edge demo > keys.yaml                        new keys
  sipmcp keys --add keys.yaml --standby > new.yaml           rotation, step 1: every edge can open the new key
  sipmcp keys --activate new.yaml > newer.yaml               step 2, once every edge has read step 1: it seals
  sipmcp keys --add keys.yaml > new.yaml                     both at once, for a single edge

At most two keys are live: --add drops the one that is not current. What it had sealed is then not opened any more.";

/// Keys that the edges of a fleet have in common.
#[derive(Clone, Debug, Args)]
pub struct KeysArgs {
    /// Name of the SipEdge
    #[arg(long, required_unless_present_any = ["add", "activate"])]
    pub edge: Option<String>,
    /// Namespace of the SipEdge
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// Take the Secret from FILE, add a key to it (and `naming`, if it has none) and make it current
    #[arg(long, value_name = "FILE", conflicts_with = "activate")]
    pub add: Option<PathBuf>,
    /// With --add: the key that was current stays current
    #[arg(long, requires = "add")]
    pub standby: bool,
    /// Take the Secret from FILE and make the other key current
    #[arg(long, value_name = "FILE")]
    pub activate: Option<PathBuf>,
}

/// How to reach the edge, and who we are.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// Transport; default: the URI's, else TLS for sips, UDP for sip
    #[arg(long, value_enum)]
    pub transport: Option<Transport>,
    /// Edges to send to, tried in order, instead of looking the domain up: sip:127.0.0.1:5060[,sip:…]
    #[arg(long, env = "SIPMCP_PROXY", value_delimiter = ',', value_name = "URI")]
    pub proxy: Vec<String>,
    /// User name for digest authentication; also the user part of From
    #[arg(long, env = "SIPMCP_USER")]
    pub user: Option<String>,
    /// Password; better in the environment than on the command line
    #[arg(long, env = "SIPMCP_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// Realm to authenticate for; default: the domain of the address
    #[arg(long)]
    pub realm: Option<String>,
    /// Answer an MD5 challenge where nothing better is offered
    #[arg(long)]
    pub allow_md5: bool,
    /// Our own address; default: sip:USER@DOMAIN, or sip:anonymous@anonymous.invalid
    #[arg(long, value_name = "URI")]
    pub from: Option<String>,
    /// CA certificates that may sign the edge's (PEM); default: the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The same (PEM), where a program found them and no file has them.
    #[arg(skip)]
    pub ca_pem: Option<Vec<u8>>,
    /// Client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Seconds until a call is given up
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
    /// Print the SIP and JSON-RPC ladder as it happens
    #[arg(long)]
    pub trace: bool,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// How MCP travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// MESSAGE out of a dialog
    Message,
    /// INFO in an INVITE dialog
    Info,
    /// MESSAGE in an INVITE dialog
    DialogMessage,
}

/// Which MCP to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EraChoice {
    /// 2026-07-28 first, then what the agent says it supports
    Auto,
    /// 2026-07-28, stateless
    Modern,
    /// 2025-11-25, with initialize
    Legacy,
}

#[derive(Clone, Debug, Args)]
pub struct McpOptions {
    /// Carrier of MCP
    #[arg(long, value_enum, default_value_t = Via::Message)]
    pub via: Via,
    /// Era of MCP
    #[arg(long, value_enum, default_value_t = EraChoice::Auto)]
    pub era: EraChoice,
    /// Do not require MCP of the other side in the INVITE (the call may then go on without it)
    #[arg(long)]
    pub no_require: bool,
    /// Answers to elicitation: a JSON object, property → value; without it they are asked on the terminal
    #[arg(long, value_name = "FILE")]
    pub elicit: Option<PathBuf>,
    /// A root to tell a server that asks (a path or file: URI)
    #[arg(long = "root", value_name = "PATH")]
    pub roots: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct CallArgs {
    /// Address of the agent
    pub uri: String,
    /// Tool to call
    #[arg(long)]
    pub tool: String,
    /// Argument NAME=VALUE; a VALUE that is JSON (number, true, object …) is sent as such
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    pub args: Vec<String>,
    /// All arguments as one JSON object
    #[arg(long, value_name = "JSON", conflicts_with = "args")]
    pub args_json: Option<String>,
    #[command(flatten)]
    pub mcp: McpOptions,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Clone, Debug, Args)]
pub struct ToolsArgs {
    /// Address of the agent
    pub uri: String,
    #[command(flatten)]
    pub mcp: McpOptions,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Clone, Debug, Args)]
pub struct RegisterArgs {
    /// Address of record
    pub uri: String,
    /// Contact to register; default: this program's own address
    #[arg(long, value_name = "URI")]
    pub contact: Option<String>,
    /// Contact parameters, as they shall stand: --param '+mcp.cap="summarize@1"'
    #[arg(long = "param", value_name = "PARAM")]
    pub params: Vec<String>,
    /// Seconds
    #[arg(long, default_value_t = 3600)]
    pub expires: u32,
    /// Remove the contact
    #[arg(long, conflicts_with_all = ["query", "remove_all"])]
    pub remove: bool,
    /// Remove every contact
    #[arg(long, conflicts_with = "query")]
    pub remove_all: bool,
    /// Only show what is registered
    #[arg(long)]
    pub query: bool,
    #[command(flatten)]
    pub connection: Connection,
}
