//! The book as it is now, and how far it has followed the store.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::book::Book;
use crate::store::{Change, Event, Position};

/// Whether the book is known to be what the store holds, else why not.
pub(crate) type Standing = Result<(), String>;

pub(crate) struct Mirror {
    view: RwLock<View>,
    position: watch::Sender<Position>,
    standing: watch::Sender<Standing>,
}

struct View {
    book: Arc<Book>,
    position: Position,
    /// What the store says of itself.
    store: Standing,
}

impl View {
    fn new(changes: &[Change], position: Position, store: Standing) -> Self {
        let mut view = Self { book: Arc::default(), position, store };
        view.apply(changes);
        view
    }

    fn apply(&mut self, changes: &[Change]) {
        // Copies only while somebody reads the old one.
        let book = Arc::make_mut(&mut self.book);
        changes.iter().for_each(|change| book.apply(change));
    }

    /// A replica with an entry that it can't read isn't one to make changes at: another may understand it.
    fn standing(&self) -> Standing {
        match self.book.unreadable.first_key_value() {
            Some((key, cause)) => Err(format!("the entry {key} can't be read: {cause}")),
            None => self.store.clone(),
        }
    }
}

impl Mirror {
    /// Starts with everything that a store holds.
    pub(crate) fn new(changes: &[Change], position: Position) -> Self {
        let view = View::new(changes, position, Ok(()));
        let standing = watch::Sender::new(view.standing());
        Self { view: RwLock::new(view), position: watch::Sender::new(position), standing }
    }

    /// The book, and the position up to which it holds everything.
    pub(crate) fn view(&self) -> (Arc<Book>, Position) {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&view.book), view.position)
    }

    /// The standing now and when it changes.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Takes over changes after which the store is at `position`; what the book has seen already is left alone.
    pub(crate) fn apply(&self, changes: &[Change], position: Position) {
        self.with_view(|view| {
            if position > view.position {
                view.apply(changes);
                view.position = position;
            }
        });
    }

    /// Takes over what the store tells.
    pub(crate) fn follow(&self, event: Event) {
        match event {
            Event::Changed(change, position) => self.apply(&[change], position),
            Event::Whole(changes, position) => {
                self.with_view(|view| *view = View::new(&changes, position, view.store.clone()));
            }
            Event::Seen(position) => self.apply(&[], position),
            Event::Standing(standing) => self.with_view(|view| view.store = standing),
        }
    }

    fn with_view(&self, change: impl FnOnce(&mut View)) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut view);
        self.position.send_if_modified(|held| std::mem::replace(held, view.position) != view.position);
        let standing = view.standing();
        self.standing.send_if_modified(|held| {
            let differs = *held != standing;
            *held = standing;
            differs
        });
    }

    /// Waits until more than `seen` is in the book; false when that takes longer than `patience`.
    pub(crate) async fn beyond(&self, seen: Position, patience: Duration) -> bool {
        let mut position = self.position.subscribe();
        timeout(patience, position.wait_for(|position| *position > seen))
            .await
            .is_ok_and(|found| found.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(id: &str, name: &str) -> Change {
        let value = serde_json::json!({
            "id": id, "name": name, "plan": "free", "managed_by": "operator", "revision": 1, "created_at_ms": 0
        });
        Change { key: format!("account/{id}"), value: Some(value.to_string().into_bytes()) }
    }

    #[test]
    fn what_was_seen_already_is_not_brought_back() {
        let mirror = Mirror::new(&[account("a", "shop")], 5);
        let removed = Change { key: "account/a".into(), value: None };
        mirror.follow(Event::Changed(removed, 6));
        mirror.follow(Event::Changed(account("b", "shop"), 7));
        mirror.follow(Event::Changed(account("a", "shop"), 6));
        let (book, position) = mirror.view();
        assert_eq!((book.account("shop").unwrap().id.as_str(), position), ("b", 7));
        mirror.follow(Event::Whole(vec![account("c", "shop")], 2));
        let (book, position) = mirror.view();
        assert_eq!((book.account("shop").unwrap().id.as_str(), book.accounts.len(), position), ("c", 1, 2));
    }

    #[test]
    fn an_entry_that_cannot_be_read_keeps_what_was_known_and_is_told() {
        let mirror = Mirror::new(&[account("a", "shop")], 1);
        let standing = mirror.standing();
        let broken = Change { key: "account/a".into(), value: Some(b"{".to_vec()) };
        mirror.follow(Event::Changed(broken.clone(), 2));
        assert!(mirror.view().0.account("shop").is_some());
        mirror.follow(Event::Standing(Ok(())));
        assert!(standing.borrow().as_ref().is_err_and(|cause| cause.contains("account/a")));
        mirror.follow(Event::Changed(account("a", "shop"), 3));
        assert_eq!(*standing.borrow(), Ok(()));
        let mirror = Mirror::new(&[broken, account("b", "other")], 1);
        assert!(mirror.standing().borrow().is_err() && mirror.view().0.account("other").is_some());
    }
}
