//! Opens sockets, one owner per address. Every failure is one sentence that says which listener and what to do.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;

use socket2::{Domain, Protocol, Socket, Type};

/// Receive and send buffer that is asked for; the system grants up to `net.core.rmem_max` and `wmem_max`.
const UDP_BUFFER: usize = 8 << 20;
/// Listen backlog; the system cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that could not be opened.
#[derive(Debug)]
pub struct BindError {
    /// `udp`, `tcp` …
    pub protocol: &'static str,
    pub address: SocketAddr,
    /// The listener's name in the manifest.
    pub listener: String,
    pub source: io::Error,
}

impl std::error::Error for BindError {}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { protocol, address, listener, source } = self;
        write!(f, "listener {listener}: cannot listen on {protocol} {address}: ")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                write!(f, "the port is in use by another process; stop it (`ss -lnp` names it) or choose another port")
            }
            io::ErrorKind::PermissionDenied if address.port() < 1024 => {
                write!(f, "no permission for a port below 1024; choose a higher one or grant CAP_NET_BIND_SERVICE")
            }
            io::ErrorKind::PermissionDenied => write!(f, "no permission; the system's policy forbids this socket"),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "this machine has no such address; see `ip address`")
            }
            _ => write!(f, "{source}"),
        }
    }
}

/// Keeps an address for this process. `SO_REUSEPORT` would let a second edge of the same user join the port in silence and take a part
/// of the traffic. The lock is a socket name in the abstract namespace: it belongs to the network namespace as the port does, and it
/// ends with the process.
#[derive(Debug)]
pub struct AddressLock {
    _socket: UnixDatagram,
}

/// The sockets of one UDP address, one per shard.
#[derive(Debug)]
pub struct UdpSockets {
    pub address: SocketAddr,
    pub sockets: Vec<std::net::UdpSocket>,
    pub lock: AddressLock,
    /// Receive buffer that the system granted to each, in bytes.
    pub receive_buffer: usize,
}

fn lock(protocol: &str, address: SocketAddr) -> io::Result<AddressLock> {
    let name = format!("sipmcp-edge/{protocol}/{address}");
    let name = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    Ok(AddressLock { _socket: UnixDatagram::bind_addr(&name)? })
}

fn udp_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// One socket per shard on one address.
///
/// # Errors
/// When the address is taken, not ours, or not permitted.
pub fn udp(address: SocketAddr, count: u16) -> io::Result<UdpSockets> {
    // Without SO_REUSEPORT first: refused when anybody has the port, whatever the options of his socket. It also finds a free port for 0.
    let probe = udp_socket(address, false)?;
    let address = local_address(&probe)?;
    let lock = lock("udp", address)?;
    drop(probe);
    let mut sockets = Vec::with_capacity(count.into());
    let mut receive_buffer = UDP_BUFFER;
    for _ in 0..count {
        let socket = udp_socket(address, true)?;
        // The system grants what it allows; less than asked for is not an error.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER);
        let _ = socket.set_send_buffer_size(UDP_BUFFER);
        receive_buffer = receive_buffer.min(socket.recv_buffer_size()?);
        sockets.push(socket.into());
    }
    Ok(UdpSockets { address, sockets, lock, receive_buffer })
}

/// A listening TCP socket. The kernel keeps its address exclusive, so it needs no lock.
///
/// # Errors
/// When the address is taken, not ours, or not permitted.
pub fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Only lets a restart bind while old connections are in TIME_WAIT; a listening socket of another process still refuses.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("an IP socket without an IP address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_of_a_udp_port_is_refused_even_with_reuse_port() {
        let first = udp("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_eq!(first.sockets.len(), 2);
        assert_eq!(udp(first.address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let address = first.address;
        drop(first);
        udp(address, 1).unwrap();
    }

    #[test]
    fn a_foreign_socket_with_reuse_port_is_noticed() {
        let foreign = udp_socket("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let address = local_address(&foreign).unwrap();
        assert_eq!(udp(address, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_wildcard_owner_is_noticed() {
        let first = udp("0.0.0.0:0".parse().unwrap(), 1).unwrap();
        let specific = SocketAddr::from(([127, 0, 0, 1], first.address.port()));
        assert_eq!(udp(specific, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_message_says_which_listener_and_what_to_do() {
        let held = tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = held.local_addr().unwrap();
        let source = tcp(address).unwrap_err();
        let text = BindError { protocol: "tcp", address, listener: "plain".into(), source }.to_string();
        assert!(
            text.starts_with(&format!("listener plain: cannot listen on tcp {address}: the port is in use")),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }
}
