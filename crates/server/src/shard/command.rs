//! What other threads ask of a shard: to end sessions, and to let them join or leave channels.
//!
//! Publications do not come this way. A command is carried out in the shard's own turn, in the order
//! in which they were sent, and answered with how many sessions it concerned: when the answer is
//! there, it is in effect, so a publication that is sent then meets the new subscriptions.
//!
//! To end many sessions takes several turns, of [`BUDGET`] each, so that all others hear in between what
//! they are sent. What was asked after that waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::hub::Topic;
use fanfare_core::publication::Reader;
use fanfare_core::session::Session;
use fanfare_core::stream::Resume;
use fanfare_core::user::UserId;
use fanfare_core::wire;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::connection::{Connection, Stage};
use super::{BUDGET, Key, Shard, State};
use crate::engine::Listening;

/// Commands that may wait for one shard. At the limit whoever sends one is told to try again.
const COMMANDS_MAX: usize = 1_024;

/// What to do, and whom to tell how many sessions it was done to.
pub(crate) struct Command {
    pub(crate) what: What,
    pub(crate) done: oneshot::Sender<usize>,
}

/// See [`Command`]. Keys of sessions that are gone are skipped.
pub(crate) enum What {
    /// End these sessions.
    Close(Vec<Key>, Disconnect),
    /// End whatever listens to a channel.
    CloseListeners(AppId, ChannelName, Disconnect),
    /// End the sessions of these apps' own door.
    CloseApps(HashMap<AppId, Disconnect>),
    /// Let these sessions hear a channel too.
    Join(Vec<Key>, ChannelName),
    /// Let them hear it no more.
    Leave(Vec<Key>, ChannelName),
    /// Tell sessions that a user whom they watch has come (true) or gone.
    Tell(Vec<(Key, UserId, bool)>),
}

/// The commands that wait for one shard.
#[derive(Default)]
pub(crate) struct Commands {
    queue: Mutex<VecDeque<Command>>,
    /// Woken when there is a command.
    pub(crate) arrived: Notify,
}

impl Commands {
    /// Sends a command that must not get lost, however many wait: who does so does it rarely.
    pub(crate) fn send_anyway(&self, what: What) {
        let (done, _) = oneshot::channel();
        self.queue.lock().push_back(Command { what, done });
        self.arrived.notify_one();
    }

    /// Sends a command; the number of sessions comes when it was carried out.
    pub(crate) fn send(&self, what: What) -> Result<oneshot::Receiver<usize>, Refusal> {
        let (done, answer) = oneshot::channel();
        let mut queue = self.queue.lock();
        if queue.len() >= COMMANDS_MAX {
            return Err(Refusal::Overloaded);
        }
        queue.push_back(Command { what, done });
        drop(queue);
        self.arrived.notify_one();
        Ok(answer)
    }

    fn take(&self) -> VecDeque<Command> {
        std::mem::take(&mut *self.queue.lock())
    }
}

/// A command that ends sessions, while it is carried out.
pub(super) struct Ending {
    keys: std::vec::IntoIter<(Key, Disconnect)>,
    count: usize,
    done: oneshot::Sender<usize>,
}

impl Ending {
    fn new(keys: Vec<(Key, Disconnect)>, done: oneshot::Sender<usize>) -> Self {
        Self {
            keys: keys.into_iter(),
            count: 0,
            done,
        }
    }

    /// All for the same reason.
    fn of(keys: Vec<Key>, why: &Disconnect, done: oneshot::Sender<usize>) -> Self {
        let keys = keys.into_iter().map(|key| (key, why.clone()));
        Self::new(keys.collect(), done)
    }
}

impl State {
    /// Carries out commands that wait, for a while. Says whether some are left.
    pub(super) fn carry_out_commands(&mut self, shard: &Shard) -> bool {
        let begun = Instant::now();
        // Nothing is added to what was taken, so that is bounded as what waits is.
        if self.commands.is_empty() {
            self.commands = shard.node.commands[shard.index].take();
        }
        loop {
            if let Some(ending) = self.ending.take() {
                self.ending = self.go_on_ending(shard, ending, begun);
                if self.ending.is_some() {
                    return true;
                }
            }
            let Some(Command { what, done }) = self.commands.pop_front() else {
                return false;
            };
            let count = match what {
                What::Close(keys, why) => {
                    self.ending = Some(Ending::of(keys, &why, done));
                    continue;
                }
                What::CloseListeners(app, channel, why) => {
                    let keys = self.listeners(app, channel);
                    self.ending = Some(Ending::of(keys, &why, done));
                    continue;
                }
                What::CloseApps(apps) => {
                    self.ending = Some(Ending::new(self.insiders(&apps), done));
                    continue;
                }
                What::Join(keys, channel) => {
                    let joins = keys.into_iter().map(|key| self.join(shard, key, &channel));
                    joins.filter(|joined| *joined).count()
                }
                What::Tell(notices) => {
                    let count = notices.len();
                    for (key, user, online) in notices {
                        let user = std::slice::from_ref(&user).iter().collect::<Vec<_>>();
                        let frame = if online {
                            wire::pusher::watchlist(&user, &[])
                        } else {
                            wire::pusher::watchlist(&[], &user)
                        };
                        self.send(shard, key, frame);
                    }
                    count
                }
                What::Leave(keys, channel) => {
                    let leaves = keys.into_iter().map(|key| self.unjoin(shard, key, &channel));
                    leaves.filter(|left| *left).count()
                }
            };
            // Whoever asked may have gone; it is done nevertheless.
            let _ = done.send(count);
            if begun.elapsed() >= BUDGET && !self.commands.is_empty() {
                return true;
            }
        }
    }

    /// Sessions that listen to a channel.
    fn listeners(&self, app: AppId, channel: ChannelName) -> Vec<Key> {
        let slots = self.hub.subscribers(app, &Topic::Channel(channel));
        let key = |slot| Some(self.connections.get(slot as usize)?.key(slot));
        slots.into_iter().filter_map(key).collect()
    }

    /// Sessions of these apps' own door, and why each goes.
    fn insiders(&self, apps: &HashMap<AppId, Disconnect>) -> Vec<(Key, Disconnect)> {
        let why = |connection: &Connection| match &connection.stage {
            Stage::Open(open) if open.insider.is_some() => apps.get(&open.world.id).cloned(),
            _ => None,
        };
        let its = self.connections.iter().filter_map(|(slot, connection)| {
            let key = connection.key(u32::try_from(slot).unwrap_or(u32::MAX));
            Some((key, why(connection)?))
        });
        its.collect()
    }

    /// Ends sessions until this turn's time is over. Returns what is left.
    fn go_on_ending(&mut self, shard: &Shard, mut ending: Ending, begun: Instant) -> Option<Ending> {
        while let Some((key, why)) = ending.keys.next() {
            let is_open = self
                .get(key)
                .is_some_and(|connection| matches!(connection.stage, Stage::Open(_)));
            if is_open {
                self.close_session(shard, key, why);
                ending.count += 1;
            }
            if begun.elapsed() >= BUDGET && ending.keys.len() > 0 {
                return Some(ending);
            }
        }
        // Whoever asked may have gone; it is done nevertheless.
        let _ = ending.done.send(ending.count);
        None
    }

    fn join(&mut self, shard: &Shard, key: Key, channel: &ChannelName) -> bool {
        let node = &shard.node;
        let Some(Stage::Open(open)) = self.get(key).map(|connection| &connection.stage) else {
            return false;
        };
        // A long poll is over before anybody would notice, and a library of Pusher would not know what to do
        // with a channel that it has not asked for.
        if matches!(open.session, Session::LongPoll(_) | Session::Pusher(_)) {
            return false;
        }
        let (app, world) = (open.world.id, Arc::clone(&open.world));
        let user = open.user().cloned();
        let topic = Topic::Channel(self.hub.intern(app, channel));
        if self.hub.listens(key.slot, &topic) {
            return true;
        }
        if self.hub.subscriptions(key.slot) >= node.config.limits.subscriptions_max {
            return false;
        }
        let listening = Listening {
            shard: shard.index,
            channels: std::slice::from_ref(channel),
            resume: Resume::Now,
            reader: Reader::default(),
            is_new: false,
        };
        let Ok(replay) = node.engine.subscribe(app, &listening, node.clock.now()) else {
            return false;
        };
        self.hub.subscribe_after(key.slot, &topic, Some(replay.position));
        if let Some(user) = user {
            super::members::join(node, &world, channel, &user);
        }
        world.count_changed(node, std::slice::from_ref(channel));
        true
    }

    fn unjoin(&mut self, shard: &Shard, key: Key, channel: &ChannelName) -> bool {
        let node = &shard.node;
        let Some(Stage::Open(open)) = self.get(key).map(|connection| &mut connection.stage) else {
            return false;
        };
        if open.insider.is_some() {
            let app = node.apps.get(open.world.id);
            return app.is_some_and(|app| self.unsubscribe(shard, key, &app, channel));
        }
        // Who does not hear a channel any more does not speak on it either.
        open.channels.retain(|own| own != channel);
        let (app, world) = (open.world.id, Arc::clone(&open.world));
        let user = open.user().cloned();
        if !self.hub.unsubscribe(key.slot, &Topic::Channel(channel.clone())) {
            return false;
        }
        node.engine
            .unsubscribe(app, shard.index, channel, node.clock.now());
        if let Some(user) = user {
            super::members::leave(node, &world, channel, &user);
        }
        world.count_changed(node, std::slice::from_ref(channel));
        true
    }
}
