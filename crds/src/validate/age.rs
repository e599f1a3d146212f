//! Who was there first, where only one may have something.

use crate::manifest::{Origin, Sourced};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// Orders objects: by `creationTimestamp` then key; those without a timestamp (files) come after, in the order of reading.
pub(super) type Age<K> = (Option<Unwritten>, Option<Time>, K);

/// Place in the order of reading of an object without `creationTimestamp`.
type Unwritten = u32;

/// The age of an object; smaller is older.
pub(super) fn age<K: Clone, T: kube::Resource>(key: &K, object: &Sourced<T>) -> Age<K> {
    match &object.object.meta().creation_timestamp {
        Some(created) => (None, Some(created.clone()), key.clone()),
        None => (Some(object.origin.ordinal), None, key.clone()),
    }
}

/// Who has something first, and where that one was written.
pub(super) type Firsts<U, K> = BTreeMap<U, (Age<K>, Arc<Origin>)>;

/// The oldest for each value of `unique`; objects for which that is `None` do not count.
pub(super) fn first_by<U: Ord, K: Ord + Clone, T: kube::Resource>(
    objects: &BTreeMap<K, Sourced<T>>,
    unique: impl Fn(&K, &T) -> Option<U>,
) -> Firsts<U, K> {
    let mut firsts = Firsts::new();
    for (key, object) in objects {
        let Some(value) = unique(key, &object.object) else { continue };
        let age = age(key, object);
        match firsts.entry(value) {
            Entry::Vacant(entry) => {
                entry.insert((age, object.origin.clone()));
            }
            Entry::Occupied(mut entry) if age < entry.get().0 => {
                entry.insert((age, object.origin.clone()));
            }
            Entry::Occupied(_) => {}
        }
    }
    firsts
}
