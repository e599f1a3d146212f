//! `recvmmsg(2)` and `sendmmsg(2)`: many datagrams per system call. The only module of the edge with `unsafe` in it.
#![expect(
    unsafe_code,
    reason = "recvmmsg and sendmmsg have no safe binding; every pointer lives in the structures of this module"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use bytes::Bytes;

/// Datagrams per system call.
pub const BATCH: usize = 64;

/// Receive slots: one buffer per datagram of a batch. The pages of a slot become resident only when a datagram uses them.
pub struct ReceiveBatch {
    slot: usize,
    buffer: Box<[u8]>,
    names: Box<[MaybeUninit<libc::sockaddr_storage>; BATCH]>,
}

/// One datagram of a batch.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub source: SocketAddr,
    pub payload: &'a [u8],
    /// The datagram was longer than the slot: what is here is not all of it.
    pub truncated: bool,
}

impl ReceiveBatch {
    /// Slots of `slot` bytes each.
    #[must_use]
    pub fn new(slot: usize) -> Self {
        ReceiveBatch {
            slot,
            buffer: vec![0; slot * BATCH].into_boxed_slice(),
            names: Box::new([const { MaybeUninit::zeroed() }; BATCH]),
        }
    }

    /// Receives what is there, without waiting, and gives each datagram to `each`. Answers how many there were.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; else what the system says.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, mut each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|i| libc::iovec {
            iov_base: self.buffer[i * self.slot..].as_mut_ptr().cast(),
            iov_len: self.slot,
        });
        // SAFETY: `mmsghdr` is a plain C structure; all-zero bytes are a valid value of it (null pointers, zero lengths).
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        for ((header, vector), name) in headers.iter_mut().zip(&mut vectors).zip(self.names.iter_mut()) {
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = socklen::<libc::sockaddr_storage>();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: each header points to its own iovec and name, which live until the end of this function; each iovec to its own
        // `slot` bytes of `buffer` (slot i starts at i·slot, and the buffer has BATCH·slot bytes). The timeout may be null.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (index, header) in headers.iter().take(received).enumerate() {
            // SAFETY: zeroed at creation, then written by the kernel at most up to its size: always initialised.
            let name = unsafe { self.names[index].assume_init_ref() };
            let Some(source) = read_address(name) else { continue };
            let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            // With MSG_TRUNC the length is that of the datagram, also where it is longer than the slot.
            let length = (header.msg_len as usize).min(self.slot);
            each(Datagram { source, payload: &self.buffer[index * self.slot..][..length], truncated });
        }
        Ok(received)
    }
}

/// Sends datagrams without waiting, at most [`BATCH`] of them. Answers how many left; the one after them is the one that failed,
/// which the next call then reports.
///
/// # Errors
/// `WouldBlock` when the socket is full; else why the first datagram could not be sent.
pub fn send<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a SocketAddr, &'a Bytes)>,
) -> io::Result<usize> {
    // SAFETY: plain C structures; all-zero bytes are valid values of them.
    let (mut headers, mut vectors, mut names): (
        [libc::mmsghdr; BATCH],
        [libc::iovec; BATCH],
        [libc::sockaddr_storage; BATCH],
    ) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
    let mut count = 0;
    for (index, (address, payload)) in datagrams.take(BATCH).enumerate() {
        vectors[index] = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        headers[index].msg_hdr.msg_namelen = write_address(address, &mut names[index]);
        headers[index].msg_hdr.msg_name = (&raw mut names[index]).cast();
        headers[index].msg_hdr.msg_iov = &raw mut vectors[index];
        headers[index].msg_hdr.msg_iovlen = 1;
        count = index + 1;
    }
    if count == 0 {
        return Ok(0);
    }
    // SAFETY: the first `count` headers point to their own iovec and name, which live until the end of this function and are not
    // moved any more; each iovec points to a payload that its caller holds for 'a. The kernel only reads the payloads.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn socklen<T>() -> libc::socklen_t {
    // Socket address structures have a few dozen bytes.
    mem::size_of::<T>() as libc::socklen_t
}

fn read_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in; sockaddr_storage is larger and aligned for it.
            let v4 = unsafe { &*(std::ptr::from_ref(name).cast::<libc::sockaddr_in>()) };
            let address = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(address, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { &*(std::ptr::from_ref(name).cast::<libc::sockaddr_in6>()) };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(address, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

fn write_address(address: &SocketAddr, name: &mut libc::sockaddr_storage) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: sockaddr_storage is larger than sockaddr_in and aligned for it; it was zeroed by the caller.
            let v4 = unsafe { &mut *(std::ptr::from_mut(name).cast::<libc::sockaddr_in>()) };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = u32::from(*address.ip()).to_be();
            socklen::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { &mut *(std::ptr::from_mut(name).cast::<libc::sockaddr_in6>()) };
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_port = address.port().to_be();
            v6.sin6_addr.s6_addr = address.ip().octets();
            v6.sin6_flowinfo = address.flowinfo();
            v6.sin6_scope_id = address.scope_id();
            socklen::<libc::sockaddr_in6>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn pair(address: &str) -> (UdpSocket, UdpSocket) {
        (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap())
    }

    fn echo(address: &str) {
        let (one, two) = pair(address);
        let target = two.local_addr().unwrap();
        let payloads: Vec<Bytes> = (0..70).map(|i| Bytes::from(format!("datagram {i}"))).collect();
        let mut left = &payloads[..];
        while !left.is_empty() {
            let sent = send(one.as_fd(), left.iter().map(|p| (&target, p))).unwrap();
            left = &left[sent..];
        }
        let mut batch = ReceiveBatch::new(2048);
        let mut got = Vec::new();
        while got.len() < payloads.len() {
            batch
                .receive(two.as_fd(), |datagram| {
                    assert_eq!(datagram.source, one.local_addr().unwrap());
                    assert!(!datagram.truncated);
                    got.push(Bytes::copy_from_slice(datagram.payload));
                })
                .unwrap();
        }
        assert_eq!(got, payloads);
        assert_eq!(batch.receive(two.as_fd(), |_| {}).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn more_than_a_batch_arrives_in_order_over_ipv4() {
        echo("127.0.0.1:0");
    }

    #[test]
    fn more_than_a_batch_arrives_in_order_over_ipv6() {
        echo("[::1]:0");
    }

    #[test]
    fn a_datagram_longer_than_the_slot_is_marked() {
        let (one, two) = pair("127.0.0.1:0");
        one.send_to(&[7; 200], two.local_addr().unwrap()).unwrap();
        one.send_to(&[8; 100], two.local_addr().unwrap()).unwrap();
        let mut seen = Vec::new();
        ReceiveBatch::new(100).receive(two.as_fd(), |d| seen.push((d.payload.len(), d.truncated))).unwrap();
        assert_eq!(seen, [(100, true), (100, false)]);
    }

    #[test]
    fn a_datagram_that_cannot_be_sent_is_reported_alone() {
        let (one, two) = pair("127.0.0.1:0");
        let (good, large) = (Bytes::from_static(b"x"), Bytes::from(vec![0; 70_000]));
        let target = two.local_addr().unwrap();
        assert_eq!(send(one.as_fd(), [(&target, &good), (&target, &large)].into_iter()).unwrap(), 1);
        let error = send(one.as_fd(), [(&target, &large)].into_iter()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }
}
