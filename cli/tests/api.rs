//! `sipmcp` as a user runs it, toward edges that fail.

mod api {
    mod keys;
    mod scripted;
    pub mod support;
}
