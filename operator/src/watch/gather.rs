//! Lists and changes from the watches of one kind, one per namespace, as one. Pure.

use kube::runtime::watcher::Event;

/// What follows from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    Nothing,
    Apply(T),
    Delete(T),
    /// Every watch has its first list: this is all that there is.
    Reset(Vec<T>),
    /// It may not be listed: as if there were none.
    Forbidden,
    /// One watch, by its number, began again: this is all that there is in its namespace.
    Again(usize, Vec<T>),
}

/// See the module.
#[derive(Debug)]
pub struct Gather<T> {
    sources: Vec<Source<T>>,
    /// Whether two are the same object, whatever their versions.
    same: fn(&T, &T) -> bool,
    /// Every watch had its first list.
    complete: bool,
}

#[derive(Debug)]
struct Source<T> {
    /// The list that is coming.
    coming: Vec<T>,
    /// The first list, until those of all others are there.
    first: Option<Vec<T>>,
}

impl<T> Gather<T> {
    /// Of so many watches.
    pub fn new(count: usize, same: fn(&T, &T) -> bool) -> Self {
        let source = |_| Source { coming: Vec::new(), first: None };
        Gather { sources: (0..count).map(source).collect(), same, complete: false }
    }

    /// Takes what the watch of this number said.
    pub fn take(&mut self, at: usize, event: Event<T>) -> Step<T> {
        let same = self.same;
        let Some(source) = self.sources.get_mut(at) else { return Step::Nothing };
        match event {
            Event::Init => source.coming = Vec::new(),
            Event::InitApply(object) => source.coming.push(object),
            Event::InitDone => {
                let list = std::mem::take(&mut source.coming);
                if self.complete {
                    return Step::Again(at, list);
                }
                source.first = Some(list);
                if self.sources.iter().all(|source| source.first.is_some()) {
                    self.complete = true;
                    let lists = self.sources.iter_mut().filter_map(|source| source.first.take());
                    return Step::Reset(lists.flatten().collect());
                }
            }
            Event::Apply(object) if self.complete => return Step::Apply(object),
            Event::Delete(object) if self.complete => return Step::Delete(object),
            // Others have not listed yet: it is changed in the list that waits.
            Event::Apply(object) => {
                let list = source.first.get_or_insert_default();
                list.retain(|there| !same(there, &object));
                list.push(object);
            }
            Event::Delete(object) => {
                if let Some(list) = &mut source.first {
                    list.retain(|there| !same(there, &object));
                }
            }
        }
        Step::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Object = (&'static str, u32);

    fn gather(count: usize) -> Gather<Object> {
        Gather::new(count, |a, b| a.0 == b.0)
    }

    fn list(gather: &mut Gather<Object>, at: usize, objects: &[Object]) -> Step<Object> {
        assert_eq!(gather.take(at, Event::Init), Step::Nothing);
        for object in objects {
            assert_eq!(gather.take(at, Event::InitApply(*object)), Step::Nothing);
        }
        gather.take(at, Event::InitDone)
    }

    #[test]
    fn nothing_is_known_before_every_namespace_was_listed() {
        let mut gather = gather(2);
        assert_eq!(list(&mut gather, 0, &[("a", 1), ("b", 1), ("c", 1)]), Step::Nothing);
        assert_eq!(gather.take(0, Event::Apply(("a", 2))), Step::Nothing);
        assert_eq!(gather.take(0, Event::Delete(("b", 1))), Step::Nothing);
        assert_eq!(list(&mut gather, 1, &[("d", 1)]), Step::Reset(vec![("c", 1), ("a", 2), ("d", 1)]));
        assert_eq!(gather.take(0, Event::Apply(("a", 3))), Step::Apply(("a", 3)));
        assert_eq!(gather.take(1, Event::Delete(("d", 1))), Step::Delete(("d", 1)));
    }

    #[test]
    fn a_watch_that_begins_again_speaks_for_its_namespace_only() {
        let mut gather = gather(2);
        list(&mut gather, 0, &[("a", 1)]);
        list(&mut gather, 1, &[]);
        assert_eq!(gather.take(0, Event::Init), Step::Nothing);
        assert_eq!(gather.take(0, Event::InitApply(("half", 1))), Step::Nothing);
        assert_eq!(
            list(&mut gather, 0, &[("b", 1)]),
            Step::Again(0, vec![("b", 1)]),
            "a list that broke off is not used"
        );
    }
}
