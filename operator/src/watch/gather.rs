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
    /// One watch may not list any more, or never could: what it had listed stays, and what it never listed may be there all the same. Follows
    /// every [`Step::Reset`] that such a watch has no part in.
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
    /// It may not list, since it last did.
    forbidden: bool,
}

impl<T> Gather<T> {
    /// Of so many watches.
    pub fn new(count: usize, same: fn(&T, &T) -> bool) -> Self {
        let source = |_| Source { coming: Vec::new(), first: None, forbidden: false };
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
                source.forbidden = false;
                if self.complete {
                    return Step::Again(at, list);
                }
                source.first = Some(list);
                return self.first().unwrap_or(Step::Nothing);
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

    /// The watch of this number may not list: nobody waits for it any more, and of others it takes nothing.
    pub fn forbid(&mut self, at: usize) -> Step<T> {
        let Some(source) = self.sources.get_mut(at) else { return Step::Nothing };
        source.forbidden = true;
        if self.complete {
            return Step::Forbidden;
        }
        source.first.get_or_insert_default();
        self.first().unwrap_or(Step::Forbidden)
    }

    /// The watches that may not list.
    pub fn forbidden(&self) -> impl Iterator<Item = usize> {
        self.sources.iter().enumerate().filter(|(_, source)| source.forbidden).map(|(at, _)| at)
    }

    /// Every watch has its first list now.
    fn first(&mut self) -> Option<Step<T>> {
        if !self.sources.iter().all(|source| source.first.is_some()) {
            return None;
        }
        self.complete = true;
        Some(Step::Reset(self.sources.iter_mut().filter_map(|source| source.first.take()).flatten().collect()))
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

    #[test]
    fn nobody_waits_for_a_watch_that_may_not_list_and_it_takes_nothing_away() {
        let mut one = gather(1);
        assert_eq!((one.forbid(0), one.forbidden().count()), (Step::Reset(vec![]), 1));
        assert_eq!(one.forbid(0), Step::Forbidden);
        assert_eq!((list(&mut one, 0, &[("a", 1)]), one.forbidden().count()), (Step::Again(0, vec![("a", 1)]), 0));

        let mut two = gather(2);
        assert_eq!(two.forbid(1), Step::Forbidden);
        assert_eq!(list(&mut two, 0, &[("a", 1)]), Step::Reset(vec![("a", 1)]));
        assert_eq!(two.forbidden().collect::<Vec<_>>(), [1], "it has no part in what was said");
        assert_eq!(two.take(0, Event::Apply(("a", 2))), Step::Apply(("a", 2)));
        let mut late = gather(2);
        list(&mut late, 0, &[("a", 1)]);
        assert_eq!(late.forbid(1), Step::Reset(vec![("a", 1)]));
        assert_eq!(list(&mut late, 1, &[("b", 1)]), Step::Again(1, vec![("b", 1)]));
        assert_eq!((late.forbid(0), late.forbidden().collect::<Vec<_>>()), (Step::Forbidden, vec![0]));
    }
}
