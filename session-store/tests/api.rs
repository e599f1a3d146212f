//! What is the memory store's alone: limits, the stored form, seals. What every store promises is in `store-contract`, which runs on
//! this one, too.

mod api {
    mod capacity;
    mod codec;
    mod golden;
    mod names;
    mod persist;
    mod properties;
    mod seal;
}
