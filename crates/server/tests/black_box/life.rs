//! Starting, refusing to start, readiness, figures, and going away.

use std::net::TcpListener;

use crate::support::{Said, Server, command, text};

/// Settings with which the server does not start: exit status, and parts of what it says.
#[track_caller]
fn check_refused(settings: &[(&str, &str)], arguments: &[&str], status: i32, parts: &[&str]) {
    let output = command()
        .envs(settings.iter().copied())
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for part in parts {
        assert!(said.contains(part), "{said:?} does not say {part:?}");
    }
}

#[test]
fn it_refuses_to_start_with_one_clear_sentence() {
    check_refused(
        &[("FANFARE_LISTEN", "0.0.0.0:0")],
        &[],
        78,
        &["a key is needed", "key = \"", "FANFARE_KEY="],
    );
    check_refused(&[], &["--listen", "0.0.0.0:0"], 78, &["a key is needed"]);
    check_refused(
        &[("FANFARE_LISSTEN", "x")],
        &[],
        78,
        &["did you mean FANFARE_LISTEN"],
    );
    check_refused(&[], &["--listen", "nowhere"], 78, &["--listen", "nowhere"]);
    check_refused(&[], &["--engine", "redis://x"], 78, &["engine", "memory"]);
    check_refused(
        &[],
        &["--config", "/no/such/file.toml"],
        78,
        &["/no/such/file.toml"],
    );
    check_refused(&[], &["--no-such-flag"], 2, &["--no-such-flag"]);
    check_refused(&[], &["--listen", "192.0.2.1:8080"], 78, &["key"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check_refused(&[], &["--listen", &address], 1, &[&address, "in use"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# a comment\n[limits]\nmesage_bytes_max = 1\n").unwrap();
    let path = file.path().to_str().unwrap();
    check_refused(
        &[],
        &["--config", path],
        78,
        &[path, "line 3", "mesage_bytes_max", "message_bytes_max"],
    );
    check_refused(&[], &["config", "--check", path], 78, &["line 3"]);
}

#[tokio::test]
async fn two_servers_do_not_share_a_port() {
    let server = Server::start(&[]);
    check_refused(&[], &["--listen", &server.address], 1, &["in use"]);
}

#[test]
fn the_admin_port_has_its_own_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let settings = [
        ("FANFARE_LISTEN", "127.0.0.1:0"),
        ("FANFARE_ADMIN_LISTEN", &address),
    ];
    check_refused(
        &settings,
        &[],
        1,
        &["admin_listen", &address, "in use", "--admin-listen"],
    );
}

#[tokio::test]
async fn a_listener_on_the_command_line_comes_back() {
    let server = Server::start(&[]);
    let address = server.address.clone();
    let listener = command()
        .args([
            "listen",
            "a",
            "--count",
            "2",
            "--server",
            &format!("http://{address}"),
        ])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let open = "fanfare_sessions{transport=\"websocket\"}";
    server.wait_for_metric(open, 1).await;
    server.post("/ch/a", b"before").await;
    server.terminate();
    assert_eq!(server.wait().0.code(), Some(0));
    let again = Server::start(&[("FANFARE_LISTEN", &address)]);
    again.wait_for_metric(open, 1).await;
    again.post("/ch/a", b"after").await;
    let output = listener.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a before\na after\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the connection ended"));
}

#[tokio::test]
async fn sigterm_closes_sessions_and_exits_with_0() {
    let server = Server::start(&[]);
    let mut peers = vec![server.websocket("/").await, server.websocket("/ch/a").await];
    let mut stream = server.stream("/ch/a", "").await;
    server.post("/ch/a", b"last words").await;
    server.terminate();
    assert_eq!(peers[1].hear().await, text("last words"));
    for peer in &mut peers {
        assert!(matches!(peer.hear().await, Said::Close(1012, _)));
        assert_eq!(peer.hear().await, Said::End);
    }
    assert!(stream.event().await.ends_with("data: last words\n\n"));
    assert!(stream.block().await.starts_with("retry: "));
    assert!(!stream.more().await);
    let (status, logs) = server.wait();
    assert_eq!(status.code(), Some(0), "{logs}");
}

#[tokio::test]
async fn opens_closes_and_errors_are_logged_with_the_session() {
    let server = Server::start(&[("FANFARE_LOG_FORMAT", "json")]);
    drop(server.websocket("/").await);
    let mut broken = server.websocket("/").await;
    broken.send(b"\x81\x01x").await;
    broken.hear().await;
    server
        .wait_for_metric("fanfare_disconnects_total{reason=\"lost\"}", 1)
        .await;
    server.terminate();
    let (_, logs) = server.wait();
    let lines: Vec<serde_json::Value> = logs
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |message: &str| -> Vec<String> {
        let lines = lines.iter().filter(|line| line["message"] == message);
        lines
            .map(|line| line["session"].as_str().unwrap().to_owned())
            .collect()
    };
    let (opened, closed, failed) = (
        of("session opened"),
        of("session closed"),
        of("session ended with an error"),
    );
    assert_eq!((opened.len(), closed.len(), failed.len()), (2, 1, 1), "{logs}");
    assert_eq!((&closed[0], &failed[0]), (&opened[0], &opened[1]));
}

#[tokio::test]
async fn the_command_line_publishes_and_listens() {
    let server = Server::start(&[]);
    let url = format!("http://{}", server.address);
    let listener = command()
        .args(["listen", "room/7", "--count", "3", "--server", &url])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    server
        .wait_for_metric("fanfare_sessions{transport=\"websocket\"}", 1)
        .await;
    let publish = |arguments: &[&str]| {
        command()
            .arg("publish")
            .args(arguments)
            .args(["--server", &url])
            .output()
            .unwrap()
    };
    let output = publish(&["room/7", "hello", "--event", "greeting"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("\"listeners\":1"));
    let mut piped = command();
    let mut piped = piped
        .args(["publish", "room/7", "--server", &url])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut piped.stdin.take().unwrap(), b"one\ntwo\n").unwrap();
    assert!(piped.wait().unwrap().success());
    let output = listener.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "room/7 [greeting] hello\nroom/7 one\nroom/7 two\n"
    );
    let refused = publish(&["", "x"]);
    assert_eq!(refused.status.code(), Some(1));
    let nobody = command()
        .args(["publish", "a", "x", "--server", "http://127.0.0.1:9"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&nobody.stderr).contains("no server answers"),
        "{nobody:?}"
    );
}
