//! What waits to be written on one stream connection. Bounded in bytes and in age: a peer that does not read loses its connection
//! and blocks nobody.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

/// Most unsent bytes of one connection.
pub const MAX_BYTES: usize = 1 << 20;
/// Most unsent messages of one connection, so that many small ones are bounded too.
pub const MAX_ITEMS: usize = 4096;
/// Most time that a byte may wait.
pub const MAX_AGE: Duration = Duration::from_secs(10);

/// Who wants to know that something could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub shard: u16,
    pub tag: u64,
}

/// One message to write.
#[derive(Clone, Debug)]
pub struct Item {
    pub bytes: Bytes,
    pub tag: Option<Tag>,
    queued: Instant,
}

impl Item {
    /// When it must have left.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.queued + MAX_AGE
    }
}

/// Why nothing more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The limit is passed; the connection will be closed.
    #[error("the peer does not read: more than {MAX_BYTES} bytes wait")]
    Full,
    /// The connection is closed, or closes after what was queued.
    #[error("the connection is closed")]
    Closed,
}

/// What the writer shall do.
#[derive(Debug)]
pub enum Next {
    Write(Item),
    /// All was written and the owner wants the connection closed.
    Finished,
    /// The peer does not read.
    Overflowed,
    /// Nothing to do.
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// No more items; close after the last one.
    Finishing,
    /// Over the limit: close now.
    Overflowed,
    Closed,
}

#[derive(Debug)]
struct Inner {
    queue: VecDeque<Item>,
    bytes: usize,
    state: State,
}

/// The queue of one connection. Any thread puts in; one writer takes out.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    wake: Notify,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox {
            inner: Mutex::new(Inner { queue: VecDeque::new(), bytes: 0, state: State::Open }),
            wake: Notify::new(),
        }
    }
}

impl Outbox {
    /// Queues one message. Never waits.
    ///
    /// # Errors
    /// `Full` when the limits are passed: from then on the connection is lost. `Closed` afterwards.
    pub fn push(&self, bytes: Bytes, tag: Option<Tag>) -> Result<(), Refused> {
        let result = {
            let mut inner = self.lock();
            match inner.state {
                State::Open if inner.queue.len() >= MAX_ITEMS || inner.bytes + bytes.len() > MAX_BYTES => {
                    inner.state = State::Overflowed;
                    Err(Refused::Full)
                }
                State::Open => {
                    inner.bytes += bytes.len();
                    inner.queue.push_back(Item { bytes, tag, queued: Instant::now() });
                    Ok(())
                }
                State::Finishing | State::Overflowed | State::Closed => Err(Refused::Closed),
            }
        };
        self.wake.notify_one();
        result
    }

    /// Closes the connection after what is queued has left.
    pub fn finish(&self) {
        {
            let mut inner = self.lock();
            if inner.state == State::Open {
                inner.state = State::Finishing;
            }
        }
        self.wake.notify_one();
    }

    /// Ends the queue. Answers the tags of what did not leave.
    pub fn close(&self) -> Vec<Tag> {
        let mut inner = self.lock();
        inner.state = State::Closed;
        inner.bytes = 0;
        inner.queue.drain(..).filter_map(|item| item.tag).collect()
    }

    /// What to do now. The bytes of an item count until [`Outbox::written`].
    pub fn next(&self) -> Next {
        let mut inner = self.lock();
        match inner.state {
            State::Overflowed | State::Closed => Next::Overflowed,
            State::Open | State::Finishing => match inner.queue.pop_front() {
                Some(item) => Next::Write(item),
                None if inner.state == State::Finishing => Next::Finished,
                None => Next::Idle,
            },
        }
    }

    /// Gives the room of a written item back.
    pub fn written(&self, item: &Item) {
        let mut inner = self.lock();
        inner.bytes = inner.bytes.saturating_sub(item.bytes.len());
    }

    /// Waits until [`Outbox::next`] may have something new.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Whether more is taken.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.lock().state == State::Open
    }

    /// Whether the limit was passed.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.lock().state == State::Overflowed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before the guard is dropped, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_limit_ends_the_connection() {
        let outbox = Outbox::default();
        let chunk = Bytes::from(vec![0; MAX_BYTES / 4]);
        for _ in 0..4 {
            outbox.push(chunk.clone(), None).unwrap();
        }
        assert_eq!(outbox.push(Bytes::from_static(b"x"), None), Err(Refused::Full));
        assert!(outbox.overflowed());
        assert!(matches!(outbox.next(), Next::Overflowed));
        assert_eq!(outbox.push(Bytes::from_static(b"x"), None), Err(Refused::Closed));
    }

    #[test]
    fn many_small_messages_are_bounded_too() {
        let outbox = Outbox::default();
        for _ in 0..MAX_ITEMS {
            outbox.push(Bytes::from_static(b"\r\n"), None).unwrap();
        }
        assert_eq!(outbox.push(Bytes::from_static(b"\r\n"), None), Err(Refused::Full));
    }

    #[test]
    fn what_is_being_written_counts_until_it_left() {
        let outbox = Outbox::default();
        outbox.push(Bytes::from(vec![0; MAX_BYTES]), None).unwrap();
        let Next::Write(item) = outbox.next() else { panic!("an item was queued") };
        let other = Outbox::default();
        other.push(Bytes::from(vec![0; MAX_BYTES]), None).unwrap();
        other.written(&item);
        assert!(other.push(Bytes::from_static(b"x"), None).is_ok());
        assert_eq!(outbox.push(Bytes::from_static(b"x"), None), Err(Refused::Full));
    }

    #[test]
    fn closing_waits_for_what_is_queued_and_takes_no_more() {
        let outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"last"), None).unwrap();
        outbox.finish();
        assert_eq!(outbox.push(Bytes::from_static(b"late"), None), Err(Refused::Closed));
        assert!(matches!(outbox.next(), Next::Write(_)));
        assert!(matches!(outbox.next(), Next::Finished));
    }

    #[test]
    fn what_did_not_leave_is_reported_by_tag() {
        let outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"a"), Some(Tag { shard: 1, tag: 7 })).unwrap();
        outbox.push(Bytes::from_static(b"b"), None).unwrap();
        assert_eq!(outbox.close(), [Tag { shard: 1, tag: 7 }]);
    }
}
