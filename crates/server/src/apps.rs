//! The apps of a node: who may use the Pusher door, by key and by id, and what each has while it runs.
//!
//! An [`App`] is as it was configured last; a [`World`] is what it has, whatever is configured anew:
//! its people, its connections, its rates. Every app of the engine has a world, also the one of the
//! readiness probe, which nobody has credentials for.
//!
//! # Invariants
//!
//! * The first app of the configuration is [`AppId::DEFAULT`], whose channels the other doors have too.
//! * The id of an app within the process is given once and to nobody else, so a session whose app has
//!   gone can never meet another one's.
//! * Whoever holds the lock of a world's people may publish; nobody takes it while holding the engine's.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_core::app::AppId;
use fanfare_core::auth::OriginRules;
use fanfare_core::channel::{ChannelName, Kind};
use fanfare_core::disconnect::Refusal;
use fanfare_core::moment::Moment;
use fanfare_core::people::{People, REPORTS_MAX};
use fanfare_core::publication::{DataKind, Draft, EventName};
use fanfare_core::rate::{Bucket, Rate};
use fanfare_core::returning::{Bounds, Returning};
use fanfare_core::session::{PusherSettings, SpeakRates};
use fanfare_core::wire::pusher;
use fanfare_core::wire::pusher::rest::TriggerLimits;
use fanfare_core::wire::websocket::DecodeLimits;
use fanfare_core::wire::websocket::deflate::InflateLimits;
use parking_lot::{Mutex, RwLock};

use crate::config::{AppSettings, Config};
use crate::engine;
use crate::node::{Node, Place};
use crate::shard::Owed;
use crate::webhooks::{Desk, Hooks};

/// What may stand around the data in what a client says, in bytes.
const FRAME_BYTES: usize = 16 << 10;

/// Channels of one session of which is told at once how many listen when it ends.
const COUNTS_AT_ONCE_MAX: usize = 16;

/// Channels of one session that can be gone on with.
const REPLAY_CHANNELS_MAX: usize = 1_000;

/// An app as it is configured.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) settings: AppSettings,
    pub(crate) origins: OriginRules,
    pub(crate) session: Arc<PusherSettings>,
    /// The same for sessions that have agreed on permessage-deflate.
    pub(crate) session_deflate: Arc<PusherSettings>,
    pub(crate) trigger_limits: TriggerLimits,
    pub(crate) world: Arc<World>,
}

/// What an app has while it runs.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) id: AppId,
    /// The users who are here.
    pub(crate) people: Mutex<People<Place>>,
    /// What is to be told of members as soon as it can be published.
    pub(crate) owed: Mutex<Owed>,
    /// Sessions that were cut, and those that could be gone on for.
    pub(crate) returning: Mutex<Returning<Place>>,
    /// What its back end is told. Whoever holds the lock of the people, or the engine's, may use it.
    pub(crate) desk: Arc<Desk>,
    /// Whether listeners want to be told how many they are.
    is_counted: AtomicBool,
    /// Channels whose number of listeners is another one than their listeners were told.
    counted: Mutex<HashSet<ChannelName>>,
    /// Open sessions of the Pusher door.
    connections: AtomicUsize,
    events: Mutex<Bucket>,
    publications: Mutex<Bucket>,
}

/// Something that the server itself says of a channel, to who is here and of the Pusher door.
pub(crate) fn announcement(app: AppId, channel: &ChannelName, event: &str, data: String) -> Draft {
    let mut draft = Draft::new(app, channel.clone(), DataKind::Text, data.into());
    draft.event = EventName::new(event).ok();
    draft.ttl = Some(Duration::ZERO);
    draft.is_pusher_only = true;
    draft
}

/// A place among the connections of an app. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Seat(Arc<World>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl World {
    fn new(id: AppId, config: &Config) -> Arc<Self> {
        let bounds = Bounds {
            age: config.pusher.replay_age,
            records_max: config.pusher.replay_sessions_max,
            channels_per_record_max: REPLAY_CHANNELS_MAX,
            channels_max: config.pusher.replay_sessions_max.saturating_mul(10),
        };
        Arc::new(Self {
            id,
            people: Mutex::new(people(config, id)),
            returning: Mutex::new(Returning::new(bounds)),
            desk: Desk::new(&config.pusher),
            owed: Mutex::default(),
            is_counted: AtomicBool::default(),
            counted: Mutex::default(),
            connections: AtomicUsize::new(0),
            events: Mutex::default(),
            publications: Mutex::default(),
        })
    }

    /// Another number of sessions listens to these channels: tells them if the app wants it, at once where
    /// there are few. A session with many channels that ends must not fill the mailboxes: the rest is told
    /// later.
    pub(crate) fn count_changed(&self, node: &Node, channels: &[ChannelName]) {
        if !self.is_counted.load(Ordering::Relaxed) {
            return;
        }
        let channels = channels.iter().filter(|channel| channel.kind() != Kind::Presence);
        // Under the lock, so that whoever tells last has counted last.
        let mut counted = self.counted.lock();
        for (place, channel) in channels.enumerate() {
            let is_first = place < COUNTS_AT_ONCE_MAX;
            if !is_first || !self.tell_count(node, channel, pusher::COUNT_AT_ONCE_MAX) {
                counted.insert(channel.clone());
            }
        }
    }

    /// Tells the listeners of channels how many they are, where that was not done at once.
    pub(crate) fn tell_counts(&self, node: &Node) {
        let mut counted = self.counted.lock();
        counted.retain(|channel| !self.tell_count(node, channel, usize::MAX));
    }

    /// Says whether it is done.
    fn tell_count(&self, node: &Node, channel: &ChannelName, at_most: usize) -> bool {
        let count = node.engine.listeners(self.id, std::slice::from_ref(channel));
        if count > at_most {
            return false;
        }
        let data = format!("{{\"subscription_count\":{count}}}");
        let draft = announcement(self.id, channel, pusher::SUBSCRIPTION_COUNT, data);
        count == 0 || node.publisher.announce(draft).is_ok()
    }

    /// Open sessions of the Pusher door.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// All channels at once, twice, and then as many in a minute.
fn subscriptions(max: usize) -> Rate {
    let max = u32::try_from(max).unwrap_or(u32::MAX).max(60);
    Rate::per_minute(max, max.saturating_mul(2))
}

impl App {
    fn new(id: AppId, settings: AppSettings, world: Arc<World>, config: &Config) -> Result<Self, String> {
        let limits = &config.limits;
        let session = PusherSettings {
            activity_timeout: settings.activity_timeout,
            message_time_max: limits.message_time_max,
            decode: DecodeLimits {
                // What an app's event may hold fits, with what is around it.
                message_bytes_max: limits
                    .message_bytes_max
                    .max(settings.data_bytes_max() + FRAME_BYTES),
                fragments_max: limits.fragments_max,
                inflate: None,
            },
            rates: SpeakRates {
                messages: limits.messages_per_connection,
                excess_max: limits.messages_excess_max,
                pings: limits.pings_per_connection,
                control_frames: limits.control_frames_per_connection,
                refreshes: limits.token_refreshes_per_connection,
            },
            subscriptions: subscriptions(settings.subscriptions_max),
            authorize_within: Some(settings.authorize_within).filter(|time| !time.is_zero()),
        };
        let mut session_deflate = session.clone();
        session_deflate.decode.inflate = Some(InflateLimits {
            ratio_max: limits.inflate_ratio_max,
        });
        Ok(Self {
            id,
            origins: OriginRules::new(&settings.origins, false).map_err(|error| error.to_string())?,
            session: Arc::new(session),
            session_deflate: Arc::new(session_deflate),
            trigger_limits: TriggerLimits {
                data_bytes_max: settings.data_bytes_max(),
                channels_max: settings.channels_per_event_max,
                batch_max: settings.batch_max,
                name_bytes_max: settings.channel_name_bytes_max(),
            },
            settings,
            world,
        })
    }

    /// A place for one more connection.
    pub(crate) fn enter(&self) -> Result<Seat, Refusal> {
        let before = self.world.connections.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(&self.world));
        match self.settings.connections_max {
            0 => Ok(seat),
            max if before < max => Ok(seat),
            _ => Err(Refusal::AppFull),
        }
    }

    /// Whether the back end may publish so many events now, which are so many publications: as many as the
    /// app says, and as one key may.
    pub(crate) fn may_publish(
        &self,
        events: usize,
        publications: usize,
        per_key: Rate,
        now: Moment,
    ) -> Result<(), Refusal> {
        let World {
            events: events_bucket,
            publications: publications_bucket,
            ..
        } = &*self.world;
        let taken = events_bucket
            .lock()
            .take(self.settings.events, events as u64, now);
        taken.map_err(|wait| Refusal::too_fast("apps.events", wait))?;
        let taken = publications_bucket.lock().take(per_key, publications as u64, now);
        taken.map_err(|wait| Refusal::too_fast("publications_per_key", wait))
    }
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Apps {
    table: RwLock<Table>,
    /// The world that all doors share.
    pub(crate) default: Arc<World>,
}

/// What a reload has come to.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) added: usize,
    pub(crate) changed: usize,
    /// Apps whose sessions must go, and why.
    pub(crate) closed: Vec<(AppId, Refusal)>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<App>>,
    by_key: HashMap<String, Arc<App>>,
    by_number: HashMap<AppId, Arc<App>>,
    worlds: HashMap<AppId, Arc<World>>,
    /// Numbers of all apps that there ever were, by their ids.
    numbers: HashMap<String, AppId>,
}

impl Apps {
    /// The apps of a configuration, and the worlds of the node.
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        let mut table = Table::default();
        let default = World::new(AppId::DEFAULT, config);
        table.worlds.insert(AppId::DEFAULT, Arc::clone(&default));
        table
            .worlds
            .insert(AppId::PROBE, World::new(AppId::PROBE, config));
        for (place, settings) in settings(config).into_iter().enumerate() {
            let id = u16::try_from(place)
                .ok()
                .map(AppId)
                .filter(|id| *id != AppId::PROBE);
            let id = id.ok_or("too many apps")?;
            let world = table.worlds.entry(id).or_insert_with(|| World::new(id, config));
            let app = Arc::new(App::new(id, settings, Arc::clone(world), config)?);
            table.insert(app);
        }
        table.tell_worlds();
        Ok(Self {
            table: RwLock::new(table),
            default,
        })
    }

    /// Puts the apps of another configuration in the place of those before: all of them or, if they cannot
    /// be used, none. One reload at a time. Whoever looks an app up meanwhile waits for nothing.
    pub(crate) fn replace(&self, node: &Node, config: &Config) -> Result<Changes, String> {
        let wanted = settings(config);
        // Also if it is not there at the moment: its channels are those of the other doors.
        let first = self.table.read().numbers.iter().find_map(|(name, id)| {
            let is_first = *id == AppId::DEFAULT;
            is_first.then(|| name.clone())
        });
        if let (Some(first), Some(wanted)) = (first, wanted.first())
            && first != wanted.id
        {
            return Err(format!(
                "the first app shares its channels with the other doors, and it is {first:?} until the next start"
            ));
        }
        let mut begun = Vec::new();
        for settings in &wanted {
            node.webhooks.open(settings, &node.config.pusher)?;
            if !self.table.read().numbers.contains_key(&settings.id) {
                begun.push(self.begin(begun.len(), node, settings)?);
            }
        }
        // All or none: a number that was given to one must never be given to another.
        for (id, name, engine) in begun {
            engine.into_iter().for_each(|engine| node.memory.add(engine));
            let mut table = self.table.write();
            table
                .worlds
                .entry(id)
                .or_insert_with(|| World::new(id, &node.config));
            table.numbers.insert(name, id);
        }
        let before = self.table.read().clone();
        let mut after = Table {
            worlds: before.worlds.clone(),
            numbers: before.numbers.clone(),
            ..Table::default()
        };
        let mut changes = Changes::default();
        let mut configured = Vec::new();
        for settings in wanted {
            let id = before.numbers.get(&settings.id).copied();
            let id = id.ok_or("an app has no number")?;
            let known = before.by_number.get(&id);
            if let Some(app) = known.filter(|app| app.settings == settings) {
                after.insert(Arc::clone(app));
                continue;
            }
            match known {
                Some(app) => {
                    changes.changed += 1;
                    if app.settings.enabled && !settings.enabled {
                        changes.closed.push((id, Refusal::AppDisabled));
                    }
                }
                None => changes.added += 1,
            }
            let world = before.worlds.get(&id).cloned().ok_or("an app has no world")?;
            // Everything but its own settings is as the node began.
            let app = Arc::new(App::new(id, settings, world, &node.config)?);
            configured.push((Arc::clone(&app), hooks(node, &app)?));
            after.insert(app);
        }
        let gone = before
            .by_number
            .keys()
            .filter(|id| !after.by_number.contains_key(id));
        // Their back ends are still told that nobody is there any more.
        changes.closed.extend(gone.map(|id| (*id, Refusal::NoApp)));
        for (app, hooks) in configured {
            node.webhooks.configure(node, app.id, &app.world.desk, hooks);
        }
        after.tell_worlds();
        *self.table.write() = after;
        Ok(changes)
    }

    /// Begins to tell the back ends of all apps.
    pub(crate) fn begin_webhooks(&self, node: &Node) -> Result<(), String> {
        let apps: Vec<Arc<App>> = self.table.read().by_number.values().cloned().collect();
        for app in apps {
            node.webhooks
                .configure(node, app.id, &app.world.desk, hooks(node, &app)?);
        }
        Ok(())
    }

    /// A number for an app that there never was before, and what orders its publications, with what is written
    /// of them.
    fn begin(
        &self,
        before: usize,
        node: &Node,
        settings: &AppSettings,
    ) -> Result<(AppId, String, Option<engine::App>), String> {
        let number = self.table.read().numbers.len() + before;
        let id = u16::try_from(number).ok().map(AppId);
        let id = id.filter(|id| *id != AppId::PROBE).ok_or("too many apps")?;
        // The first app of all has the world that there is from the start.
        let begun = (id != AppId::DEFAULT).then(|| node.begin.app(id, &folder(&node.config, &settings.id)));
        let begun = begun.transpose().map_err(|error| format!("{error:#}"))?;
        Ok((id, settings.id.clone(), begun))
    }

    /// The app with this key.
    pub(crate) fn by_key(&self, key: &str) -> Option<Arc<App>> {
        self.table.read().by_key.get(key).cloned()
    }

    /// The app with this id.
    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<App>> {
        self.table.read().by_id.get(id).cloned()
    }

    /// The app that a session belongs to, as it is configured now.
    pub(crate) fn get(&self, id: AppId) -> Option<Arc<App>> {
        self.table.read().by_number.get(&id).cloned()
    }

    /// What an app has.
    pub(crate) fn world(&self, id: AppId) -> Option<Arc<World>> {
        self.table.read().worlds.get(&id).cloned()
    }

    /// What all apps have.
    pub(crate) fn worlds(&self) -> Vec<Arc<World>> {
        self.table.read().worlds.values().cloned().collect()
    }
}

/// The webhooks of an app, by the rules that the node began with.
fn hooks(node: &Node, app: &App) -> Result<Hooks, String> {
    node.webhooks
        .prepare(&app.world.desk, &app.settings, &node.config.pusher)
}

/// The apps that a configuration means: where nobody needs to be known, one for trying things.
fn settings(config: &Config) -> Vec<AppSettings> {
    if config.is_open() && config.is_on_loopback() {
        vec![AppSettings::sample()]
    } else {
        config.apps.clone()
    }
}

/// The apps of a configuration, at least the one that all doors share, each with the folder where its
/// publications are written, if they are.
pub(crate) fn folders(config: &Config) -> Vec<(AppId, PathBuf)> {
    let mut folders = vec![(AppId::DEFAULT, config.data_dir.clone())];
    let further = settings(config).into_iter().enumerate().skip(1);
    folders.extend(further.filter_map(|(place, settings)| {
        let id = AppId(u16::try_from(place).ok()?);
        Some((id, folder(config, &settings.id)))
    }));
    folders
}

/// Whether what is written in the folder of the first app is that app's, and says from now on that it is.
pub(crate) fn check_folder(config: &Config) -> Result<(), String> {
    let (Some(app), true) = (config.apps.first(), config.engine == "disk") else {
        return Ok(());
    };
    let file = config.data_dir.join("app");
    let wrong = |error: std::io::Error| format!("data_dir: cannot use {}: {error}", file.display());
    match std::fs::read_to_string(&file) {
        Ok(id) if id == app.id => Ok(()),
        Ok(id) => Err(format!(
            "data_dir: {} holds what was published to app {id:?}, and the first app is {:?} now: put {id:?} first \
             again, or name another folder",
            config.data_dir.display(),
            app.id
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(&config.data_dir).map_err(wrong)?;
            std::fs::write(&file, &app.id).map_err(wrong)
        }
        Err(error) => Err(wrong(error)),
    }
}

/// The folder of an app that is not the first: by its own name, since its place in the configuration may
/// change.
fn folder(config: &Config, id: &str) -> PathBuf {
    let name = id.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    config.data_dir.join("apps").join(name)
}

/// The people of an app, of whom nobody is there yet. Only those of the app that all doors share are
/// reported to the back end's hook.
fn people(config: &Config, id: AppId) -> People<Place> {
    let is_reported = id == AppId::DEFAULT && config.hooks.on_presence.is_some();
    People::new(
        config.sessions.user_grace,
        config.limits.connections_per_user,
        if is_reported { REPORTS_MAX } else { 0 },
    )
}

impl Table {
    /// Tells each world what its app wants.
    fn tell_worlds(&self) {
        for (id, world) in &self.worlds {
            let app = self.by_number.get(id).filter(|app| app.settings.enabled);
            let is_counted = app.is_some_and(|app| app.settings.subscription_counts);
            world.is_counted.store(is_counted, Ordering::Relaxed);
        }
    }

    fn insert(&mut self, app: Arc<App>) {
        self.numbers.insert(app.settings.id.clone(), app.id);
        self.by_id.insert(app.settings.id.clone(), Arc::clone(&app));
        self.by_key.insert(app.settings.key.clone(), Arc::clone(&app));
        self.by_number.insert(app.id, app);
    }
}
