//! Load and pairs of measurements.

fn main() {}
