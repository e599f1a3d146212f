//! The real programs against real peers. Everything is in `tests/interop`; `scripts/interop.sh` builds what it starts.
#![forbid(unsafe_code)]
