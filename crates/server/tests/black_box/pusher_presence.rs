//! Presence: whoever listens to a channel knows at every moment who else does, over all shards and tabs.

use std::collections::BTreeSet;

use crate::support::Server;
use crate::support::pusher::{APP, Session, data_of};
use serde_json::Value;

const ROOM: &str = "presence-room";

/// A tab, and who it thinks is there.
struct Tab {
    session: Session,
    user: String,
    view: Option<BTreeSet<String>>,
}

impl Tab {
    async fn open(server: &Server, user: &str) -> Self {
        Self {
            session: Session::connect(server, APP).await,
            user: user.to_owned(),
            view: None,
        }
    }

    /// Takes what it hears up to the fence. Coming and going of each user must alternate.
    async fn hear_until(&mut self, fence: &str) {
        loop {
            let heard = self.session.hear().await;
            match heard["event"].as_str().unwrap() {
                "pusher_internal:subscription_succeeded" => {
                    let ids = data_of(&heard)["presence"]["ids"].clone();
                    let ids: Vec<String> = serde_json::from_value(ids).unwrap();
                    let view: BTreeSet<String> = ids.iter().cloned().collect();
                    assert_eq!(view.len(), ids.len(), "somebody is twice in {heard}");
                    assert!(view.contains(&self.user), "{} is not in {heard}", self.user);
                    self.view = Some(view);
                }
                "pusher_internal:member_added" => {
                    let user = data_of(&heard)["user_id"].as_str().unwrap().to_owned();
                    let view = self.view.as_mut().expect("told before it has subscribed");
                    assert!(view.insert(user), "known already: {heard}");
                }
                "pusher_internal:member_removed" => {
                    let user = data_of(&heard)["user_id"].as_str().unwrap().to_owned();
                    let view = self.view.as_mut().expect("told before it has subscribed");
                    assert!(view.remove(&user), "not known: {heard}");
                }
                event if event == fence => return,
                "pusher:pong" => {}
                other => panic!("{other}: {heard}"),
            }
        }
    }
}

/// xorshift64*, so that a failure can be seen again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % end
    }
}

async fn members(server: &Server) -> BTreeSet<String> {
    let users = APP.get(server, &format!("/channels/{ROOM}/users"), &[]).await;
    let id = |user: &Value| user["id"].as_str().unwrap().to_owned();
    users["users"].as_array().unwrap().iter().map(id).collect()
}

/// Tabs of a few users come and go at random, many at a time, some by unsubscribing and some by being cut.
/// After each round everybody who listens must have the same list as the server.
async fn check(seed: u64) {
    let server = APP.server("", &[]);
    let mut random = Random(seed);
    let mut tabs: Vec<Tab> = Vec::new();
    for round in 0..12 {
        for _ in 0..random.below(12) {
            let user = format!("u-{}", random.below(7));
            let mut tab = Tab::open(&server, &user).await;
            let data = serde_json::json!({"user_id": user, "user_info": {"n": round}});
            let subscription = tab.session.subscription(ROOM, Some(&data));
            // Not waited for: it happens beside the others.
            tab.session.say(&subscription).await;
            tabs.push(tab);
        }
        for _ in 0..random.below(8) {
            if tabs.is_empty() {
                continue;
            }
            let at = random.below(tabs.len());
            if random.below(2) == 0 {
                // Cut, perhaps before it has been answered.
                tabs.swap_remove(at);
            } else {
                let tab = &mut tabs[at];
                tab.session.unsubscribe(ROOM).await;
                let fence = serde_json::json!({"event": "pusher:ping", "data": {}});
                tab.session.say(&fence).await;
                tab.hear_until("pusher:pong").await;
                tabs.swap_remove(at);
            }
        }
        // All that was said has been dealt with, before the fence is published to those who listen.
        for tab in &mut tabs {
            tab.session
                .say(&serde_json::json!({"event": "pusher:ping", "data": {}}))
                .await;
            tab.hear_until("pusher:pong").await;
        }
        let expected: BTreeSet<String> = tabs.iter().map(|tab| tab.user.clone()).collect();
        // Who was cut is gone when the server has noticed.
        crate::support::in_time(async { while members(&server).await != expected {} }).await;
        let fence = format!("fence-{round}");
        APP.trigger(&server, ROOM, &fence, "").await;
        for tab in &mut tabs {
            tab.hear_until(&fence).await;
            assert_eq!(tab.view.as_ref(), Some(&expected), "seed {seed}, round {round}");
        }
    }
}

#[tokio::test]
async fn everybody_knows_who_is_there_whatever_happens() {
    for seed in 1..=3 {
        check(seed).await;
    }
}

#[tokio::test]
async fn a_user_with_two_tabs_comes_once_and_goes_once() {
    let server = APP.server("", &[]);
    let mut watcher = Session::connect(&server, APP).await;
    let roster = watcher.join(ROOM, "watcher").await;
    assert_eq!(roster["presence"]["count"], 1);
    let mut tabs = Vec::new();
    for _ in 0..2 {
        let mut tab = Session::connect(&server, APP).await;
        tab.join(ROOM, "anna").await;
        tabs.push(tab);
    }
    let added = watcher.heard("pusher_internal:member_added").await;
    let info = serde_json::json!({"user_id": "anna", "user_info": {"name": "anna"}});
    assert_eq!(data_of(&added), info);
    tabs.pop().unwrap().unsubscribe(ROOM).await;
    APP.trigger(&server, ROOM, "fence", "").await;
    watcher.heard("fence").await;
    tabs.pop().unwrap().unsubscribe(ROOM).await;
    let removed = watcher.heard("pusher_internal:member_removed").await;
    assert_eq!(data_of(&removed), serde_json::json!({"user_id": "anna"}));
}

/// Somebody who is known to the plain door is a member like others; the plain door hears no events of
/// the protocol.
#[tokio::test]
async fn members_of_the_other_door_are_members() {
    let server = APP.server("", &[("FANFARE_KEY", crate::support::KEY)]);
    let token = crate::support::token::token(serde_json::json!({"sub": "otto", "listen": ["presence-*"]}));
    let mut anna = Session::connect(&server, APP).await;
    anna.join(ROOM, "anna").await;
    let mut otto = server
        .websocket(&format!("/ch/{ROOM}?token={token}&meta=1"))
        .await;
    let added = anna.heard("pusher_internal:member_added").await;
    assert_eq!(data_of(&added), serde_json::json!({"user_id": "otto"}));
    let mut more = Session::connect(&server, APP).await;
    let roster = more.join(ROOM, "more").await;
    assert_eq!(roster["presence"]["hash"]["otto"], Value::Null);
    assert_eq!(roster["presence"]["ids"].as_array().unwrap().len(), 3);
    APP.trigger(&server, ROOM, "fence", "now").await;
    let crate::support::Said::Text(text) = otto.hear().await else {
        panic!("no text")
    };
    let heard: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&heard["event"], &heard["data"]),
        (&"fence".into(), &"now".into())
    );
    drop(otto);
    let removed = anna.until("pusher_internal:member_removed").await;
    assert_eq!(data_of(&removed), serde_json::json!({"user_id": "otto"}));
}
