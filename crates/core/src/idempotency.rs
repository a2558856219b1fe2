//! Repeats that change nothing: what was answered to a publisher's `Idempotency-Key`.
//!
//! A publisher that does not know whether its request got through sends it again with the same key,
//! and is given the first answer. Whether a key is known, and what is published under it, must be
//! one step; so an engine asks under the lock that orders.
//!
//! Bounded in number and time; at the bound the oldest keys are forgotten, and a repeat of one of
//! those is published again. An answer that was a refusal is not remembered: nothing was ordered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::moment::Moment;

/// Longest key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 200;

/// Answers by key. See the module's head.
#[derive(Debug)]
pub struct Answers<T> {
    by_key: HashMap<Arc<str>, T>,
    oldest_first: VecDeque<(Moment, Arc<str>)>,
    age: Duration,
    keys_max: usize,
}

impl<T: Clone> Answers<T> {
    /// Remembers at most `keys_max` answers, each for `age`.
    pub fn new(age: Duration, keys_max: usize) -> Self {
        Self {
            by_key: HashMap::new(),
            oldest_first: VecDeque::new(),
            age,
            keys_max,
        }
    }

    /// What was answered to this key.
    pub fn get(&mut self, key: &str, now: Moment) -> Option<T> {
        self.expire(now);
        self.by_key.get(key).cloned()
    }

    /// Remembers an answer to a key that has none.
    pub fn note(&mut self, key: &str, answer: T, now: Moment) {
        self.expire(now);
        let key: Arc<str> = key.into();
        if self.by_key.insert(Arc::clone(&key), answer).is_none() {
            self.oldest_first.push_back((now, key));
        }
        while self.by_key.len() > self.keys_max && self.forget_oldest() {}
    }

    /// How many answers are remembered.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: Moment) {
        while self
            .oldest_first
            .front()
            .is_some_and(|(at, _)| now >= *at + self.age)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> bool {
        match self.oldest_first.pop_front() {
            Some((_, key)) => self.by_key.remove(&key).is_some(),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_for_its_time_and_within_the_bound() {
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        let mut answers = Answers::new(Duration::from_mins(2), 2);
        assert_eq!(answers.get("a", at(0)), None);
        answers.note("a", 1, at(0));
        answers.note("b", 2, at(60));
        assert_eq!(
            [answers.get("a", at(119)), answers.get("b", at(119))],
            [Some(1), Some(2)]
        );
        assert_eq!(
            [answers.get("a", at(120)), answers.get("b", at(120))],
            [None, Some(2)]
        );
        answers.note("c", 3, at(121));
        answers.note("d", 4, at(122));
        let known = ["b", "c", "d"].map(|key| answers.get(key, at(123)));
        assert_eq!((known, answers.len()), ([None, Some(3), Some(4)], 2));
        answers.expire(at(300));
        assert!(answers.is_empty() && answers.oldest_first.is_empty());
    }
}
