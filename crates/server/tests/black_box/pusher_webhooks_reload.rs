//! Webhooks change while the server runs: what waits is lost for nobody who is still there, and nobody is told
//! what is not so.

use std::path::PathBuf;

use tokio::net::TcpSocket;

use crate::pusher_webhooks::{FAILED, WAITING, occupied, told_are, vacated, wait_for};
use crate::support::back_end::BackEnd;
use crate::support::pusher::{APP, App, OTHER_APP, Session, hang_up, start_with, until, write_apps};
use crate::support::{KEY, Server};

const SETTINGS: &str =
    "[pusher]\nwebhook_private_networks = true\nwebhook_delay = \"50ms\"\nwebhook_retry_pause = \"10ms\"";

/// A configuration file in a folder of its own.
struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
    before: String,
}

impl File {
    /// What stands before the tables, and the settings of webhooks.
    fn new(before: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fanfare.toml");
        let before = format!("{before}\n{SETTINGS}\n");
        Self {
            _folder: folder,
            path,
            before,
        }
    }

    fn write(&self, apps: &[(&App, &str)]) {
        write_apps(&self.path, &self.before, apps);
    }

    /// The same, for a server that reads it at once.
    fn change(&self, server: &Server, apps: &[(&App, &str)]) {
        self.write(apps);
        hang_up(server);
    }
}

fn webhooks(urls: &[&str]) -> String {
    let tables: Vec<String> = urls.iter().map(|url| format!("{{ url = \"{url}\" }}")).collect();
    format!("webhooks = [{}]", tables.join(", "))
}

/// A port that is taken, where nobody listens, and its URL.
fn nobody() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}/hook", socket.local_addr().unwrap());
    (socket, url)
}

#[tokio::test]
async fn a_url_that_is_another_one_now_hears_what_waits() {
    let (_taken, url) = nobody();
    let mut back_end = BackEnd::start().await;
    let file = File::new("");
    file.write(&[(&APP, &webhooks(&[&url]))]);
    let server = start_with(&file.path);
    let mut anna = Session::connect(&server, APP).await;
    for channel in ["a", "b", "c"] {
        anna.subscribe(channel).await;
    }
    wait_for(&server, FAILED, 2).await;
    file.change(&server, &[(&APP, &webhooks(&[&back_end.url("/new")]))]);
    told_are(&mut back_end, ["a", "b", "c"].map(occupied).to_vec()).await;
    anna.unsubscribe("b").await;
    told_are(&mut back_end, vec![vacated("b")]).await;
}

#[tokio::test]
async fn what_waits_for_a_url_that_is_no_more_is_counted() {
    let (_taken, url) = nobody();
    let mut back_end = BackEnd::start().await;
    let file = File::new("");
    let good = back_end.url("/hook");
    file.write(&[(&APP, &webhooks(&[&url, &good]))]);
    let server = start_with(&file.path);
    let mut anna = Session::connect(&server, APP).await;
    for channel in ["a", "b", "c"] {
        anna.subscribe(channel).await;
    }
    told_are(&mut back_end, ["a", "b", "c"].map(occupied).to_vec()).await;
    server.wait_for_admin_count(WAITING, |waiting| waiting == 3).await;
    file.change(&server, &[(&APP, &webhooks(&[&good]))]);
    let removed = "fanfare_webhook_events_dropped_total{cause=\"removed\"}";
    wait_for(&server, removed, 3).await;
    assert_eq!(server.admin_count(WAITING).await, 0);
}

#[tokio::test]
async fn an_app_that_is_disabled_or_gone_tells_that_nobody_is_there() {
    let mut back_end = BackEnd::start().await;
    let file = File::new("");
    let hook = webhooks(&[&back_end.url("/hook")]);
    let disabled = format!("enabled = false\n{hook}");
    file.write(&[(&APP, ""), (&OTHER_APP, &hook)]);
    let server = start_with(&file.path);
    for (change, status) in [
        (&[(&APP, ""), (&OTHER_APP, disabled.as_str())][..], 403),
        (&[(&APP, "")][..], 404),
    ] {
        let mut anna = Session::connect(&server, OTHER_APP).await;
        anna.subscribe("orders").await;
        told_are(&mut back_end, vec![occupied("orders")]).await;
        file.change(&server, change);
        until(&server, OTHER_APP, status).await;
        told_are(&mut back_end, vec![vacated("orders")]).await;
        file.change(&server, &[(&APP, ""), (&OTHER_APP, &hook)]);
        until(&server, OTHER_APP, 200).await;
    }
}

#[tokio::test]
async fn the_first_app_of_a_server_with_a_key_may_come_later() {
    let mut back_end = BackEnd::start().await;
    let file = File::new(&format!("key = \"{KEY}\""));
    file.write(&[]);
    let server = start_with(&file.path);
    until(&server, APP, 404).await;
    file.change(&server, &[(&APP, &webhooks(&[&back_end.url("/hook")]))]);
    until(&server, APP, 200).await;
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders").await;
    told_are(&mut back_end, vec![occupied("orders")]).await;
}
