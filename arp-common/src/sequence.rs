//! The sequence: a word in which the agent says that it writes the tables (docs/adr/0019-order-of-reads.md).
//!
//! Its lower half is odd while a batch is written, and moves by two with each. Its upper half does the same for batches
//! that change more than neighbour entries. A client can make the agent write as many of the others as it likes, and what
//! the tables say of routes is certain all the while.

/// The half that is about routes.
const UPPER: u64 = u64::MAX << 32;

/// The word while a batch is written, from what it was before. `routes`: the batch changes more than neighbour entries.
#[must_use]
pub const fn begun(before: u64, routes: bool) -> u64 {
    before | 1 | ((routes as u64) << 32)
}

/// The word after that batch, from what [`begun`] gave.
#[must_use]
pub const fn ended(begun: u64, routes: bool) -> u64 {
    let all = begun.wrapping_add(1) & !UPPER;
    let of_routes = (begun & UPPER).wrapping_add((routes as u64) << 32);
    all | of_routes
}

/// Whether the tables were whole at two looks and between them.
#[inline(always)]
pub const fn is_certain(first: u64, second: u64) -> bool {
    first & 1 == 0 && first == second
}

/// Whether all but the neighbour entries was.
#[inline(always)]
pub const fn are_routes_certain(first: u64, second: u64) -> bool {
    is_certain(first >> 32, second >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_neighbours_leave_the_routes_certain() {
        let before = 2 | (4 << 32);
        let writing = begun(before, false);
        let after = ended(writing, false);
        assert!(is_certain(before, before) && is_certain(after, after));
        assert!(![(writing, writing), (before, writing), (before, after)].iter().any(|&(a, b)| is_certain(a, b)));
        assert!([(writing, writing), (before, after)].iter().all(|&(a, b)| are_routes_certain(a, b)));
    }

    #[test]
    fn all_other_batches_leave_nothing_certain() {
        let before = 2 | (4 << 32);
        let writing = begun(before, true);
        let after = ended(writing, true);
        for (first, second) in [(writing, writing), (before, writing), (before, after)] {
            assert!(!is_certain(first, second) && !are_routes_certain(first, second));
        }
        assert!(is_certain(after, after) && are_routes_certain(after, after));
    }

    #[test]
    fn neither_half_runs_into_the_other() {
        let last = (u64::from(u32::MAX) - 1) | ((u64::from(u32::MAX) - 1) << 32);
        assert_eq!(ended(begun(last, false), false), (u64::from(u32::MAX) - 1) << 32);
        assert_eq!(ended(begun(last, true), true), 0);
    }
}
