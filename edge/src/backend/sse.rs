//! Server-sent events as bytes arrive (WHATWG HTML, section 9.2): any chunking, CRLF, LF or CR, bounded memory.
//!
//! Events without data (the priming events of SEP-1699) and events of another type than `message` are not handed out, but
//! their `id` and `retry` count.

use std::mem;
use std::time::Duration;

use bytes::Bytes;

/// An `id` over this length is taken as no id: it could not be sent back in `Last-Event-ID` either.
const MAX_ID_BYTES: usize = 1024;
/// What may stand beside the data in one event: field names, ids, comments between two line ends.
const LINE_OVERHEAD: usize = 4096;

/// One event with data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// The `data` lines, joined by LF.
    pub data: Bytes,
    /// The last `id` seen on the stream, this event's own included.
    pub id: Option<String>,
}

/// An event, or one line of it, is larger than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Reads one stream. It holds at most one unfinished line and the data of one unfinished event.
#[derive(Debug)]
pub(super) struct Parser {
    limit: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    other_type: bool,
    /// Of the event that is being read; it stays for the next one.
    id: Option<String>,
    /// Of the last event that was read to its end.
    last_id: Option<String>,
    retry: Option<Duration>,
    /// A CR ended the last line; an LF right after it belongs to that line end.
    after_cr: bool,
    at_start: bool,
}

impl Parser {
    /// `limit`: bytes of data in one event.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            other_type: false,
            id: None,
            last_id: None,
            retry: None,
            after_cr: false,
            at_start: true,
        }
    }

    /// The `id` of the last whole event; what `Last-Event-ID` says when the stream is resumed. That of an unfinished one does not count:
    /// its data would not come again.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The last `retry` seen.
    pub(super) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Takes bytes from the front of `input` until an event is complete (`Some`) or `input` is empty (`None`).
    ///
    /// # Errors
    /// [`TooLarge`]; the parser is of no further use then.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, TooLarge> {
        if mem::take(&mut self.after_cr) {
            match input.first() {
                Some(b'\n') => *input = &input[1..],
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
        while let Some(end) = input.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.grow_line(&input[..end])?;
            let is_cr = input[end] == b'\r';
            *input = &input[end + 1..];
            if is_cr {
                match input.first() {
                    Some(b'\n') => *input = &input[1..],
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            if let Some(event) = self.end_line()? {
                return Ok(Some(event));
            }
        }
        let rest = mem::take(input);
        self.grow_line(rest)?;
        Ok(None)
    }

    fn grow_line(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        if self.line.len() + bytes.len() > self.limit + LINE_OVERHEAD {
            return Err(TooLarge);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, TooLarge> {
        let mut line = mem::take(&mut self.line);
        if mem::take(&mut self.at_start) && line.starts_with(b"\xEF\xBB\xBF") {
            line.drain(..3);
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let outcome = self.field(&line);
        // Keep the allocation for the next line, unless one large event would pin it.
        if line.capacity() <= 64 * 1024 {
            line.clear();
            self.line = line;
        }
        outcome.map(|()| None)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), TooLarge> {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(0) => return Ok(()), // a comment, often a keep-alive
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match name {
            b"data" => {
                let needed = self.data.len() + usize::from(self.has_data) + value.len();
                if needed > self.limit {
                    return Err(TooLarge);
                }
                if mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"event" => self.other_type = !value.is_empty() && value != b"message",
            b"id" => {
                if let Some(id) = usable_id(value) {
                    self.id = Some(id).filter(|id| !id.is_empty());
                }
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let text = String::from_utf8_lossy(value);
                self.retry = Some(text.parse().map_or(Duration::MAX, Duration::from_millis));
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) -> Option<Event> {
        let data = mem::take(&mut self.data);
        self.has_data = false;
        let other_type = mem::take(&mut self.other_type);
        self.last_id.clone_from(&self.id);
        if data.is_empty() || other_type {
            return None;
        }
        Some(Event { data: Bytes::from(data), id: self.last_id.clone() })
    }
}

/// The id, or `None` where the field is to be ignored: with NUL (the specification), or when it could not be sent back in
/// a header field.
fn usable_id(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    (text.len() <= MAX_ID_BYTES && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(parser: &mut Parser, mut bytes: &[u8]) -> Vec<(String, Option<String>)> {
        let mut events = Vec::new();
        while let Some(event) = parser.next(&mut bytes).expect("within limits") {
            events.push((String::from_utf8(event.data.to_vec()).expect("text"), event.id));
        }
        events
    }

    #[test]
    fn the_three_line_ends_are_equal() {
        for end in ["\n", "\r\n", "\r"] {
            let text =
                "event: message\ndata: {\"a\":\ndata: 1}\nid: 7\n\n: keep-alive\n\ndata: two\n\n".replace('\n', end);
            let mut parser = Parser::new(100);
            assert_eq!(
                all(&mut parser, text.as_bytes()),
                [("{\"a\":\n1}".to_owned(), Some("7".to_owned())), ("two".to_owned(), Some("7".to_owned()))],
                "{end:?}"
            );
        }
    }

    #[test]
    fn priming_events_give_id_and_retry_only() {
        let mut parser = Parser::new(100);
        assert_eq!(all(&mut parser, b"data: \nid: 0/3\nretry: 200\n\n"), []);
        assert_eq!(parser.last_id(), Some("0/3"));
        assert_eq!(parser.retry(), Some(Duration::from_millis(200)));
        assert_eq!(all(&mut parser, b"id: 1\n\nretry: x\nretry:\n\n"), []);
        assert_eq!((parser.last_id(), parser.retry()), (Some("1"), Some(Duration::from_millis(200))));
        assert_eq!(all(&mut parser, b"id: 2\ndata: unfinished\n"), []);
        assert_eq!(parser.last_id(), Some("1"), "the stream may break before the rest comes");
    }

    #[test]
    fn other_event_types_are_skipped_and_an_unfinished_event_is_none() {
        let mut parser = Parser::new(100);
        assert_eq!(all(&mut parser, b"event: ping\ndata: x\n\ndata: y\n\ndata: lost\n"), [("y".to_owned(), None)]);
    }

    #[test]
    fn a_byte_order_mark_one_space_and_a_bare_field_name() {
        let mut parser = Parser::new(100);
        assert_eq!(all(&mut parser, "\u{FEFF}data:  a\ndata\ndata:b\n\n".as_bytes()), [(" a\n\nb".to_owned(), None)]);
    }

    #[test]
    fn ids_that_no_header_can_carry_are_ignored() {
        let mut parser = Parser::new(100);
        assert_eq!(
            all(&mut parser, b"id: good\nid: a\0b\nid: a\tb\nid: \xff\ndata: x\n\n"),
            [("x".into(), Some("good".into()))]
        );
        let long = format!("id: {}\ndata: y\n\n", "i".repeat(MAX_ID_BYTES + 1));
        assert_eq!(all(&mut parser, long.as_bytes()), [("y".into(), Some("good".into()))]);
        assert_eq!(all(&mut parser, b"id\ndata: z\n\n"), [("z".into(), None)], "an empty id forgets the last one");
    }

    #[test]
    fn the_limit_holds_for_one_line_for_many_and_for_no_line_at_all() {
        let fits = format!("data: {}\n\n", "x".repeat(100));
        assert_eq!(all(&mut Parser::new(100), fits.as_bytes()).len(), 1);
        let over = format!("data: {}\n\n", "x".repeat(101));
        assert_eq!(Parser::new(100).next(&mut over.as_bytes()), Err(TooLarge));
        let many = "data: xxxxxxxxxx\n".repeat(11);
        assert_eq!(Parser::new(100).next(&mut many.as_bytes()), Err(TooLarge));
        let endless = vec![b'x'; 100 + LINE_OVERHEAD + 1];
        assert_eq!(Parser::new(100).next(&mut endless.as_slice()), Err(TooLarge));
        let empty_lines = "data\n".repeat(200);
        assert_eq!(Parser::new(100).next(&mut empty_lines.as_bytes()), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(text in "[a:\\n\\r \u{e9}]{0,40}|((data|id|event|retry|): ?[a-z0-9]{0,3}(\\n|\\r|\\r\\n){1,2}){0,12}", cuts in proptest::collection::vec(0usize..200, 0..8)) {
            let whole = all(&mut Parser::new(1000), text.as_bytes());
            let mut parser = Parser::new(1000);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            for pair in cuts.windows(2) {
                pieces.extend(all(&mut parser, &text.as_bytes()[pair[0]..pair[1]]));
            }
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut parser = Parser::new(64);
            let mut rest = bytes.as_slice();
            while let Ok(Some(event)) = parser.next(&mut rest) {
                prop_assert!(event.data.len() <= 64);
            }
        }
    }
}
