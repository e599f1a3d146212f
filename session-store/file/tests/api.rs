//! The store in a file.

mod api {
    mod contract;
    mod damage;
    mod full;
    mod kill;
    mod life;
    pub mod support;
}
