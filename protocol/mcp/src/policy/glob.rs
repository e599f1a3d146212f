//! Globs: `*` is any text, everything else is itself.

use std::fmt;

/// Longest pattern, in bytes: a tool name has 128 characters at most, a URI is rarely longer than 256.
const MAX_PATTERN: usize = 256;
/// Most stars of a pattern; bounds the work of one match.
const MAX_STARS: usize = 8;

/// A compiled pattern.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob {
    pattern: String,
}

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Nothing there.
    #[error("the pattern is empty")]
    Empty,
    /// More than 256 bytes.
    #[error("the pattern is longer than {MAX_PATTERN} bytes")]
    TooLong,
    /// More than 8 stars.
    #[error("the pattern has more than {MAX_STARS} stars")]
    TooManyStars,
    /// `**` is no pattern of ours; one star already crosses every separator.
    #[error("** is not supported; one * matches any text, separators included")]
    DoubleStar,
    /// A character that means something in other pattern languages, or none that a name has.
    #[error("the character {0:?} is not supported in a pattern; only * is special")]
    Character(char),
}

impl Glob {
    /// A pattern over names of methods, tools and prompts. `? [ ] { } \` are refused: they would be read as another
    /// pattern language by whoever writes them, and no name has them.
    ///
    /// # Errors
    /// Empty, too long, too many stars, or such a character.
    pub fn name(pattern: &str) -> Result<Glob, GlobError> {
        Glob::new(pattern, |c| c.is_control() || matches!(c, '?' | '[' | ']' | '{' | '}' | '\\' | ' '))
    }

    /// A pattern over URIs, where all characters but `*` are themselves.
    ///
    /// # Errors
    /// Empty, too long, too many stars, or white space.
    pub fn uri(pattern: &str) -> Result<Glob, GlobError> {
        Glob::new(pattern, |c| c.is_control() || matches!(c, ' ' | '\\'))
    }

    fn new(pattern: &str, refused: impl Fn(char) -> bool) -> Result<Glob, GlobError> {
        if pattern.is_empty() {
            return Err(GlobError::Empty);
        }
        if pattern.len() > MAX_PATTERN {
            return Err(GlobError::TooLong);
        }
        if let Some(c) = pattern.chars().find(|c| refused(*c)) {
            return Err(GlobError::Character(c));
        }
        if pattern.contains("**") {
            return Err(GlobError::DoubleStar);
        }
        if pattern.matches('*').count() > MAX_STARS {
            return Err(GlobError::TooManyStars);
        }
        Ok(Glob { pattern: pattern.to_owned() })
    }

    /// The pattern.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether the whole text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        // A text never holds the star of another pattern: `*` in it is an ordinary byte, which only our own star takes.
        walk(self.pattern.as_bytes(), text.as_bytes(), |p, t| p == t)
    }

    /// Whether everything that `other` matches is matched by this pattern too.
    #[must_use]
    pub fn covers(&self, other: &Glob) -> bool {
        // A star of `other` stands for any text; only a star of ours takes any text.
        walk(self.pattern.as_bytes(), other.pattern.as_bytes(), |p, t| p == t && t != b'*')
    }
}

/// Matches with one point of return, the last star. Bounded by pattern length times text length.
fn walk(pattern: &[u8], text: &[u8], same: impl Fn(u8, u8) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(&want) if same(want, byte) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    p = after;
                    t = from + 1;
                    star = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|b| *b == b'*'))
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({})", self.pattern)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}
