//! What peers say: bytes to sessions, and what those want, carried out in order.
//!
//! What a peer has said is dealt with before what came behind it. Where that has to wait for the back end, nothing
//! more is read from it, and what had been read already is kept: no more than one read.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::moment::Moment;
use fanfare_core::publication::{Audience, DataKind, Draft};
use fanfare_core::session::Action;
use fanfare_core::wire::sse;
use smallvec::SmallVec;

use super::connection::Stage;
use super::{Key, Shard, State};

impl State {
    pub(super) fn take_bytes(&mut self, shard: &Rc<Shard>, key: Key, bytes: &mut [u8], now: Moment) {
        match self.get(key).map(|connection| &mut connection.stage) {
            Some(Stage::Head { .. }) => self.take_head(shard, key, bytes, now),
            Some(Stage::Open(_)) => self.take_speech(shard, key, bytes, now),
            // After the farewell nothing counts; reading on lets the peer's own close through. And while
            // the back end is asked who it is, nothing is read.
            Some(Stage::Closing { .. } | Stage::Asking { .. }) | None => {}
        }
        self.rearm(key);
    }

    /// Bytes of a session's peer.
    fn take_speech(&mut self, shard: &Shard, key: Key, mut bytes: &mut [u8], now: Moment) {
        let mut actions = std::mem::take(&mut self.actions);
        while let Some(Stage::Open(open)) = self.get(key).map(|connection| &mut connection.stage) {
            if let Some(unsaid) = &mut open.unsaid {
                unsaid.rest = bytes.to_vec();
                break;
            }
            let left = open.session.on_bytes(now, bytes, &mut actions);
            let read = bytes.len().saturating_sub(left);
            shard.node.metrics.shards[shard.index].bytes_in.add(read);
            self.carry_out(shard, key, &mut actions);
            bytes = bytes.get_mut(read..).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
        }
        self.actions = actions;
    }

    /// Does what a session wants, in order.
    pub(super) fn carry_out(&mut self, shard: &Shard, key: Key, actions: &mut Vec<Action>) {
        let mut refused = None;
        let mut too_fast: SmallVec<[(&'static str, Duration); 1]> = SmallVec::new();
        for action in actions.drain(..) {
            let result = match action {
                Action::Publish { kind, data } if refused.is_none() => self.speak(shard, key, kind, data),
                Action::Refresh(token) if refused.is_none() => self.refresh(shard, key, &token),
                Action::Publish { .. } | Action::Refresh(_) => Ok(()),
                action => {
                    self.carry_out_one(shard, key, action);
                    Ok(())
                }
            };
            match result {
                Ok(()) => {}
                Err(Refusal::TooFast { limit, seconds }) => {
                    too_fast.push((limit, Duration::from_secs(seconds)));
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        if let Some(refusal) = refused {
            return self.close_session(shard, key, Disconnect::Refused(refusal));
        }
        for (limit, wait) in too_fast {
            let Some(Stage::Open(open)) = self.get(key).map(|connection| &mut connection.stage) else {
                return;
            };
            open.session.on_too_fast(shard.now(), limit, wait, actions);
            for action in actions.drain(..) {
                self.carry_out_one(shard, key, action);
            }
        }
    }

    /// Does what cannot be refused.
    fn carry_out_one(&mut self, shard: &Shard, key: Key, action: Action) {
        match action {
            Action::Send(bytes) => self.send(shard, key, bytes),
            Action::SendPosition => {
                let position = self.delivered.get(&AppId::DEFAULT).filter(|_| self.is_settled);
                let sign = position.map_or(Bytes::from_static(sse::HEARTBEAT), |position| {
                    sse::position(*position)
                });
                self.send(shard, key, sign);
            }
            Action::Frame(frame) => self.do_frame(shard, key, *frame),
            Action::Received(number) => self.received(key, number),
            Action::Limited(limit) => shard.node.metrics.limited(limit),
            Action::Close { farewell, why } => {
                if let Some(bytes) = farewell {
                    self.send_last(key, bytes);
                }
                self.begin_closing(shard, key, &why);
            }
            Action::Publish { .. } | Action::Refresh(_) => {}
        }
    }

    fn speak(&mut self, shard: &Shard, key: Key, kind: DataKind, data: Bytes) -> Result<(), Refusal> {
        let Some(Stage::Open(open)) = self.get(key).map(|connection| &connection.stage) else {
            return Ok(());
        };
        let speaker = super::refresh::speaker(shard, open)?;
        if speaker.is_some() {
            // Who is not known is held to what a connection may say.
            let gate = &shard.node.gate;
            gate.speak(open.world.id, speaker.as_ref(), &open.peer, 1, shard.now())?;
        }
        if open.channels.is_empty() {
            return Err(Refusal::Forbidden(
                "this connection was removed from its channel".into(),
            ));
        }
        let mut draft = Draft::to(
            open.world.id,
            Audience::Channels(open.channels.clone()),
            kind,
            data,
        );
        draft.speaker = speaker;
        draft.excluded = (!open.echo).then_some(open.id);
        if shard.node.hooks.message.is_some() {
            self.ask_about(shard, key, draft);
            return Ok(());
        }
        shard.node.publisher.publish(draft).map(drop)
    }
}
