//! The gRPC contracts between edges (`mesh.proto`). The generated code is committed; a test compares it with the contract.
