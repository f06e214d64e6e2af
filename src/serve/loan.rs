//! The user table as one worker has it.
//!
//! Owns the way home of a table. Promises that a worker never unmaps one: that takes long for gigabytes, and its
//! clients would wait. Who drops the last reference sends the table to the thread that lent it. Each worker has a
//! loan of its own, so that counting its transactions touches nothing that workers share.
#![forbid(unsafe_code)]

use std::ops::Deref;
use std::sync::Arc;

use crossbeam::channel::Sender;

use crate::users::Table;

/// A table on loan. It goes home when the worker has a new one and the last transaction that began with this
/// one is over.
#[derive(Debug)]
pub struct Loan {
    /// There until the drop, which gives it away: what stays behind here could be the last reference.
    table: Option<Arc<Table>>,
    /// None for a table that may be unmapped anywhere.
    home: Option<Sender<Arc<Table>>>,
}

impl Loan {
    /// Lends `table`, which comes back through `home`.
    #[must_use]
    pub fn new(table: Arc<Table>, home: Sender<Arc<Table>>) -> Self {
        Self { table: Some(table), home: Some(home) }
    }
}

impl From<Arc<Table>> for Loan {
    /// For who never replaces a table.
    fn from(table: Arc<Table>) -> Self {
        Self { table: Some(table), home: None }
    }
}

impl Deref for Loan {
    type Target = Table;

    fn deref(&self) -> &Table {
        self.table.as_ref().expect("it goes home in the drop")
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let (Some(home), Some(table)) = (&self.home, self.table.take()) {
            // If nobody is at home any more, the process is about to end.
            let _ = home.send(table);
        }
    }
}

/// A table for tests that look nobody up.
#[cfg(test)]
pub(super) fn empty_table() -> Arc<Table> {
    use crate::users::build::{Options, write};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.table");
    write(&path, Options::reproducible(crate::users::LocalPart::Kept, [0; 16]), []).unwrap();
    Arc::new(Table::from_bytes(&path, &std::fs::read(&path).unwrap()).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_comes_home_from_every_worker_when_its_last_transaction_is_over() {
        let table = empty_table();
        let (home, returned) = crossbeam::channel::unbounded();
        for _worker in 0..2 {
            let loan = std::rc::Rc::new(Loan::new(Arc::clone(&table), home.clone()));
            let transaction = std::rc::Rc::clone(&loan);
            drop(loan);
            assert!(transaction.is_empty() && returned.is_empty(), "a transaction still has it");
            drop(transaction);
            let back = returned.try_recv().unwrap();
            assert!(Arc::ptr_eq(&back, &table));
            drop(back);
            assert_eq!(Arc::strong_count(&table), 1, "nothing stays behind");
        }
    }
}
