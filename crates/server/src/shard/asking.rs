//! Connections that wait for what the back end says ([`crate::hooks`]): of who connects, and of what
//! she says. Nobody else waits; a connection that does is not read from.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

use fanfare_core::auth::Grant;
use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::publication::Draft;
use fanfare_core::wire::http1;

use super::connection::Stage;
use super::open::route;
use super::{Key, Shard, State};
use crate::gate::Admission;
use crate::hooks;
use crate::hooks::connect::Stranger;

/// Messages of one connection that may wait. It is not read from while some do, so this is how many
/// may have come at once.
const UNSAID_MAX: usize = 256;

/// Messages that the back end is asked about, in order. A task has them, so that they are published
/// also if their connection ends meanwhile.
pub(super) type Unsaid = Rc<RefCell<VecDeque<Draft>>>;

impl State {
    /// Asks the back end who a connection is; `bytes` are what has arrived of it.
    pub(super) fn ask(&mut self, shard: &Rc<Shard>, key: Key, stranger: Stranger, bytes: Vec<u8>) {
        let Some(connection) = self.get(key) else { return };
        if matches!(connection.stage, Stage::Head { .. }) {
            connection.stage = Stage::Asking { bytes };
            self.heads_open -= 1;
        }
        self.watch(key);
        let shard = Rc::clone(shard);
        tokio::task::spawn_local(async move {
            let told = hooks::connect::ask(&shard.node, stranger).await;
            shard.state.borrow_mut().told(&shard, key, told);
            shard.work.notify_one();
        });
    }

    /// The back end has said who a connection is.
    fn told(&mut self, shard: &Rc<Shard>, key: Key, told: Result<Grant, Refusal>) {
        let now = shard.now();
        let deadline = now + shard.node.config.limits.head_time_max;
        let source = self.peer(key);
        let Some(connection) = self.get(key) else { return };
        let Stage::Asking { bytes } = &mut connection.stage else {
            return;
        };
        let input = std::mem::take(bytes);
        connection.stage = Stage::Head {
            bytes: Vec::new(),
            deadline,
            // What there was to say was said before the back end was asked.
            admission: Admission::Welcome,
        };
        self.heads_open += 1;
        match http1::parse(&input, &shard.node.head_limits()) {
            Ok(Some(head)) => {
                let (route, len) = (
                    route(shard, &head, source, Admission::Welcome, Some(told)),
                    head.len,
                );
                self.follow(shard, key, route, &input, len, now);
            }
            // It was whole before.
            Ok(None) | Err(_) => self.end(shard, key, Disconnect::Internal),
        }
        self.watch(key);
    }

    /// Asks the back end about what a session's peer says, behind what she said before.
    ///
    /// # Errors
    ///
    /// Too much waits.
    pub(super) fn ask_about(&mut self, shard: &Shard, key: Key, draft: Draft) -> Result<(), Refusal> {
        let Some(Stage::Open(open)) = self.get(key).map(|connection| &mut connection.stage) else {
            return Ok(());
        };
        let address = open.peer.ip;
        if let Some(unsaid) = &open.unsaid {
            let mut unsaid = unsaid.borrow_mut();
            if unsaid.len() >= UNSAID_MAX {
                return Err(Refusal::Overloaded);
            }
            unsaid.push_back(draft);
            return Ok(());
        }
        let Some(shard) = shard.me.upgrade() else {
            return Ok(());
        };
        let unsaid = Rc::new(RefCell::new(VecDeque::from([draft])));
        open.unsaid = Some(Rc::clone(&unsaid));
        self.watch(key);
        tokio::task::spawn_local(async move {
            let said = say(&shard, &unsaid, address).await;
            let mut state = shard.state.borrow_mut();
            if let Some(Stage::Open(open)) = state.get(key).map(|connection| &mut connection.stage) {
                open.unsaid = None;
                state.watch(key);
            }
            if let Err(refusal) = said {
                state.close_session(&shard, key, Disconnect::Refused(refusal));
            }
            shard.work.notify_one();
        });
        Ok(())
    }
}

/// Publishes what the back end lets through, until nothing is left.
async fn say(shard: &Shard, unsaid: &Unsaid, address: Option<IpAddr>) -> Result<(), Refusal> {
    loop {
        let Some(draft) = unsaid.borrow_mut().pop_front() else {
            return Ok(());
        };
        if let Some(draft) = hooks::message::ask(&shard.node, draft, address).await? {
            shard.node.publisher.publish(draft)?;
        }
    }
}
