//! Shared values whose memory goes round, in either process: what a request makes and a later one ends takes nothing from
//! the heap.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// Places kept for use again.
const SPARE: usize = 256;

/// A value with several users. Its last one frees it, or gives its place back with [`Recycler::give_back`].
#[derive(Debug)]
pub struct Shared<T>(Arc<Option<T>>);

impl<T> Shared<T> {
    /// A value whose place is not used again.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Some(value)))
    }

    /// Whether both are one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// How many users it has.
    pub fn users(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &*self.0 {
            Some(value) => value,
            // Only what nobody shares is emptied.
            None => unreachable!("a place that is in use and empty"),
        }
    }
}

/// Empty places.
#[derive(Debug)]
pub struct Recycler<T>(Mutex<Vec<Arc<Option<T>>>>);

impl<T> Default for Recycler<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Recycler<T> {
    /// Puts a value into an empty place, or a new one.
    pub fn share(&self, value: T) -> Shared<T> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut place) = spare
            && let Some(empty) = Arc::get_mut(&mut place)
        {
            *empty = Some(value);
            return Shared(place);
        }
        Shared::new(value)
    }

    /// Drops the value if nobody else uses it, and keeps its place.
    pub fn give_back(&self, shared: Shared<T>) {
        let mut place = shared.0;
        let Some(full) = Arc::get_mut(&mut place) else {
            return;
        };
        *full = None;
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_once_nobody_uses_its_value() {
        let recycler = Recycler::default();
        let (first, counted) = (Arc::new(1), Arc::new(2));
        let shared = recycler.share(first.clone());
        let place = Arc::as_ptr(&shared.0);
        let user = shared.clone();
        recycler.give_back(shared);
        assert_eq!((**user, Arc::strong_count(&first)), (1, 2), "still in use");
        recycler.give_back(user);
        assert_eq!(Arc::strong_count(&first), 1, "dropped");
        let again = recycler.share(counted.clone());
        assert_eq!((Arc::as_ptr(&again.0), **again), (place, 2));
        drop(again);
        assert_eq!(Arc::strong_count(&counted), 1);
    }
}
