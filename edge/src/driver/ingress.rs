//! The way into a shard: bounded queues, and what happens when they are long (sip.md section 14). The newest *new* work is answered
//! with 503; what is in a dialog waits on its own connection; a datagram that finds no room at all is dropped and counted.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use edge_core::config::Config;
use edge_core::input::{Flow, Input};
use edge_core::mesh::MeshMessage;
use edge_core::sessions::{Asked, LiveSession};
use edge_core::state::shard_of;
use edge_core::stats::Stats;
use sip_proto::message::build::Response;
use sip_proto::message::headers::HeaderId;
use sip_proto::message::{Message, Refusal};
use tokio::sync::{mpsc, oneshot};

use crate::counters::Counters;

/// Messages from the network that wait for one shard.
pub const WIRE: usize = 4096;
/// Answers of backends, DNS and failed sends that wait for one shard; whoever brings them waits.
pub const REPLIES: usize = 1024;
/// Orders of the process itself.
pub const CONTROL: usize = 16;
/// A message of new work that waited longer is answered 503 and not processed: the caller has given up or sent it again.
pub const STALE: Duration = Duration::from_secs(4);

/// Something from the network, and when it came.
#[derive(Debug)]
pub struct Arrived {
    pub input: Input,
    pub at: Instant,
}

/// What the process wants of a shard.
#[derive(Debug)]
pub enum Control {
    Configure(Arc<Config>),
    /// A UDP socket of a listener, this shard's own.
    AddUdp {
        listener: u16,
        address: SocketAddr,
        socket: std::net::UdpSocket,
    },
    /// `done` when the socket is closed.
    RemoveUdp {
        listener: u16,
        done: oneshot::Sender<()>,
    },
    Stats(oneshot::Sender<Stats>),
    /// By id, at most as many as were asked for.
    Sessions {
        asked: Arc<Asked>,
        answer: oneshot::Sender<Vec<LiveSession>>,
    },
    Drain,
}

/// The sending half of a shard's queues.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    pub wire: mpsc::Sender<Arrived>,
    pub replies: mpsc::Sender<Input>,
    pub control: mpsc::Sender<Control>,
}

/// The receiving half.
#[derive(Debug)]
pub struct ShardQueues {
    pub wire: mpsc::Receiver<Arrived>,
    pub replies: mpsc::Receiver<Input>,
    pub control: mpsc::Receiver<Control>,
}

/// The queues of one shard.
#[must_use]
pub fn queues() -> (ShardHandle, ShardQueues) {
    let (wire_in, wire) = mpsc::channel(WIRE);
    let (replies_in, replies) = mpsc::channel(REPLIES);
    let (control_in, control) = mpsc::channel(CONTROL);
    (ShardHandle { wire: wire_in, replies: replies_in, control: control_in }, ShardQueues { wire, replies, control })
}

/// All shards.
#[derive(Clone, Debug)]
pub struct Shards {
    handles: Arc<[ShardHandle]>,
    counters: Arc<Counters>,
}

impl Shards {
    #[must_use]
    pub fn new(handles: Vec<ShardHandle>, counters: Arc<Counters>) -> Self {
        Shards { handles: handles.into(), counters }
    }

    #[must_use]
    pub fn handles(&self) -> &[ShardHandle] {
        &self.handles
    }

    fn of(&self, call_id: &str) -> &ShardHandle {
        &self.handles[usize::from(self.index_of(call_id)) % self.handles.len()]
    }

    /// Which shard serves a call.
    #[must_use]
    pub fn index_of(&self, call_id: &str) -> u16 {
        // A process has 256 shards at most.
        shard_of(call_id, self.handles.len() as u16)
    }

    /// A whole datagram. Never waits. Answers the 503 to send back when it was new work and the queue is long.
    pub fn offer(&self, flow: &Arc<Flow>, message: Message) -> Option<Bytes> {
        let shard = self.of(message.call_id());
        if let Some(answer) = self.shed(shard, flow, &message) {
            return Some(answer);
        }
        let arrived = Arrived { input: Input::Message { flow: flow.clone(), message }, at: Instant::now() };
        if shard.wire.try_send(arrived).is_err() {
            self.counters.shard_full.one();
        }
        None
    }

    /// A message from a stream. Waits for room, which pushes back on that connection alone. Answers a 503 as [`Shards::offer`].
    pub async fn deliver(&self, flow: &Arc<Flow>, message: Message) -> Option<Bytes> {
        let shard = self.of(message.call_id());
        if let Some(answer) = self.shed(shard, flow, &message) {
            return Some(answer);
        }
        let arrived = Arrived { input: Input::Message { flow: flow.clone(), message }, at: Instant::now() };
        // Fails only when the shard has ended, and with it the process.
        let _ = shard.wire.send(arrived).await;
        None
    }

    /// Bytes that were no message, from a datagram. Never waits.
    pub fn offer_fault(&self, flow: &Arc<Flow>, refusal: Refusal) {
        let arrived = Arrived { input: Input::Fault { flow: flow.clone(), refusal }, at: Instant::now() };
        // Half the queue stays free of what is no message at all.
        if self.handles[0].wire.capacity() < WIRE / 2 || self.handles[0].wire.try_send(arrived).is_err() {
            self.counters.shard_full.one();
        }
    }

    /// Bytes that were no message, from a stream.
    pub async fn deliver_fault(&self, flow: &Arc<Flow>, refusal: Refusal) {
        let arrived = Arrived { input: Input::Fault { flow: flow.clone(), refusal }, at: Instant::now() };
        let _ = self.handles[0].wire.send(arrived).await;
    }

    /// What another edge says. Waits for room, which pushes back on that edge alone. False: the shard has ended.
    pub async fn deliver_mesh(&self, from: u64, message: MeshMessage) -> bool {
        let shard = self.of(message.call_id());
        shard.wire.send(Arrived { input: Input::Mesh { from, message }, at: Instant::now() }).await.is_ok()
    }

    /// Tells every shard, behind what was delivered before.
    pub async fn tell_all(&self, input: impl Fn() -> Input) {
        for shard in self.handles.iter() {
            let _ = shard.wire.send(Arrived { input: input(), at: Instant::now() }).await;
        }
    }

    /// Gives an order to every shard.
    pub async fn order_all(&self, order: impl Fn() -> Control) {
        for shard in self.handles.iter() {
            let _ = shard.control.send(order()).await;
        }
    }

    /// An answer that belongs to one shard.
    pub async fn reply(&self, shard: u16, input: Input) {
        if let Some(shard) = self.handles.get(usize::from(shard)) {
            let _ = shard.replies.send(input).await;
        }
    }

    fn shed(&self, shard: &ShardHandle, flow: &Flow, message: &Message) -> Option<Bytes> {
        let level = level(shard.wire.max_capacity() - shard.wire.capacity());
        if level == 0 || class(message) > level {
            return None;
        }
        self.counters.shed.one();
        Some(unavailable(message, flow.remote))
    }
}

/// How far the shedding goes, by the length of the queue: 0 nothing, 4 everything that is not in a dialog.
fn level(queued: usize) -> u8 {
    match queued * 100 / WIRE {
        0..50 => 0,
        50..65 => 1,
        65..80 => 2,
        80..90 => 3,
        _ => 4,
    }
}

/// From which level on a message is refused; 255: never.
fn class(message: &Message) -> u8 {
    const NEVER: u8 = u8::MAX;
    let Some(method) = message.method() else { return NEVER };
    if message.to_tag().is_some() {
        return NEVER;
    }
    match method.as_str() {
        "ACK" | "CANCEL" | "BYE" | "PRACK" => NEVER,
        "OPTIONS" | "SUBSCRIBE" => 1,
        // With credentials it is the second step of a registration or its refresh.
        "REGISTER" if message.header(HeaderId::Authorization).is_some() => 4,
        "REGISTER" => 3,
        _ => 2,
    }
}

/// Whether a message may be refused at all because it waited too long.
#[must_use]
pub fn is_new_work(message: &Message) -> bool {
    class(message) <= 4
}

/// 503 for one request, made without state: a repetition gets the same To tag (RFC 3261 §8.2.7).
#[must_use]
pub fn unavailable(request: &Message, source: SocketAddr) -> Bytes {
    let mut hasher = DefaultHasher::new();
    (request.call_id(), request.from_tag(), request.cseq().seq).hash(&mut hasher);
    let digest = hasher.finish();
    // 1 to 5 seconds: a 503 speaks for the whole server, so the time is short and not the same for all.
    let retry_after = 1 + digest % 5;
    Response::to_request(request, 503, None)
        .to_tag(&format!("{digest:016x}"))
        .received(source)
        .header(HeaderId::RetryAfter, retry_after.to_string())
        .build()
}

#[cfg(test)]
mod tests {
    use edge_core::input::{ConnId, FlowKey, Transport};
    use sip_proto::message::Transportation;

    use super::*;

    fn flow() -> Arc<Flow> {
        Arc::new(Flow {
            key: FlowKey::Stream(ConnId(1)),
            transport: Transport::Tcp,
            listener: 0,
            local: ([127, 0, 0, 1], 5060).into(),
            remote: ([127, 0, 0, 1], 40_000).into(),
            certificate: None,
        })
    }

    fn message(method: &str, to_tag: &str, more: &str) -> Message {
        let text = format!(
            "{method} sip:a@demo.example SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:40000;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
             From: <sip:b@demo.example>;tag=1\r\nTo: <sip:a@demo.example>{to_tag}\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n{more}\
             Content-Length: 0\r\n\r\n"
        );
        Message::parse(text.into(), Transportation::Stream).unwrap()
    }

    fn one_shard() -> (Shards, ShardQueues, Arc<Counters>) {
        let counters = Arc::<Counters>::default();
        let (handle, queues) = queues();
        (Shards::new(vec![handle], counters.clone()), queues, counters)
    }

    #[test]
    fn a_long_queue_refuses_the_newest_new_work_and_never_what_is_in_a_dialog() {
        let (shards, _queues, counters) = one_shard();
        let flow = flow();
        let in_dialog = message("INFO", ";tag=ours", "");
        let fill_to = |percent: usize| {
            while shards.handles[0].wire.max_capacity() - shards.handles[0].wire.capacity()
                < (WIRE * percent).div_ceil(100)
            {
                assert_eq!(shards.offer(&flow, in_dialog.clone()), None);
            }
        };
        let refused = |message: &Message| shards.offer(&flow, message.clone()).is_some();
        let options = message("OPTIONS", "", "");
        let new_call = message("INVITE", "", "");
        let first = message("REGISTER", "", "");
        let refresh = message("REGISTER", "", "Authorization: Digest username=\"a\"\r\n");
        let all = |of: [bool; 4]| assert_eq!([&options, &new_call, &first, &refresh].map(refused), of);
        all([false; 4]);
        fill_to(50);
        all([true, false, false, false]);
        fill_to(65);
        all([true, true, false, false]);
        fill_to(80);
        all([true, true, true, false]);
        fill_to(90);
        all([true, true, true, true]);
        assert_eq!(counters.shed.get(), 10);
        for method in ["ACK", "CANCEL", "BYE", "PRACK"] {
            assert!(!refused(&message(method, "", "")));
        }
        // Full: a datagram of a dialog is dropped and counted, its sender sends it again.
        fill_to(100);
        assert_eq!(counters.shard_full.get(), 0);
        assert_eq!(shards.offer(&flow, in_dialog.clone()), None);
        assert_eq!(counters.shard_full.get(), 1);
    }

    #[tokio::test]
    async fn a_stream_waits_for_room_and_goes_on_with_it() {
        let (shards, mut queues, counters) = one_shard();
        let in_dialog = message("INFO", ";tag=ours", "");
        for _ in 0..WIRE {
            assert_eq!(shards.deliver(&flow(), in_dialog.clone()).await, None);
        }
        let waiting = tokio::spawn({
            let (shards, message) = (shards.clone(), in_dialog.clone());
            async move { shards.deliver(&flow(), message).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        queues.wire.recv().await.unwrap();
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!((counters.shard_full.get(), counters.shed.get()), (0, 0));
    }

    #[test]
    fn a_503_is_the_same_for_a_repetition_and_asks_for_a_short_pause() {
        let source = ([127, 0, 0, 1], 40_000).into();
        let invite = message("INVITE", "", "");
        let answer = unavailable(&invite, source);
        assert_eq!(answer, unavailable(&invite, source));
        let answer = Message::parse(answer, Transportation::Stream).unwrap();
        assert_eq!(answer.status(), Some(503));
        assert!(answer.to_tag().is_some());
        let seconds: u64 = answer.header_str(HeaderId::RetryAfter).unwrap().parse().unwrap();
        assert!((1..=5).contains(&seconds));
    }

    #[test]
    fn what_is_no_message_leaves_half_the_queue_to_others() {
        let (shards, queues, counters) = one_shard();
        let refusal = || Message::parse(Bytes::from_static(b"rubbish\r\n\r\n"), Transportation::Datagram).unwrap_err();
        for _ in 0..WIRE {
            shards.offer_fault(&flow(), refusal());
        }
        assert!(queues.wire.len() <= WIRE / 2 + 1, "{}", queues.wire.len());
        assert_eq!(counters.shard_full.get() as usize, WIRE - queues.wire.len());
    }
}
