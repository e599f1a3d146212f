//! The store on real servers: Debian's Redis 7.0 and Valkey 8.1, started here and ended with the test.

mod api {
    mod contract;
    pub mod server;
    pub mod subject;
}
