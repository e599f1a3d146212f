//! The same random operations on two stores.
