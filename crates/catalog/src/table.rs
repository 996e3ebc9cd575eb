//! A map whose versions share what they have in common.
//!
//! ```text
//!  version 7 ─▶ root ─┬─▶ branch ─┬─▶ part: a few hundred rows at a million
//!                     ┊           └─▶ part ◀──────────────────────┐
//!                     └─▶ branch ◀───────────────┐                │
//!  version 8 ─▶ root ─┬─▶ (the same branch) ─────┘                │
//!                     └─▶ branch' ─┬─▶ part' (one row differs)    │
//!                                  └─▶ (the same part) ───────────┘
//! ```
//!
//! A change copies one part and the way to it, whatever the size of the map, so that old versions can be kept and read
//! while new ones are made. What differs between two versions is found by looking only where they do not share
//! ([`Table::changes`]). A look-up hashes the name once.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
};

use hashbrown::HashTable;

/// So many branches, and so many parts in each.
const FAN: usize = 64;

/// What can be a row of a [`Table`].
pub trait Named {
    /// What it is found by.
    fn name(&self) -> &str;
}

/// A map from names to rows. A clone is cheap and from then on a version of its own.
#[derive(Debug)]
pub struct Table<T> {
    branches: Box<[Arc<Branch<T>>]>,
    len: usize,
}

type Branch<T> = Vec<Arc<Part<T>>>;
type Part<T> = HashTable<Arc<T>>;

/// How a row of one version differs from the row of that name in an earlier one.
#[derive(Debug)]
pub enum Change<T> {
    /// There was none.
    Came(Arc<T>),
    /// There was another.
    Became {
        /// The other.
        before: Arc<T>,
        /// The row.
        now: Arc<T>,
    },
    /// There is none any more.
    Went(Arc<T>),
}

/// Names are hashed alike in all tables of the process, so that versions can be compared, and by a secret, since
/// strangers choose names.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn hash(name: &str) -> u64 {
    HASHER.hash_one(name)
}

/// Where a hash belongs. Parts tell their rows apart by the highest and lowest bits, so these are others.
fn place(hash: u64) -> (usize, usize) {
    ((hash >> 40) as usize % FAN, (hash >> 46) as usize % FAN)
}

impl<T: Named> Table<T> {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The row of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<T>> {
        let hash = hash(name);
        let (branch, part) = place(hash);
        self.branches[branch][part].find(hash, |row| row.name() == name)
    }

    /// Whether there is a row of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Every row, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.branches.iter().flat_map(|branch| branch.iter()).flat_map(|part| part.iter())
    }

    /// Adds a row, or replaces the one of its name, which is returned.
    pub fn insert(&mut self, row: Arc<T>) -> Option<Arc<T>> {
        let hashed = hash(row.name());
        let part = self.part(hashed);
        if let Some(old) = part.find_mut(hashed, |old| old.name() == row.name()) {
            return Some(std::mem::replace(old, row));
        }
        part.insert_unique(hashed, row, |row| hash(row.name()));
        self.len += 1;
        None
    }

    /// Removes the row of this name, which is returned.
    pub fn remove(&mut self, name: &str) -> Option<Arc<T>> {
        self.get(name)?;
        let hash = hash(name);
        let entry = self.part(hash).find_entry(hash, |row| row.name() == name).ok()?;
        let (row, _) = entry.remove();
        self.len -= 1;
        Some(row)
    }

    /// What differs from an earlier version. It costs what the two do not share.
    pub fn changes<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Change<T>> {
        let branches =
            self.branches.iter().zip(before.branches.iter()).filter(|(now, before)| !Arc::ptr_eq(now, before));
        let parts = branches.flat_map(|(now, before)| now.iter().zip(before.iter()));
        parts.filter(|(now, before)| !Arc::ptr_eq(now, before)).flat_map(|(now, before)| part_changes(now, before))
    }

    /// The part of a hash, belonging to this version alone.
    fn part(&mut self, hash: u64) -> &mut Part<T> {
        let (branch, part) = place(hash);
        Arc::make_mut(&mut Arc::make_mut(&mut self.branches[branch])[part])
    }
}

fn part_changes<'a, T: Named>(now: &'a Part<T>, before: &'a Part<T>) -> impl Iterator<Item = Change<T>> {
    let twin = |part: &'a Part<T>, row: &Arc<T>| part.find(hash(row.name()), |it| it.name() == row.name());
    let came = now.iter().filter_map(move |now| match twin(before, now) {
        None => Some(Change::Came(now.clone())),
        Some(before) if Arc::ptr_eq(before, now) => None,
        Some(before) => Some(Change::Became { before: before.clone(), now: now.clone() }),
    });
    came.chain(before.iter().filter(move |before| twin(now, before).is_none()).cloned().map(Change::Went))
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        let branch = Arc::new(vec![Arc::default(); FAN]);
        Self { branches: vec![branch; FAN].into(), len: 0 }
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { branches: self.branches.clone(), len: self.len }
    }
}

impl<T: Named> FromIterator<Arc<T>> for Table<T> {
    fn from_iter<I: IntoIterator<Item = Arc<T>>>(rows: I) -> Self {
        let mut table = Self::default();
        for row in rows {
            table.insert(row);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Row(String, u32);

    impl Named for Row {
        fn name(&self) -> &str {
            &self.0
        }
    }

    type Model = BTreeMap<String, u32>;

    fn change(table: &mut Table<Row>, model: &mut Model, key: u8, value: Option<u32>) {
        let name = format!("row-{key}");
        let (was, had) = match value {
            Some(value) => (table.insert(Arc::new(Row(name.clone(), value))), model.insert(name, value)),
            None => (table.remove(&name), model.remove(&name)),
        };
        assert_eq!(was.map(|row| row.1), had);
    }

    fn content(table: &Table<Row>) -> Model {
        table.iter().map(|row| (row.0.clone(), row.1)).collect()
    }

    fn apply(before: &Model, table: &Table<Row>, earlier: &Table<Row>) -> Model {
        let mut model = before.clone();
        for change in table.changes(earlier) {
            match change {
                Change::Came(row) => assert_eq!(model.insert(row.0.clone(), row.1), None),
                Change::Became { before, now } => assert_eq!(model.insert(now.0.clone(), now.1), Some(before.1)),
                Change::Went(row) => assert_eq!(model.remove(&row.0), Some(row.1)),
            }
        }
        model
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, Option<u32>)>> {
        prop::collection::vec((any::<u8>(), prop::option::weighted(0.7, any::<u32>())), 0..200)
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_older_versions_stay_as_they_were(first in steps(), then in steps()) {
            let (mut table, mut model) = (Table::default(), Model::new());
            first.into_iter().for_each(|(key, value)| change(&mut table, &mut model, key, value));
            let (earlier, before) = (table.clone(), model.clone());
            then.into_iter().for_each(|(key, value)| change(&mut table, &mut model, key, value));
            prop_assert_eq!(content(&table), model.clone());
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(content(&earlier), before.clone());
            prop_assert_eq!(apply(&before, &table, &earlier), model);
            prop_assert!(table.iter().all(|row| Arc::ptr_eq(table.get(row.name()).unwrap(), row)));
        }
    }

    #[test]
    fn versions_share_all_but_the_part_that_changed() {
        let table: Table<Row> = (0..10_000).map(|n| Arc::new(Row(format!("row-{n}"), n))).collect();
        let mut next = table.clone();
        next.insert(Arc::new(Row("row-7".into(), 1)));
        let own = |one: &Table<Row>, other: &Table<Row>| {
            let parts =
                |table: &Table<Row>| table.branches.iter().flat_map(|branch| branch.to_vec()).collect::<Vec<_>>();
            parts(one).iter().zip(&parts(other)).filter(|(one, other)| !Arc::ptr_eq(one, other)).count()
        };
        assert_eq!(own(&table, &next), 1);
        assert_eq!(next.changes(&table).count(), 1);
    }
}
