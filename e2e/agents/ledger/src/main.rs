//! An MCP server whose tools leave a line in a ledger for each execution.

fn main() {}
