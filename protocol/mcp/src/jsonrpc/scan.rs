//! A JSON scanner (RFC 8259) that checks the grammar and reports where values lie. It never recurses: open
//! containers are bits of a word, and nesting is bounded by [`MAX_DEPTH`].

use std::borrow::Cow;
use std::num::NonZeroU32;

/// The deepest nesting that is read; also the width of the container stack.
pub(crate) const MAX_DEPTH: u32 = 64;

/// A piece of the message, quotes included for strings.
///
/// The end is never 0, because no value is empty: so an absent span costs no extra word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: NonZeroU32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: NonZeroU32::new(end as u32).unwrap_or(NonZeroU32::MIN) }
    }

    pub(crate) fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) fn end(self) -> usize {
        self.end.get() as usize
    }

    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.start()..self.end()
    }

    /// The same piece, counted from `offset` bytes further ahead.
    pub(crate) fn shifted(self, offset: usize) -> Span {
        Span::new(self.start() + offset, self.end() + offset)
    }

    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.range()).unwrap_or(&[])
    }

    pub(crate) fn len(self) -> usize {
        self.end() - self.start()
    }
}

/// What kind of value a span holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Number,
    True,
    False,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub span: Span,
    pub kind: Type,
    /// A string that holds a backslash.
    pub escaped: bool,
}

/// Where and why the text is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Syntax(usize),
    TooDeep(usize),
}

/// Whether readers that do not tell letter cases apart take this name for that one. Some of them (encoding/json of Go) fold as Unicode
/// says, where `ſ` and `K` (Kelvin) are letters of ASCII.
pub(crate) fn is_variant(name: &[u8], known: &str) -> bool {
    if name.is_ascii() {
        return name.eq_ignore_ascii_case(known.as_bytes());
    }
    let plain = |c| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c,
    };
    std::str::from_utf8(name).is_ok_and(|name| {
        let (mut name, mut known) = (name.chars().map(plain), known.chars());
        known.all(|known| name.next().is_some_and(|c| c.eq_ignore_ascii_case(&known))) && name.next().is_none()
    })
}

/// The text inside a string literal, unescaped. `None` for escapes that name no character (a lone surrogate).
pub(crate) fn unescape(literal: &[u8]) -> Option<Cow<'_, str>> {
    let inside = literal.get(1..literal.len().checked_sub(1)?)?;
    if inside.contains(&b'\\') {
        serde_json::from_slice::<String>(literal).ok().map(Cow::Owned)
    } else {
        std::str::from_utf8(inside).ok().map(Cow::Borrowed)
    }
}

pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Scanner<'a> {
    /// `bytes` must be shorter than 4 GiB: offsets are 32 bits.
    pub(crate) fn new(bytes: &'a [u8], depth: u32) -> Scanner<'a> {
        debug_assert!(u32::try_from(bytes.len()).is_ok());
        Scanner { bytes, at: 0, depth: depth.min(MAX_DEPTH) }
    }

    fn span(&self, start: usize) -> Span {
        Span::new(start, self.at)
    }

    fn broken<T>(&self) -> Result<T, Broken> {
        Err(Broken::Syntax(self.at))
    }

    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn expect(&mut self, byte: u8) -> Result<(), Broken> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            self.broken()
        }
    }

    /// Nothing but white space is left.
    pub(crate) fn finish(&mut self) -> Result<(), Broken> {
        if self.peek().is_none() { Ok(()) } else { self.broken() }
    }

    /// Enters an object at nesting level `level` (1 = the outermost). [`Self::key`] then walks it.
    pub(crate) fn enter(&mut self, open: u8, level: u32) -> Result<(), Broken> {
        self.expect(open)?;
        if level > self.depth { Err(Broken::TooDeep(self.at - 1)) } else { Ok(()) }
    }

    /// The next key of the object just entered, positioned at its value; `None` after the closing brace.
    pub(crate) fn key(&mut self, first: &mut bool) -> Result<Option<Value>, Broken> {
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(None);
        }
        if !*first {
            self.expect(b',')?;
            self.peek();
        }
        *first = false;
        let key = self.string()?;
        self.expect(b':')?;
        Ok(Some(key))
    }

    /// Whether there is another element in the array just entered, positioned at it; consumes the closing bracket.
    pub(crate) fn element(&mut self, first: &mut bool) -> Result<bool, Broken> {
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(false);
        }
        if !*first {
            self.expect(b',')?;
        }
        *first = false;
        Ok(true)
    }

    /// Skips one value whose parent containers are `open` deep, and says where it lies and what it is.
    pub(crate) fn value(&mut self, open: u32) -> Result<Value, Broken> {
        let Some(first) = self.peek() else { return self.broken() };
        let start = self.at;
        let (kind, escaped) = match first {
            b'"' => return self.string(),
            b'{' => (Type::Object, false),
            b'[' => (Type::Array, false),
            b't' => (Type::True, false),
            b'f' => (Type::False, false),
            b'n' => (Type::Null, false),
            _ => (Type::Number, false),
        };
        match kind {
            Type::Object | Type::Array => self.container(open)?,
            _ => self.scalar()?,
        }
        Ok(Value { span: self.span(start), kind, escaped })
    }

    /// Skips a container with everything in it.
    fn container(&mut self, open: u32) -> Result<(), Broken> {
        let allowed = self.depth.saturating_sub(open);
        let mut depth = 0u32;
        let mut objects = 0u64; // bit 0: the innermost open container is an object
        loop {
            // At the start of a value.
            let Some(byte) = self.peek() else { return self.broken() };
            match byte {
                b'{' | b'[' => {
                    if depth >= allowed {
                        return Err(Broken::TooDeep(self.at));
                    }
                    depth += 1;
                    let object = byte == b'{';
                    objects = (objects << 1) | u64::from(object);
                    self.at += 1;
                    match self.peek() {
                        Some(b'}') if object => {}
                        Some(b']') if !object => {}
                        Some(_) if object => {
                            self.member_name()?;
                            continue;
                        }
                        Some(_) => continue,
                        None => return self.broken(),
                    }
                }
                b'"' => {
                    self.string()?;
                }
                _ => self.scalar()?,
            }
            // After a value, or in front of the close of an empty container.
            loop {
                let object = objects & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if object {
                            self.peek();
                            self.member_name()?;
                        }
                        break;
                    }
                    Some(b'}') if object => self.at += 1,
                    Some(b']') if !object => self.at += 1,
                    _ => return self.broken(),
                }
                depth -= 1;
                objects >>= 1;
                if depth == 0 {
                    return Ok(());
                }
            }
        }
    }

    fn member_name(&mut self) -> Result<(), Broken> {
        self.string()?;
        self.expect(b':')
    }

    fn string(&mut self) -> Result<Value, Broken> {
        let start = self.at;
        if self.bytes.get(start) != Some(&b'"') {
            return self.broken();
        }
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain_prefix(self.bytes.get(self.at..).unwrap_or(&[]));
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Value { span: self.span(start), kind: Type::String, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.broken(),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Broken> {
        self.at += 1;
        match self.bytes.get(self.at) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 1..self.at + 5);
                if !digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)) {
                    return self.broken();
                }
                self.at += 5;
            }
            _ => return self.broken(),
        }
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), Broken> {
        match self.bytes.get(self.at) {
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.broken(),
        }
    }

    fn literal(&mut self, text: &[u8]) -> Result<(), Broken> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(text)) {
            self.at += text.len();
            Ok(())
        } else {
            self.broken()
        }
    }

    fn digits(&mut self) -> usize {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn number(&mut self) -> Result<(), Broken> {
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else if self.digits() == 0 {
            return self.broken();
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return self.broken();
            }
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return self.broken();
            }
        }
        Ok(())
    }
}

fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < 0x20
}

/// How many bytes from the start are neither a quote nor a backslash nor a control character.
fn plain_prefix(bytes: &[u8]) -> usize {
    let mut at = 0;
    // Most strings are short: look at the first bytes one by one before the wide loop is worth its start.
    for byte in bytes.iter().take(16) {
        if is_special(*byte) {
            return at;
        }
        at += 1;
    }
    // Minima instead of branches in the inner loop: vector instructions on every target.
    let (blocks, _) = bytes[at..].as_chunks::<32>();
    for block in blocks {
        let mut lowest = u8::MAX;
        let mut hit = u8::MAX; // 0 once a quote or a backslash was met
        for byte in block {
            lowest = lowest.min(*byte);
            hit = hit.min(byte ^ b'"').min(byte ^ b'\\');
        }
        if hit == 0 || lowest < 0x20 {
            break;
        }
        at += 32;
    }
    for byte in &bytes[at..] {
        if is_special(*byte) {
            return at;
        }
        at += 1;
    }
    at
}
