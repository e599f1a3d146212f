//! `sipmcp` as a user runs it, toward edges that fail.

mod api {
    mod edges;
    mod keys;
    mod scripted;
    pub mod support;
}
