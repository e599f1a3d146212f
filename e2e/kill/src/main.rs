//! Faults against running edges, and one table of what each cost.

fn main() {}
