//! What the crate promises to its users: one binary for all of it.

mod api {
    mod examples;
    mod generated;
}
