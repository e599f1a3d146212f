//! Filtering list results (policy phase List). New bytes are made only where something was removed; then the result
//! is private to its caller (design rule 10).

use bytes::Bytes;

use super::scan::{Broken, Scanner, Span, Type, is_variant, unescape};
use super::{Envelope, Kind};

/// Which list a result holds, and what names its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListOf {
    /// `result.tools[].name`
    Tools,
    /// `result.prompts[].name`
    Prompts,
    /// `result.resources[].uri`
    Resources,
    /// `result.resourceTemplates[].uriTemplate`
    ResourceTemplates,
}

impl ListOf {
    /// The list that this method's result holds.
    #[must_use]
    pub fn of_method(method: &str) -> Option<ListOf> {
        match method {
            "tools/list" => Some(ListOf::Tools),
            "prompts/list" => Some(ListOf::Prompts),
            "resources/list" => Some(ListOf::Resources),
            "resources/templates/list" => Some(ListOf::ResourceTemplates),
            _ => None,
        }
    }

    /// The method whose rules decide about an entry.
    #[must_use]
    pub fn entry_method(self) -> &'static str {
        match self {
            ListOf::Tools => "tools/call",
            ListOf::Prompts => "prompts/get",
            ListOf::Resources | ListOf::ResourceTemplates => "resources/read",
        }
    }

    fn member(self) -> &'static str {
        match self {
            ListOf::Tools => "tools",
            ListOf::Prompts => "prompts",
            ListOf::Resources => "resources",
            ListOf::ResourceTemplates => "resourceTemplates",
        }
    }

    fn key(self) -> &'static str {
        match self {
            ListOf::Tools | ListOf::Prompts => "name",
            ListOf::Resources => "uri",
            ListOf::ResourceTemplates => "uriTemplate",
        }
    }
}

/// What a filter did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// The message to send: the original bytes where nothing was removed.
    pub bytes: Bytes,
    /// Entries that stayed.
    pub kept: usize,
    /// Entries that were removed.
    pub removed: usize,
}

/// Why a list result cannot be judged. It must not be shown then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Not a response with a result that is an object.
    #[error("no result object")]
    NoResult,
    /// The list is absent or no array.
    #[error("the list is missing or no array")]
    NoList,
    /// The list or `cacheScope` is there twice: two readers could see two lists.
    #[error("a member of the result is there twice")]
    Duplicate,
}

impl From<Broken> for ListError {
    fn from(_: Broken) -> Self {
        // The envelope was parsed before; a scan of a part of it meets nothing new.
        ListError::NoResult
    }
}

impl Envelope {
    /// Keeps the entries of a list result for which `keep` says so. An entry without a readable name, or with two, is
    /// removed: what cannot be judged is not shown.
    ///
    /// # Errors
    /// The result is no such list.
    pub fn filter_list(&self, list: ListOf, mut keep: impl FnMut(&str) -> bool) -> Result<Filtered, ListError> {
        let found = self.find_list(list)?;
        let array = found.array.of(&self.bytes);
        let mut scanner = Scanner::new(array, super::scan::MAX_DEPTH);
        scanner.enter(b'[', 1)?;
        let (mut kept, mut removed, mut first) = (Vec::new(), 0, true);
        while scanner.element(&mut first)? {
            let value = scanner.value(1)?;
            let entry = value.span.of(array);
            let name = if value.kind == Type::Object { only_text(entry, list.key())? } else { None };
            match name {
                Some(name) if keep(&name) => kept.push(entry),
                _ => removed += 1,
            }
        }
        let count = kept.len();
        if removed == 0 {
            return Ok(Filtered { bytes: self.bytes.clone(), kept: count, removed });
        }
        let mut shorter = vec![b'['];
        for (index, entry) in kept.into_iter().enumerate() {
            if index > 0 {
                shorter.push(b',');
            }
            shorter.extend_from_slice(entry);
        }
        shorter.push(b']');
        Ok(Filtered { bytes: self.splice(&found, &shorter), kept: count, removed })
    }

    /// The names in a list result, in order; an entry without a readable name gives none.
    ///
    /// # Errors
    /// The result is no such list.
    pub fn list_names(&self, list: ListOf) -> Result<Vec<String>, ListError> {
        let mut names = Vec::new();
        self.filter_list(list, |name| {
            names.push(name.to_owned());
            true
        })?;
        Ok(names)
    }

    /// The raw entry with this name of a list result.
    ///
    /// # Errors
    /// The result is no such list.
    pub fn list_entry(&self, list: ListOf, wanted: &str) -> Result<Option<Bytes>, ListError> {
        let found = self.find_list(list)?;
        let array = self.bytes.slice(found.array.range());
        let mut scanner = Scanner::new(&array, super::scan::MAX_DEPTH);
        scanner.enter(b'[', 1)?;
        let mut first = true;
        while scanner.element(&mut first)? {
            let value = scanner.value(1)?;
            let entry = value.span.of(&array);
            if value.kind == Type::Object && only_text(entry, list.key())?.as_deref() == Some(wanted) {
                return Ok(Some(array.slice(value.span.range())));
            }
        }
        Ok(None)
    }

    fn find_list(&self, list: ListOf) -> Result<Found, ListError> {
        let result = self.at.result.filter(|_| self.kind == Kind::Response).ok_or(ListError::NoResult)?;
        let raw = result.of(&self.bytes);
        if raw.first() != Some(&b'{') {
            return Err(ListError::NoResult);
        }
        let mut scanner = Scanner::new(raw, super::scan::MAX_DEPTH);
        scanner.enter(b'{', 1)?;
        let (mut array, mut scope, mut first) = (None, None, true);
        while let Some(key) = scanner.key(&mut first)? {
            let name = unescape(key.span.of(raw)).unwrap_or_default();
            let value = scanner.value(1)?;
            // Another letter case is another member here and the same one for some readers: see `parse`.
            let slot = if is_variant(name.as_bytes(), list.member()) {
                if value.kind != Type::Array {
                    return Err(ListError::NoList);
                }
                &mut array
            } else if is_variant(name.as_bytes(), "cacheScope") {
                &mut scope
            } else {
                continue;
            };
            if slot.replace(value.span.shifted(result.start())).is_some() {
                return Err(ListError::Duplicate);
            }
        }
        Ok(Found { array: array.ok_or(ListError::NoList)?, scope })
    }

    /// The message with another array and `cacheScope: "private"`.
    fn splice(&self, found: &Found, array: &[u8]) -> Bytes {
        const PRIVATE: &[u8] = b"\"private\"";
        let mut edits: Vec<(Span, Vec<u8>)> = vec![(found.array, array.to_vec())];
        match found.scope {
            Some(scope) => edits.push((scope, PRIVATE.to_vec())),
            None => {
                let mut with_scope = array.to_vec();
                with_scope.extend_from_slice(b",\"cacheScope\":");
                with_scope.extend_from_slice(PRIVATE);
                edits[0].1 = with_scope;
            }
        }
        edits.sort_by_key(|(span, _)| span.start());
        let mut out = Vec::with_capacity(self.bytes.len() + 32);
        let mut from = 0;
        for (span, bytes) in edits {
            out.extend_from_slice(&self.bytes[from..span.start()]);
            out.extend_from_slice(&bytes);
            from = span.end();
        }
        out.extend_from_slice(&self.bytes[from..]);
        Bytes::from(out)
    }
}

struct Found {
    array: Span,
    scope: Option<Span>,
}

/// The text of the one member with this name; `None` if it is absent, no text, or there more than once.
fn only_text(object: &[u8], wanted: &str) -> Result<Option<String>, Broken> {
    let mut scanner = Scanner::new(object, super::scan::MAX_DEPTH);
    scanner.enter(b'{', 1)?;
    let (mut found, mut times, mut first) = (None, 0, true);
    while let Some(key) = scanner.key(&mut first)? {
        let name = unescape(key.span.of(object)).unwrap_or_default();
        let value = scanner.value(1)?;
        if is_variant(name.as_bytes(), wanted) {
            times += 1;
            if name == wanted && value.kind == Type::String {
                found = unescape(value.span.of(object)).map(std::borrow::Cow::into_owned);
            }
        }
    }
    Ok(found.filter(|_| times == 1))
}
