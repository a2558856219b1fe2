//! Apps come, go and change while the server runs, and nobody else notices.

use std::path::{Path, PathBuf};

use crate::support::Server;
use crate::support::pusher::{APP, App, OTHER_APP, Session, hang_up, start_with, until, write_apps};

fn write(path: &Path, apps: &[(&App, &str)]) {
    write_apps(path, "", apps);
}

#[tokio::test]
async fn apps_come_and_go_by_a_file_that_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fanfare.toml");
    write(&path, &[(&APP, "")]);
    let server = start_with(&path);
    let mut stays = Session::connect(&server, APP).await;
    stays.subscribe("orders").await;
    assert_eq!(
        OTHER_APP.request(&server, "GET", "/connections", &[], "").await.0,
        404
    );
    // The first app shares its channels with the other doors, so it cannot become another one.
    write(&path, &[(&OTHER_APP, ""), (&APP, "")]);
    hang_up(&server);
    write(&path, &[(&APP, ""), (&OTHER_APP, "")]);
    until(&server, OTHER_APP, 200).await;
    let mut goes = Session::connect(&server, OTHER_APP).await;
    goes.subscribe("orders").await;
    // Two worlds.
    OTHER_APP.trigger(&server, "orders", "other", "").await;
    goes.heard("other").await;
    APP.trigger(&server, "orders", "own", "").await;
    stays.heard("own").await;
    write(&path, &[(&APP, "")]);
    until(&server, OTHER_APP, 404).await;
    assert_eq!(goes.heard("pusher:error").await["data"]["code"], 4001);
    APP.trigger(&server, "orders", "still here", "").await;
    stays.heard("still here").await;
    write(&path, &[(&APP, "enabled = false")]);
    until(&server, APP, 403).await;
    assert_eq!(stays.heard("pusher:error").await["data"]["code"], 4003);
}

#[tokio::test]
async fn a_signal_reloads_and_what_is_wrong_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fanfare.toml");
    write(&path, &[(&APP, "")]);
    let server = start_with(&path);
    let mut session = Session::connect(&server, APP).await;
    session.subscribe("orders").await;
    for wrong in [
        "[[apps]]\nid = 5\n",
        "nonsense",
        "[[apps]]\nid = \"1\"\nkey = \"k\"\nsecret = \"\"\n",
        "",
    ] {
        std::fs::write(&path, wrong).unwrap();
        hang_up(&server);
        APP.trigger(&server, "orders", "as before", "").await;
        session.heard("as before").await;
    }
    // A limit of an app holds at once, also for who is here.
    write(&path, &[(&APP, "subscriptions_max = 1")]);
    hang_up(&server);
    // Until it has been read.
    loop {
        let mut other = Session::connect(&server, APP).await;
        other.subscribe("a").await;
        let frame = other.subscription("b", None);
        other.say(&frame).await;
        let heard = other.hear().await;
        if heard["event"] == "pusher:subscription_error" {
            break;
        }
    }
    let frame = session.subscription("b", None);
    session.say(&frame).await;
    let refused = session.heard("pusher:subscription_error").await;
    assert_eq!(refused["data"]["type"], "LimitReached");
    // An app of a new secret: what was signed with the old one is good no more.
    let renewed = App {
        secret: "another-secret-33cc",
        ..APP
    };
    write(&path, &[(&renewed, "")]);
    hang_up(&server);
    until(&server, renewed, 200).await;
    assert_eq!(APP.request(&server, "GET", "/connections", &[], "").await.0, 401);
    renewed.trigger(&server, "orders", "by the new one", "").await;
    session.heard("by the new one").await;
}

/// A folder, and in it a file for the configuration and a folder for what is published.
fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (path, data) = (folder.path().join("fanfare.toml"), folder.path().join("data"));
    (folder, path, data)
}

/// A server with these apps that writes what is published.
fn start_on_disk(path: &Path, data: &Path) -> Server {
    Server::start(&[
        ("FANFARE_CONFIG", path.to_str().unwrap()),
        ("FANFARE_ENGINE", "disk"),
        ("FANFARE_DATA_DIR", data.to_str().unwrap()),
    ])
}

const THIRD_APP: App = App {
    id: "4713",
    key: "third-key-33bb",
    secret: "third-secret-44cc",
};

/// What is cached of a channel.
async fn cached(server: &Server, app: App) -> String {
    let mut session = Session::connect(server, app).await;
    session.subscribe("cache-price").await;
    let heard = session.hear().await;
    if heard["event"] == "pusher:cache_miss" {
        return String::new();
    }
    heard["data"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_was_published_stays_with_its_app_whatever_its_place() {
    let (_folder, path, data) = places();
    write(&path, &[(&APP, ""), (&OTHER_APP, ""), (&THIRD_APP, "")]);
    let server = start_on_disk(&path, &data);
    for app in [APP, OTHER_APP, THIRD_APP] {
        app.trigger(&server, "cache-price", "price", app.id).await;
    }
    server.end().await;
    write(&path, &[(&APP, ""), (&THIRD_APP, "")]);
    let server = start_on_disk(&path, &data);
    for app in [APP, THIRD_APP] {
        assert_eq!(cached(&server, app).await, app.id);
    }
    // One that comes back.
    write(&path, &[(&APP, ""), (&THIRD_APP, ""), (&OTHER_APP, "")]);
    hang_up(&server);
    until(&server, OTHER_APP, 200).await;
    assert_eq!(cached(&server, OTHER_APP).await, OTHER_APP.id);
}

#[tokio::test]
async fn apps_that_cannot_begin_leave_nothing_behind() {
    let (_folder, path, data) = places();
    write(&path, &[(&APP, "")]);
    let server = start_on_disk(&path, &data);
    // Where the third one would write there is a file.
    let folder_of = |app: App| {
        let name: String = app.id.bytes().map(|byte| format!("{byte:02x}")).collect();
        data.join("apps").join(name)
    };
    std::fs::create_dir_all(data.join("apps")).unwrap();
    std::fs::write(folder_of(THIRD_APP), "in the way").unwrap();
    write(&path, &[(&APP, ""), (&OTHER_APP, ""), (&THIRD_APP, "")]);
    hang_up(&server);
    // The second one had begun when the third one could not.
    crate::support::in_time(async { while !folder_of(OTHER_APP).exists() {} }).await;
    let fourth = App {
        id: "4714",
        key: "fourth-key-55dd",
        secret: "fourth-secret-66ee",
    };
    write(&path, &[(&APP, ""), (&fourth, "")]);
    hang_up(&server);
    until(&server, fourth, 200).await;
    fourth.trigger(&server, "cache-price", "price", "fourth").await;
    write(&path, &[(&APP, ""), (&fourth, ""), (&OTHER_APP, "")]);
    hang_up(&server);
    until(&server, OTHER_APP, 200).await;
    assert_eq!(cached(&server, OTHER_APP).await, "");
    OTHER_APP.trigger(&server, "cache-price", "price", "other").await;
    assert_eq!(cached(&server, fourth).await, "fourth");
    assert_eq!(cached(&server, OTHER_APP).await, "other");
    assert_eq!(
        THIRD_APP.request(&server, "GET", "/connections", &[], "").await.0,
        404
    );
}

#[tokio::test]
async fn what_the_first_app_has_written_is_no_other_apps() {
    let (_folder, path, data) = places();
    write(&path, &[(&APP, "")]);
    let server = start_on_disk(&path, &data);
    APP.trigger(&server, "cache-price", "price", "1").await;
    server.end().await;
    write(&path, &[(&OTHER_APP, ""), (&APP, "")]);
    let output = crate::support::command()
        .env("FANFARE_CONFIG", &path)
        .env("FANFARE_ENGINE", "disk")
        .env("FANFARE_DATA_DIR", &data)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(
        text.contains("the first app is \"4712\" now: put \"4711\" first again"),
        "{text}"
    );
    write(&path, &[(&APP, ""), (&OTHER_APP, "")]);
    assert_eq!(cached(&start_on_disk(&path, &data), APP).await, "1");
}
