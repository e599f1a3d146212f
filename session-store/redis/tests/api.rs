//! The store on real servers: Debian's Redis 7.0 and Valkey 8.1, started here and ended with the test.

mod api {
    mod background;
    pub mod breaker;
    mod cluster;
    mod contract;
    mod durability;
    mod full;
    pub mod proxy;
    mod records;
    mod replays;
    mod sentinel;
    pub mod server;
    mod size;
    mod skew;
    mod start;
    pub mod subject;
    mod tls;
    mod trips;
}
