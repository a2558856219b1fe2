//! The frames of one publication in one channel, one per wire form, each made at most once.
//!
//! Shared by all shards: whoever needs a frame first makes it, and who needs it meanwhile waits,
//! which is shorter than making it again. Who needs another form does not wait.

use bytes::Bytes;

use crate::publication::WireForm;
use crate::sync::OnceLock;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Frames([OnceLock<Bytes>; WireForm::COUNT]);

impl Frames {
    /// The frame in this form; `make` is called if nobody has made it before.
    pub fn get_or_make(&self, form: WireForm, make: impl FnOnce() -> Bytes) -> Bytes {
        match self.0.get(form as usize) {
            Some(cell) => cell.get_or_init(make).clone(),
            // Every form has its cell; the type system cannot know.
            None => make(),
        }
    }
}
