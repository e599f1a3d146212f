//! The wire layer from outside: messages, framing, builders, multipart.
#[path = "wire/builders.rs"]
mod builders;
#[path = "wire/exercise.rs"]
mod exercise;
#[path = "wire/limits.rs"]
mod limits;
#[path = "wire/probes.rs"]
mod probes;
#[path = "wire/properties.rs"]
mod properties;
#[path = "wire/rfc4475.rs"]
mod rfc4475;
#[path = "wire/smuggling.rs"]
mod smuggling;
