//! The generator: one thread, one UDP socket per role, calls as small state machines. Open loop (a rate) or closed loop (a number in
//! flight). Requests that are not answered are sent again by RFC 3261's timers E and A; what is not complete after [`GIVE_UP`] has failed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip_proto::message::{Message, Transportation};

/// RFC 3261 T1.
const T1: Duration = Duration::from_millis(500);
/// A work unit that is not complete after that time has failed (performance.md's definition of a failed call).
pub const GIVE_UP: Duration = Duration::from_secs(4);
/// Numbers of units, never twice in a process: what comes late belongs to nobody.
static UNITS: AtomicU64 = AtomicU64::new(1);
/// Units in flight at once, so that a dead server does not fill the memory.
const MOST: usize = 200_000;

/// How hard to push.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Push {
    /// Units per second, whatever the answers do.
    Rate(f64),
    /// So many units in flight at once.
    InFlight(usize),
}

/// What a unit of work does next.
pub enum Next {
    /// Sent; an answer to it is waited for. Sent again until it comes.
    Request(Vec<u8>),
    /// Sent once (an ACK), then `Request`.
    Then(Vec<u8>, Vec<u8>),
    /// Sent once, and the unit is complete.
    Last(Vec<u8>),
    /// Nothing changes (a provisional response, a copy).
    Nothing,
    /// The unit is complete.
    Done,
    /// It has failed, with the status.
    Failed(u16),
}

/// A kind of work: what a unit sends, and what follows from an answer.
pub trait Work {
    /// State of one unit.
    type Unit;
    /// A new unit: its state, and its first request; `None`: there is no more to do. `id` comes back in the Call-ID (`Id.x@bench`).
    fn start(&mut self, id: u64) -> Option<(Self::Unit, Vec<u8>)>;
    /// The number in the unit's Call-ID, where it is another one: the dialog is older than the unit.
    fn number(&self, _unit: &Self::Unit) -> Option<u64> {
        None
    }
    /// A response to it.
    fn answer(&mut self, unit: &mut Self::Unit, message: &Message) -> Next;
    /// A request that came in (the called side, or an answer as a request of its own): what to reply, and what follows for the unit
    /// with that id, if any.
    fn request(&mut self, message: &Message) -> (Option<Vec<u8>>, Option<u64>);
    /// What the request of [`Work::request`] means for the unit.
    fn told(&mut self, unit: &mut Self::Unit, message: &Message) -> Next;
    /// Operations completed so far, where a unit has several; `None`: a unit is one.
    fn completed(&self) -> Option<u64> {
        None
    }
}

/// What a run saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Operations that were completed between the borders of the window: what the CPU of the window was spent on.
    pub operations: u64,
    /// Units that began in the window and came to their end.
    pub done: u64,
    /// Units that came to their end, whenever they began.
    pub ended: u64,
    pub failed: u64,
    pub sent_again: u64,
    /// What was answered instead of a 2xx, by status.
    pub refused: BTreeMap<u16, u64>,
    pub seconds: f64,
    /// Microseconds from the first request to the end of the unit, sorted.
    pub micros: Vec<u32>,
    /// Microseconds from a request in a dialog to its 2xx, sorted.
    pub in_dialog: Vec<u32>,
}

impl Seen {
    /// Operations per second of the window.
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.seconds.max(1e-9)
    }

    /// Part of the units that failed.
    pub fn failed_part(&self) -> f64 {
        self.failed as f64 / (self.done + self.failed).max(1) as f64
    }
}

/// A quantile of sorted durations, in milliseconds.
pub fn quantile_ms(sorted: &[u32], q: f64) -> f64 {
    let at = ((sorted.len() as f64 - 1.0).max(0.0) * q) as usize;
    sorted.get(at).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
}

struct Live<U> {
    unit: U,
    began: Instant,
    /// When the open request was sent first, while nothing has answered it.
    asked: Option<Instant>,
    /// The request that waits for its answer.
    open: Vec<u8>,
    /// Number of the open request: an older timer means nothing.
    turn: u32,
    wait: Duration,
    counted: bool,
}

/// The sockets of a run.
pub struct Sockets {
    caller: UdpSocket,
    /// The called side, where the work has one.
    called: Option<UdpSocket>,
}

impl Sockets {
    /// # Errors
    /// What the system says.
    pub fn bind(caller: SocketAddr, called: Option<SocketAddr>) -> io::Result<Sockets> {
        Ok(Sockets { caller: socket(caller)?, called: called.map(socket).transpose()? })
    }
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    socket.set_recv_buffer_size(8 << 20)?;
    socket.set_send_buffer_size(8 << 20)?;
    socket.bind(&address.into())?;
    let socket: UdpSocket = socket.into();
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Runs `work` against `server`: `warm` without counting, then `window`, then until nothing is in flight. `border` is
/// called with `true` at the beginning of the window and with `false` at its end (CPU is read there).
pub fn run<W: Work>(
    work: &mut W,
    sockets: &Sockets,
    server: &[SocketAddr],
    push: Push,
    warm: Duration,
    window: Duration,
    mut border: impl FnMut(bool),
) -> Seen {
    let mut seen = Seen::default();
    let mut live: HashMap<u64, Live<W::Unit>> = HashMap::new();
    let mut timers: BinaryHeap<Reverse<(Instant, u64, u32)>> = BinaryHeap::new();
    let start = Instant::now();
    let (from, to) = (start + warm, start + warm + window);
    let (mut opened, mut closed, mut exhausted) = (false, false, false);
    let mut completed = 0;
    let mut due = start;
    let mut turn = 0usize;
    let mut buffer = vec![0u8; 65_536];
    let send = |socket: &UdpSocket, bytes: &[u8], turn: &mut usize| {
        *turn = turn.wrapping_add(1);
        // A full socket buffer is loss on the wire: the timers send again.
        drop(socket.send_to(bytes, server[*turn % server.len()]));
    };
    loop {
        let now = Instant::now();
        if !opened && now >= from {
            opened = true;
            completed = work.completed().unwrap_or(0);
            border(true);
        }
        if !closed && (now >= to || (exhausted && live.is_empty())) {
            closed = true;
            border(false);
            seen.seconds = (now - from).as_secs_f64();
            if let Some(all) = work.completed() {
                seen.operations = all - completed;
            }
        }
        if closed && (live.is_empty() || now > to + GIVE_UP + T1) {
            break;
        }
        // New work.
        let mut burst = 0;
        while !closed && !exhausted && burst < 64 && live.len() < MOST {
            match push {
                Push::Rate(rate) if due <= now => due += Duration::from_secs_f64(1.0 / rate),
                Push::InFlight(most) if live.len() < most => {}
                Push::Rate(_) | Push::InFlight(_) => break,
            }
            let id = UNITS.fetch_add(1, Ordering::Relaxed);
            let Some((unit, request)) = work.start(id) else {
                exhausted = true;
                break;
            };
            burst += 1;
            let id = work.number(&unit).unwrap_or(id);
            send(&sockets.caller, &request, &mut turn);
            timers.push(Reverse((now + T1, id, 0)));
            let counted = opened && !closed;
            live.insert(id, Live { unit, began: now, asked: None, open: request, turn: 0, wait: T1, counted });
        }
        // What came in.
        let mut idle = burst == 0;
        for (socket, is_caller) in [(Some(&sockets.caller), true), (sockets.called.as_ref(), false)] {
            let Some(socket) = socket else { continue };
            for _ in 0..128 {
                let Ok((length, source)) = socket.recv_from(&mut buffer) else { break };
                idle = false;
                let bytes = Bytes::copy_from_slice(&buffer[..length]);
                let Ok(message) = Message::parse(bytes, Transportation::Datagram) else { continue };
                let (told, next_of) = if message.is_request() {
                    let (reply, of) = work.request(&message);
                    if let Some(reply) = reply {
                        drop(socket.send_to(&reply, source));
                    }
                    (true, of)
                } else if is_caller {
                    (false, number(message.call_id()))
                } else {
                    (false, None)
                };
                let Some(id) = next_of else { continue };
                let Some(entry) = live.get_mut(&id) else { continue };
                if !told
                    && matches!(message.status(), Some(200..=299))
                    && let Some(asked) = entry.asked.take()
                    && entry.counted
                {
                    seen.in_dialog.push(micros(asked.elapsed()));
                }
                let next =
                    if told { work.told(&mut entry.unit, &message) } else { work.answer(&mut entry.unit, &message) };
                let now = Instant::now();
                let end = |entry: Live<W::Unit>, ok: bool, seen: &mut Seen| {
                    seen.ended += 1;
                    if ok && opened && !closed {
                        seen.operations += 1;
                    }
                    if entry.counted {
                        if ok {
                            seen.done += 1;
                            seen.micros.push(micros(now - entry.began));
                        } else {
                            seen.failed += 1;
                        }
                    }
                };
                match next {
                    Next::Nothing => {}
                    Next::Request(request) => {
                        send(&sockets.caller, &request, &mut turn);
                        arm(entry, request, id, now, &mut timers);
                    }
                    Next::Then(once, request) => {
                        send(&sockets.caller, &once, &mut turn);
                        send(&sockets.caller, &request, &mut turn);
                        arm(entry, request, id, now, &mut timers);
                    }
                    Next::Last(once) => {
                        send(&sockets.caller, &once, &mut turn);
                        if let Some(entry) = live.remove(&id) {
                            end(entry, true, &mut seen);
                        }
                    }
                    Next::Done => {
                        if let Some(entry) = live.remove(&id) {
                            end(entry, true, &mut seen);
                        }
                    }
                    Next::Failed(status) => {
                        *seen.refused.entry(status).or_default() += 1;
                        if let Some(entry) = live.remove(&id) {
                            end(entry, false, &mut seen);
                        }
                    }
                }
            }
        }
        // Timers.
        while let Some(Reverse((at, id, of))) = timers.peek().copied() {
            if at > now {
                break;
            }
            timers.pop();
            let Some(entry) = live.get_mut(&id).filter(|entry| entry.turn == of) else { continue };
            if now - entry.began > GIVE_UP {
                if live.remove(&id).is_some_and(|entry| entry.counted) {
                    seen.failed += 1;
                }
                continue;
            }
            if entry.counted {
                seen.sent_again += 1;
            }
            send(&sockets.caller, &entry.open, &mut turn);
            entry.wait = (entry.wait * 2).min(T1 * 8);
            timers.push(Reverse((now + entry.wait, id, of)));
        }
        if idle {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    seen.failed += live.values().filter(|entry| entry.counted).count() as u64;
    seen.micros.sort_unstable();
    seen.in_dialog.sort_unstable();
    seen
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn arm<U>(
    entry: &mut Live<U>,
    request: Vec<u8>,
    id: u64,
    now: Instant,
    timers: &mut BinaryHeap<Reverse<(Instant, u64, u32)>>,
) {
    entry.open = request;
    entry.asked = Some(now);
    entry.turn += 1;
    entry.wait = T1;
    timers.push(Reverse((now + T1, id, entry.turn)));
}

/// The unit's number in a Call-ID of ours (`17.x4a@bench`).
pub fn number(call_id: &str) -> Option<u64> {
    call_id.split_once('.').and_then(|(number, _)| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_leads_to_its_unit() {
        assert_eq!(number("17.a@bench"), Some(17));
        assert_eq!(number("x@bench"), None);
    }

    #[test]
    fn quantiles_are_of_the_sorted_durations() {
        let sorted: Vec<u32> = (1..=1000).map(|n| n * 1000).collect();
        assert!((quantile_ms(&sorted, 0.5) - 500.0).abs() < 1.5);
        assert!((quantile_ms(&sorted, 0.99) - 990.0).abs() < 1.5);
        assert!(quantile_ms(&[], 0.5) == 0.0);
    }
}
