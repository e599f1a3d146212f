//! The MCP half of the core with plain inputs: no SIP, no runtime, a store that is called by hand.

mod engine {
    mod answers;
    mod audit;
    mod bodies;
    mod carriers;
    mod doubt;
    mod eras;
    mod failover;
    mod in_flight;
    mod lease;
    mod legacy;
    mod limits;
    mod modern;
    mod policy;
    mod properties;
    mod rig;
    mod server_requests;
    mod session_end;
    mod when;
}
