//! Random operations over so few names that they meet.
