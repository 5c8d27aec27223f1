//! The lists that policies have of senders or of gateways. Each has a number in the kernel, and keeps it when the policies
//! change, as long as an interface has the list.

use std::collections::{BTreeMap, BTreeSet};

/// Lists by their numbers, from 1 on. Equal lists share one; 0 is the empty list. A number is never given again.
#[derive(Clone, Debug)]
pub(crate) struct NumberedLists<T> {
    by_number: BTreeMap<u32, Vec<T>>,
    last: u32,
}

impl<T> Default for NumberedLists<T> {
    fn default() -> Self {
        NumberedLists { by_number: BTreeMap::new(), last: 0 }
    }
}

impl<T: Clone + PartialEq> NumberedLists<T> {
    /// The number of a list, which is a new one unless there is an equal list.
    pub(crate) fn number(&mut self, list: Vec<T>) -> u32 {
        if list.is_empty() {
            return 0;
        }
        if let Some((&number, _)) = self.by_number.iter().find(|(_, known)| **known == list) {
            return number;
        }
        self.last += 1;
        self.by_number.insert(self.last, list);
        self.last
    }

    /// The last number that was given; 0 if none was.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// Each item of the lists that were numbered after this one, with its list's number.
    pub(crate) fn after(&self, number: u32) -> Vec<(u32, T)> {
        let lists = self.by_number.range(number + 1..);
        lists.flat_map(|(&number, list)| list.iter().map(move |item| (number, item.clone()))).collect()
    }

    /// Forgets the lists of which no number is here. Gives each of their items, with its list's number.
    pub(crate) fn keep(&mut self, used: &BTreeSet<u32>) -> Vec<(u32, T)> {
        let gone: Vec<u32> = self.by_number.keys().filter(|number| !used.contains(number)).copied().collect();
        let lists = gone.into_iter().filter_map(|number| Some((number, self.by_number.remove(&number)?)));
        lists.flat_map(|(number, list)| list.into_iter().map(move |item| (number, item))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_number_and_a_number_is_never_given_again() {
        let mut lists = NumberedLists::default();
        assert_eq!([lists.number(vec!['a', 'b']), lists.number(vec!['c']), lists.number(vec!['a', 'b'])], [1, 2, 1]);
        assert_eq!(lists.number(Vec::new()), 0);
        assert_eq!(lists.after(1), [(2, 'c')]);
        assert_eq!(lists.keep(&[2].into()), [(1, 'a'), (1, 'b')]);
        assert_eq!(lists.after(0), [(2, 'c')]);
        assert_eq!([lists.number(vec!['a', 'b']), lists.number(vec!['c'])], [3, 2]);
        assert_eq!(lists.last(), 3);
    }
}
