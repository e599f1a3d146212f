//! The API of sipmcp: types, schemas, validation, and manifests from files.
//!
//! A pure crate: kube's derive without its client. The operator, the edge and `sipmcp check` judge an object by the same
//! code, so what was accepted in one place works in the others.
//!
//! - [`v1alpha1`]: the kinds. **A field enters a type together with the code that gives it an effect.**
//! - [`core_v1`]: the two core kinds that manifests may carry beside them, `Secret` and `ConfigMap`.
//! - [`admin`]: questions and answers of the Admin API, which is no API of Kubernetes.
//! - [`schema`]: the CustomResourceDefinitions, committed under `generated/`.
//! - [`validate`]: the rules: per object (the CEL rules of the schema, in Rust) and over a whole set of objects.
//! - [`policy`]: a policy compiled for the core.
//! - [`manifest`]: YAML files → typed objects with file and line, and a list of problems.

#![expect(clippy::duplicated_attributes, reason = "printer columns: each has a name, a type and a path of its own")]

pub mod admin;
pub mod core_v1;
pub mod manifest;
pub mod policy;
pub mod schema;
pub mod v1alpha1;
pub mod validate;
