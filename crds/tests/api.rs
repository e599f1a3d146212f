//! What the crate promises to its users: one binary for all of it.

mod api {
    mod cel;
    mod effects;
    mod examples;
    mod generated;
    mod invalid;
    mod robust;
    mod rules;
    mod verdicts;
}
