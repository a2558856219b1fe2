//! Layers in, a configuration or a sentence out.

use super::*;
use crate::disk::Sync;

fn sources(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
    Sources {
        file: (!file.is_empty()).then(|| ("fanfare.toml".to_owned(), file.to_owned())),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: flags
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()))
            .collect(),
    }
}

#[track_caller]
fn check(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &str)],
    expected: impl FnOnce(&mut Config),
) {
    let mut config = Config::default();
    expected(&mut config);
    assert_eq!(load(&sources(file, environment, flags)).unwrap().0, config);
}

#[track_caller]
fn check_refused(file: &str, environment: &[(&str, &str)], parts: &[&str]) {
    let error = load(&sources(file, environment, &[])).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

const KEY: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn layers_from_weak_to_strong() {
    check("", &[], &[], |_| {});
    check("listen = \"127.0.0.1:1\"", &[], &[], |c| {
        c.listen = parse_address("127.0.0.1:1");
    });
    check(
        "listen = \"127.0.0.1:1\"",
        &[("FANFARE_LISTEN", "localhost:2")],
        &[],
        |c| c.listen = parse_address("127.0.0.1:2"),
    );
    check(
        "listen = \"127.0.0.1:1\"",
        &[("FANFARE_LISTEN", "localhost:2")],
        &[("listen", "127.0.0.1:3")],
        |c| {
            c.listen = parse_address("127.0.0.1:3");
        },
    );
    check(
        "[limits]\nmessage_bytes_max = 100\nhead_time_max = \"2m\"",
        &[],
        &[],
        |c| {
            c.limits.message_bytes_max = 100;
            c.limits.head_time_max = Duration::from_mins(2);
        },
    );
    check(
        "",
        &[
            ("FANFARE_LIMITS_MESSAGE_BYTES_MAX", "100"),
            ("FANFARE_CHANNELS_TALK", "a, b*"),
            ("HOME", "x"),
        ],
        &[],
        |c| {
            c.limits.message_bytes_max = 100;
            c.channels.talk = vec!["a".to_owned(), "b*".to_owned()];
        },
    );
    check(
        "",
        &[
            ("FANFARE_LOG", "debug"),
            ("FANFARE_URL", "x"),
            ("FANFARE_KEY", KEY),
        ],
        &[("log.format", "json")],
        |c| {
            c.log = Log {
                format: LogFormat::Json,
                level: "debug".to_owned(),
            };
            c.key = Some(Secret::new(KEY));
        },
    );
    check("[sessions]\nheartbeat = [\"ping\", \"pong\"]", &[], &[], |c| {
        c.sessions.heartbeat = Some(["ping".to_owned(), "pong".to_owned()]);
    });
    check("", &[("FANFARE_SESSIONS_HEARTBEAT", "ping,pong")], &[], |c| {
        c.sessions.heartbeat = Some(["ping".to_owned(), "pong".to_owned()]);
    });
    check(
        "[compression]\nbytes_min = 0",
        &[("FANFARE_COMPRESSION_ENABLED", "false")],
        &[],
        |c| {
            c.compression.bytes_min = 0;
            c.compression.enabled = false;
        },
    );
}

#[test]
fn tls_beside_the_plain_port_or_instead_of_it() {
    let pair = "cert = [\"c.pem\"]\nkey = [\"k.pem\"]";
    let tls = |listen| Tls {
        listen: parse_address(listen),
        cert: vec!["c.pem".to_owned()],
        key: vec!["k.pem".to_owned()],
        min_version: TlsVersion::V1_2,
    };
    check(
        &format!("[tls]\nlisten = \"127.0.0.1:2\"\n{pair}"),
        &[],
        &[],
        |c| {
            c.tls = tls("127.0.0.1:2");
        },
    );
    let variables = [
        ("FANFARE_LISTEN", "off"),
        ("FANFARE_TLS_LISTEN", "localhost:3"),
        ("FANFARE_TLS_CERT", "c.pem, d.pem"),
        ("FANFARE_TLS_KEY", "k.pem,l.pem"),
        ("FANFARE_TLS_MIN_VERSION", "1.3"),
    ];
    check("", &variables, &[], |c| {
        c.listen = None;
        c.tls = Tls {
            cert: vec!["c.pem".to_owned(), "d.pem".to_owned()],
            key: vec!["k.pem".to_owned(), "l.pem".to_owned()],
            min_version: TlsVersion::V1_3,
            ..tls("127.0.0.1:3")
        };
    });
    check_refused("listen = \"off\"", &[], &["listen is off", "tls.listen"]);
    check_refused(
        "[tls]\nlisten = \"127.0.0.1:2\"",
        &[],
        &["tls.cert", "fanfare dev-cert"],
    );
    check_refused(&format!("[tls]\n{pair}"), &[], &["need tls.listen"]);
    check_refused(
        "[tls]\nlisten = \"127.0.0.1:2\"\ncert = [\"a\", \"b\"]\nkey = [\"c\"]",
        &[],
        &["tls.cert names 2 files and tls.key 1"],
    );
    check_refused(
        &format!("listen = \"127.0.0.1:2\"\n[tls]\nlisten = \"127.0.0.1:2\"\n{pair}"),
        &[],
        &["the same address"],
    );
    check_refused(
        &format!("[tls]\nlisten = \"0.0.0.0:2\"\n{pair}"),
        &[],
        &["0.0.0.0:2 can be reached", "a key is needed"],
    );
    check_refused("[tls]\nmin_version = \"1.1\"", &[], &["line 2", "1.1", "1.2"]);
    let many = (0..65).map(|_| "a").collect::<Vec<_>>().join(",");
    check_refused(
        "[tls]\nlisten = \"127.0.0.1:2\"",
        &[("FANFARE_TLS_CERT", &many), ("FANFARE_TLS_KEY", &many)],
        &["tls.cert", "64"],
    );
}

#[test]
fn what_the_disk_engine_promises() {
    check("engine = \"disk\"", &[("FANFARE_DATA_DIR", "x/y")], &[], |c| {
        c.engine = "disk".to_owned();
        c.data_dir = "x/y".into();
    });
    for (text, sync) in [
        ("always", Sync::Always),
        ("never", Sync::Never),
        ("250ms", Sync::Every(Duration::from_millis(250))),
    ] {
        check("", &[("FANFARE_DISK_SYNC", text)], &[], |c| c.disk.sync = sync);
    }
    for text in ["", "0s", "sometimes"] {
        check_refused(
            "",
            &[("FANFARE_DISK_SYNC", text)],
            &["FANFARE_DISK_SYNC", "always"],
        );
    }
    check_refused("engine = \"tape\"", &[], &["engine", "memory", "disk", "tape"]);
}

#[test]
fn errors_name_the_key_and_the_line() {
    check_refused(
        "\nlisten = \"nowhere\"",
        &[],
        &["fanfare.toml", "line 2", "nowhere"],
    );
    check_refused(
        "[limits]\nmesage_bytes_max = 1",
        &[],
        &[
            "line 2",
            "mesage_bytes_max",
            "did you mean `limits.message_bytes_max`",
        ],
    );
    check_refused(
        "lissten = 1",
        &[],
        &["line 1", "lissten", "did you mean `listen`"],
    );
    check_refused("a = = 1", &[], &["line 1"]);
    check_refused("[limits]\nhead_time_max = \"soon\"", &[], &["line 2", "soon"]);
    check_refused(
        "",
        &[("FANFARE_LISSTEN", "x")],
        &["FANFARE_LISSTEN", "did you mean FANFARE_LISTEN"],
    );
    check_refused("", &[("FANFARE_SHARDS", "many")], &["FANFARE_SHARDS"]);
    check_refused(
        "",
        &[("FANFARE_LOG_FORMAT", "xml")],
        &["FANFARE_LOG_FORMAT", "xml"],
    );
}

#[test]
fn contradictions_are_found_before_a_socket_opens() {
    for level in [0, 10] {
        check_refused(
            &format!("[compression]\nlevel = {level}"),
            &[],
            &["compression.level", "1 to 9"],
        );
    }
    check_refused(
        "",
        &[("FANFARE_COMPRESSION_ENABLED", "maybe")],
        &["FANFARE_COMPRESSION_ENABLED", "maybe"],
    );
    check_refused(
        "[limits]\ninflate_ratio_max = 0",
        &[],
        &["limits.inflate_ratio_max"],
    );
    check_refused(
        "[limits]\nmessages_per_user = \"5 per second\"",
        &[],
        &["line 2", "5 per second", "50/s burst 200"],
    );
    check_refused(
        "",
        &[("FANFARE_LIMITS_CONNECTIONS_PER_ADDRESS", "0")],
        &["limits.connections_per_address"],
    );
    for (name, value) in [
        ("ALLOW", "shop.example"),
        ("DENY", "10.0.0.0/33"),
        ("DENY", "unix"),
    ] {
        let variable = format!("FANFARE_NETWORK_{name}");
        let setting = format!("network.{}", name.to_lowercase());
        check_refused("", &[(&variable, value)], &[&setting, value]);
    }
    check_refused(
        "[network]\nproxy_protocol = true",
        &[],
        &["network.proxy_protocol", "network.trusted_proxies"],
    );
    check_refused("unix_mode = \"rw-\"", &[], &["unix_mode", "octal"]);
    let long = format!("/tmp/{}", "x".repeat(103));
    check_refused("", &[("FANFARE_UNIX", &long)], &["unix", "107 bytes"]);
    check_refused("listen = \"0.0.0.0:8080\"", &[], &["key = \"", "FANFARE_KEY="]);
    check_refused("listen = \"[::]:8080\"", &[], &["key = \""]);
    check_refused(
        "listen = \"0.0.0.0:8080\"\nkey = \"short\"",
        &[],
        &["shorter than 16 bytes"],
    );
    check_refused(
        "listen = \"0.0.0.0:8080\"\nkey = \"!ChangeThisMercureHubJWTSecretKey!\"",
        &[],
        &["sample"],
    );
    check_refused("key_previous = \"x\"", &[], &["key_previous", "no key"]);
    check_refused(
        "[network]\ntrusted_proxies = [\"unix\"]",
        &[],
        &["network.trusted_proxies", "key"],
    );
    check_refused(
        &format!("listen = \"0.0.0.0:8080\"\nkey = \"{KEY}\"\nkey_previous = \"short\""),
        &[],
        &["key_previous", "shorter than 16 bytes"],
    );
    check_refused("[channels]\npresence = [\"\"]", &[], &["channels.presence"]);
    check_refused(
        "[tokens]\npublic_keys = [\"no/such/file.pem\"]",
        &[],
        &["tokens.public_keys", "no/such/file.pem"],
    );
    check_refused(
        "[tokens]\npublic_keys = [\"Cargo.toml\"]",
        &[],
        &["Cargo.toml", "PEM"],
    );
    check_refused(
        "[tokens]\njwks_url = \"http://id.example/keys\"",
        &[],
        &["tokens.jwks_url", "https"],
    );
    check_refused(
        "[tokens]\njwks_pause = \"0s\"",
        &[],
        &["tokens.jwks_pause", "at least 1s"],
    );
    check_refused(
        "[tokens]\njwks_age_max = \"30s\"",
        &[],
        &["tokens.jwks_age_max", "tokens.jwks_pause"],
    );
    check_refused("engine = \"redis://x\"", &[], &["engine", "memory"]);
    check_refused("shards = 65", &[], &["shards", "64"]);
    check_refused("admin_listen = \"0.0.0.0:1\"", &[], &["admin_listen", "loopback"]);
    check_refused("origins = [\"shop.example\"]", &[], &["origins", "shop.example"]);
    check_refused("[channels]\ntalk = [\"\"]", &[], &["channels.talk"]);
    check_refused(
        "[limits]\noutbox_bytes_max = 5",
        &[],
        &["limits.outbox_bytes_max"],
    );
    check_refused(
        "[sessions]\nping_interval = \"0s\"",
        &[],
        &["sessions.ping_interval"],
    );
}

#[test]
fn where_reverb_would_listen() {
    let apps = [
        ("REVERB_APP_ID", "1"),
        ("REVERB_APP_KEY", "a"),
        ("REVERB_APP_SECRET", "s"),
        ("REVERB_SERVER_PATH", "ws"),
    ];
    let path = |file: &str| load(&sources(file, &apps, &[])).unwrap().0.pusher.path;
    assert_eq!(path(""), "/ws");
    assert_eq!(path("[pusher]\ncache_age = \"1h\""), "/ws");
    assert_eq!(path("[pusher]\npath = \"/own\""), "/own");
}

#[test]
fn channel_rules_say_what_is_kept_of_which_channels() {
    let file = "[history]\npublications = 7\n[[channels.rules]]\nchannels = \"room/*\"\nhistory_age = \"1h\"";
    let inline = "[{ channels = \"room/*\", history_age = \"1h\" }]";
    let by_file = load(&sources(file, &[], &[])).unwrap().0;
    let variables = [
        ("FANFARE_HISTORY_PUBLICATIONS", "7"),
        ("FANFARE_CHANNELS_RULES", inline),
    ];
    let by_environment = load(&sources("", &variables, &[])).unwrap().0;
    assert_eq!(by_file, by_environment);
    let rules = by_file.history_rules().unwrap();
    let (pattern, limits) = &rules.by_pattern[0];
    assert_eq!(
        (pattern.to_string(), limits.publications),
        ("room/*".to_owned(), 7)
    );
    assert_eq!(limits.age, Duration::from_hours(1));
    // A rule says nothing of what it does not name: not of history, nor of how long caches are kept.
    let file = "[[channels.rules]]\nchannels = \"*\"\nreplay = \"user\"\n\
                [[channels.rules]]\nchannels = \"room/*\"\nhistory_age = \"1h\"\nslow_consumer = \"newest\"";
    let config = load(&sources(file, &[], &[])).unwrap().0;
    let age = |channel: &str| config.history_age(&ChannelName::new(channel).unwrap());
    assert_eq!(
        ["room/1", "orders", "cache-price", "presence-cache-room"].map(age),
        [60, 2, 30, 30].map(Duration::from_mins)
    );
    assert_eq!(config.slow_consumer_rules().len(), 1);
    check_refused("[[channels.rules]]\nhistory_age = \"1h\"", &[], &["channels"]);
    check_refused(
        "[[channels.rules]]\nchannels = \"\"",
        &[],
        &["channels.rules", "empty"],
    );
    check_refused("[[channels.rules]]\nchannels = \"a\"\nage = 1", &[], &["age"]);
    check_refused(
        "",
        &[("FANFARE_CHANNELS_RULES", "room/*")],
        &["FANFARE_CHANNELS_RULES"],
    );
}

#[test]
fn a_key_never_appears_in_what_is_printed() {
    let file = "key = \"canary-canary-canary-canary-canary\"\nkey_previous = \"canary-canary-canary\"";
    let (config, _) = load(&sources(file, &[], &[])).unwrap();
    let shown = format!("{config:?} {}", toml::to_string(&config).unwrap());
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn weak_keys_are_a_warning_on_loopback() {
    let warnings = |file: &str| load(&sources(file, &[], &[])).unwrap().1.len();
    assert_eq!(warnings("key = \"short\""), 1);
    assert_eq!(warnings("key = \"0123456789abcdef\""), 1);
    assert_eq!(warnings(&format!("key = \"{KEY}\"")), 0);
    assert_eq!(warnings(&format!("key = \"{KEY}\"\nkey_previous = \"short\"")), 1);
}

#[test]
fn every_setting_is_in_the_reference_page() {
    for key in keys() {
        assert!(
            described(&key).is_some_and(|text| text.len() > 2),
            "docs/configuration.md has no row for {key}"
        );
    }
}

#[test]
fn printed_defaults_are_the_defaults() {
    let (config, _) = load(&sources(&defaults_as_toml(), &[], &[])).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn a_shown_setting_names_its_source() {
    let sources = sources(
        "key = \"canary-canary-canary-canary-canary\"\nshards = 2\n[limits]\nmessage_bytes_max = 100",
        &[("FANFARE_SHARDS", "3"), ("FANFARE_LOG", "debug")],
        &[("log.format", "json")],
    );
    let (config, _) = load(&sources).unwrap();
    let shown = shown(&config, &sources);
    for line in [
        "key = \"***\"  # fanfare.toml",
        "shards = 3  # FANFARE_SHARDS",
        "level = \"debug\"  # FANFARE_LOG",
        "format = \"json\"  # --log-format",
        "message_bytes_max = 100  # fanfare.toml",
        "engine = \"memory\"",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "no {line:?} in\n{shown}"
        );
    }
    assert!(!shown.contains("canary"), "{shown}");
}
