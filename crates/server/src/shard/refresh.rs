//! Sessions that came with a token: when they end, who speaks on them, and how they stay.

use std::time::Duration;

use fanfare_core::auth::{Credential, Grant, Operation, Secret};
use fanfare_core::disconnect::Refusal;
use fanfare_core::moment::Moment;
use fanfare_core::user::UserId;

use super::connection::{Open, Stage};
use super::{Key, Shard, State};
use crate::tokens::Tokens;
use crate::{door, tokens};

/// When a session with this grant ends. The calendar is looked at once: if it is set anew later,
/// the session does not follow.
pub(super) fn deadline(now: Moment, grant: &Grant) -> Result<Moment, Refusal> {
    let left = tokens::time_left(grant)?;
    Ok(left.map_or(Moment::NEVER, |left: Duration| now + left))
}

/// Who speaks on a session, if that is known. With a token it is looked at again whether she may:
/// the token may have been replaced since the session said so.
pub(super) fn speaker(shard: &Shard, open: &Open) -> Result<Option<UserId>, Refusal> {
    let Some(grant) = &open.grant else {
        return Ok(None);
    };
    let policy = &shard.node.rules.policy;
    for channel in &open.channels {
        policy.permit_client(channel, Operation::Speak, grant)?;
    }
    Ok(grant.user.clone())
}

impl State {
    /// A session's peer brings a fresh token: judges it, and puts it in the place of the one before.
    pub(super) fn refresh(&mut self, shard: &Shard, key: Key, token: &Secret) -> Result<(), Refusal> {
        let now = shard.now();
        let node = &shard.node;
        let policy = &node.rules.policy;
        let Some(Stage::Open(open)) = self.get(key).map(|connection| &mut connection.stage) else {
            return Ok(());
        };
        let Some(old) = &open.grant else {
            return Ok(());
        };
        // Not held to what its address has tried: it has shown before who it is, and a neighbour's
        // guesses must not end its session. There is a rate of its own for this.
        let identity = node.tokens.identify(policy, Credential::Token(token.expose()))?;
        let fresh = Tokens::refresh(old, identity)?;
        let deadline = deadline(now, &fresh)?;
        // What grants the same permits the same; and without any key, what it permits is not asked.
        let changed = if fresh == **old {
            &[]
        } else {
            open.channels.as_slice()
        };
        for channel in changed {
            let permitted = policy.permit_client(channel, Operation::Listen, &fresh);
            permitted.map_err(|refusal| Refusal::Forbidden(refusal.to_string().into()))?;
        }
        let may_speak = door::may_speak(policy, &open.channels, &fresh);
        open.session.on_refreshed(deadline, may_speak);
        open.grant = Some(Box::new(fresh));
        Ok(())
    }
}
