//! What every backend of the store promises, shown on the memory backend.

mod api {
    mod calls;
    mod codec;
    mod dialogs;
    mod exchanges;
    mod nonces;
    mod properties;
    mod registrations;
    mod samples;
    mod seal;
    mod sessions;
}
