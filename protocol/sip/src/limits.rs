//! Hard limits of the wire layer. What is larger is refused with the status beside it, before memory is spent on it.

/// Start line and all header lines together, with the empty line that ends them: 513, and the stream is closed.
pub const HEAD_BYTES: usize = 64 * 1024;

/// Header lines of one message: 513, and the stream is closed.
pub const HEADER_LINES: usize = 128;

/// Header lines that are indexed without an allocation.
pub const INLINE_HEADER_LINES: usize = 64;

/// One header line with its folds: 513. A PASSporT of several attestations fits; the whole head as one line does not.
pub const LINE_BYTES: usize = 16 * 1024;

/// Request-URI: 414.
pub const REQUEST_URI_BYTES: usize = 4 * 1024;

/// Body when nothing else is configured: 413.
pub const BODY_BYTES: usize = 64 * 1024;

/// The largest body that can be configured: 413.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Via values, as many as Max-Forwards lets a request collect: 483.
pub const VIA_VALUES: usize = 70;

/// Route values, and Record-Route values: 400.
pub const ROUTE_VALUES: usize = 16;

/// CSeq number (RFC 3261 §8.1.1.5: below 2³¹): 400.
pub const CSEQ_MAX: u32 = (1 << 31) - 1;

/// Parts of a multipart body, those of inner multiparts included: 400.
pub const MULTIPART_PARTS: usize = 16;

/// Multipart inside multipart: two levels in all: 400.
pub const MULTIPART_NESTING: usize = 2;

/// Header lines of one body part, and their octets together: 400.
pub const PART_HEADER_LINES: usize = 32;
/// See [`PART_HEADER_LINES`].
pub const PART_HEAD_BYTES: usize = 8 * 1024;
