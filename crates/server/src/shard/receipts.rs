//! What a session of the Pusher door has received, for those who come back ([`fanfare_core::returning`]).
//!
//! Behind what leaves for a session there goes a ping of WebSocket with a number; its answer says that all
//! before it has arrived. One is under way at a time, so a busy session costs one per round trip, and one
//! without such channels nothing.

use fanfare_core::moment::Moment;

use super::connection::Stage;
use super::{Key, State};

impl State {
    /// Asks behind what waits for a session, unless an answer is missing. Then it is asked when that comes.
    pub(super) fn ask_receipt(&mut self, key: Key, now: Moment) {
        let delivered = |world| self.delivered.get(&world).copied();
        let Some(connection) = self.connections.get_mut(key.slot as usize) else {
            return;
        };
        let Stage::Open(open) = &mut connection.stage else {
            return;
        };
        let Some(insider) = &mut open.insider else { return };
        if connection.outbox.is_empty() && !insider.is_unasked {
            return;
        }
        let Some(record) = insider.record else { return };
        let position = delivered(open.world.id);
        let Some((number, ping)) = open.session.ask_receipt() else {
            insider.is_unasked = true;
            return;
        };
        insider.is_unasked = false;
        insider.asked = Some((number, position));
        open.world.returning.lock().asked(record, now);
        // Some bytes more than the limit, and at most once in a flush.
        connection.outbox.push_beyond(ping);
    }

    /// The answer has come.
    pub(super) fn received(&mut self, key: Key, number: u64) {
        let Some(Stage::Open(open)) = self.get(key).map(|connection| &mut connection.stage) else {
            return;
        };
        let Some(insider) = &mut open.insider else { return };
        if let (Some((asked, position)), Some(record)) = (insider.asked, insider.record)
            && asked == number
        {
            insider.asked = None;
            open.world.returning.lock().received(record, position);
        }
        if insider.is_unasked {
            self.mark(key, true);
        }
    }
}
