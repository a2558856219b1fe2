//! Paths, signatures and bodies as libraries send them, and as nobody should.

use super::*;

const KEY: &str = "demo-key-7f3a";
const SECRET: &str = "demo-secret-b91c";
const NOW: u64 = 1_795_400_000;

#[track_caller]
fn check_route(method: &str, path: &str, expected: Option<(Option<&str>, Route)>) {
    let found = route(method, path).and_then(Result::ok);
    let found = found.map(|request| (request.app.map(Cow::into_owned), request.route));
    let expected = expected.map(|(app, route)| (app.map(str::to_owned), route));
    assert_eq!(found, expected, "{method} {path}");
}

#[test]
fn paths() {
    let app = Some("4711");
    let of_app =
        |method, path: &str, route| check_route(method, &format!("/apps/4711/{path}"), Some((app, route)));
    of_app("POST", "events", Route::Events);
    of_app("POST", "batch_events", Route::BatchEvents);
    of_app("GET", "channels", Route::Channels);
    of_app("GET", "connections", Route::Connections);
    of_app(
        "GET",
        "channels/presence-room.3",
        Route::Channel("presence-room.3".into()),
    );
    of_app("GET", "channels/room%2F7", Route::Channel("room/7".into()));
    of_app("GET", "channels/room%2F7/users", Route::Users("room/7".into()));
    of_app("GET", "channels/a/b/users", Route::Users("a/b".into()));
    of_app(
        "POST",
        "channels/orders/events",
        Route::ChannelEvents("orders".into()),
    );
    of_app(
        "POST",
        "users/john%20doe/terminate_connections",
        Route::Terminate("john doe".into()),
    );
    of_app("POST", "users/42/events", Route::UserEvents("42".into()));
    check_route(
        "POST",
        "/users/42/terminate_connections",
        Some((None, Route::Terminate("42".into()))),
    );
    for path in ["/users/42", "/users/42/events", "/app/4711", "/", ""] {
        check_route("GET", path, None);
        check_route("POST", path, None);
        assert!(route("POST", path).is_none(), "{path} belongs to another door");
    }
    // Of this door, and nothing.
    for path in [
        "/apps/4711/nothing",
        "/apps/4711",
        "/apps/4711/",
        "/apps/4711/channels/a/nothing",
        "/apps/4711/channels/a/b/c/nothing",
    ] {
        let status = route("POST", path)
            .and_then(Result::err)
            .map(|refusal| refusal.status());
        assert_eq!(status, Some(404), "{path}");
    }
    let allow = |method, path| route(method, path).and_then(Result::err);
    let post = Some(Refusal::MethodNotAllowed { allow: "POST" });
    let get = Some(Refusal::MethodNotAllowed { allow: "GET" });
    assert_eq!(allow("GET", "/apps/1/events"), post);
    assert_eq!(allow("DELETE", "/apps/1/channels"), get);
    assert_eq!(
        allow("GET", "/apps/1/nothing").map(|refusal| refusal.status()),
        Some(404)
    );
}

/// What is done to a request, and the status and a part of the text of the answer; 200: it is good.
#[track_caller]
fn check_signed(method: &str, path: &str, query: &str, now: u64, status: u16, says: &str) {
    let request = route(method, path).unwrap().unwrap();
    let signed = Signed::new(Some(query));
    let result = signed.and_then(|signed| signed.check(method, &request, KEY, &Secret::new(SECRET), now));
    let (got, text) = match &result {
        Ok(()) => (200, String::new()),
        Err(refusal) => (refusal.status(), refusal.to_string()),
    };
    assert_eq!(got, status, "{query}: {text}");
    assert!(text.contains(says), "{query}: {text}");
}

const POST: &str = "auth_key=demo-key-7f3a&auth_timestamp=1795400000&auth_version=1.0\
    &body_md5=bcc8811fcc59498cf1d03790c9971c70";
const POST_SIGNATURE: &str = "640f8c6b0800176e981b86850db695b6c4ad47a1d99740d283c5b78ab6acc65d";

/// The examples of `pusher.md` section 12.1.
#[test]
fn known_requests() {
    let post = |query: &str, now, status, says| {
        check_signed("POST", "/apps/4711/events", query, now, status, says);
    };
    let good = format!("{POST}&auth_signature={POST_SIGNATURE}");
    post(&good, NOW, 200, "");
    post(&good, NOW + 600, 200, "");
    post(&good, NOW - 600, 200, "");
    post(&good, NOW + 601, 401, "601 s away");
    post(&good, NOW - 601, 401, "601 s away");
    post(POST, NOW, 401, "auth_signature is missing");
    post("", NOW, 401, "auth_key is missing");
    post(&good.replace("auth_key", "AUTH_Key"), NOW, 200, "");
    post(&good.replace("7f3a", "7f3b"), NOW, 401, "not the key of this app");
    post(
        &good.replace("1795400000", "1795400001"),
        NOW,
        401,
        "invalid signature",
    );
    post(
        &good.replace("1795400000", "soon"),
        NOW,
        401,
        "auth_timestamp must be",
    );
    post(&good.replace("1.0", "2.0"), NOW, 401, "auth_version");
    post(
        &good.replace("5d", "5e"),
        NOW,
        401,
        "POST\\n/apps/4711/events\\nauth_key=",
    );
    post(&format!("{good}&auth_key=x"), NOW, 400, "twice");
    post(&format!("{good}&more=1"), NOW, 401, "invalid signature");
    post(&format!("{good}&%ff=1"), NOW, 400, "UTF-8");
    check_signed(
        "GET",
        "/apps/4711/channels",
        "auth_key=demo-key-7f3a&auth_timestamp=1795400000&auth_version=1.0&filter_by_prefix=presence-&info=user_count\
         &auth_signature=28d27bc801875355a577f343b0f30af4e3135d9bd5911d5e058e256222a1eaab",
        NOW,
        200,
        "",
    );
}

/// Signs as some library does, sends as it does, and is found good.
#[track_caller]
fn check_habit(sent_path: &str, signed_path: &str, sent: &str, signed: &str) {
    let base = "auth_key=demo-key-7f3a&auth_timestamp=1795400000&auth_version=1.0";
    let text = format!("GET\n{signed_path}\n{base}&{signed}");
    let signature = sign::sign(&Secret::new(SECRET), text.as_bytes());
    let query = format!("{base}&{sent}&auth_signature={signature}");
    check_signed("GET", sent_path, &query, NOW, 200, "");
}

#[test]
fn habits_of_libraries() {
    let path = "/apps/4711/channels/a";
    check_habit(path, path, "info=a%2Cb", "info=a,b");
    check_habit(path, path, "info=a,b", "info=a,b");
    check_habit(path, path, "info[0]=a&info[1]=b", "info=a,b");
    check_habit(path, path, "info%5B0%5D=a&info%5B1%5D=b", "info=a,b");
    check_habit(path, path, "q=a%20b", "q=a b");
    check_habit(path, path, "q=a+b", "q=a b");
    check_habit(path, path, "q=a+b", "q=a+b");
    check_habit(
        path,
        path,
        "body_md5=d41d8cd98f00b204e9800998ecf8427e",
        "body_md5=d41d8cd98f00b204e9800998ecf8427e",
    );
    let (encoded, decoded) = ("/apps/4711/channels/a%3Bb", "/apps/4711/channels/a;b");
    check_habit(encoded, decoded, "q=1", "q=1");
    check_habit(encoded, encoded, "q=1", "q=1");
}

#[test]
fn the_body_is_the_signed_one() {
    let check = |query: &str, body: &str, status: Option<u16>| {
        let result = Signed::new(Some(query)).unwrap().check_body(body.as_bytes());
        assert_eq!(
            result.err().map(|refusal| refusal.status()),
            status,
            "{query} {body}"
        );
    };
    check("", "", None);
    check("", "{}", Some(401));
    check("body_md5=99914b932bd37a50b983c5e7c90ae93b", "{}", None);
    check("body_md5=99914b932bd37a50b983c5e7c90ae93b", "{} ", Some(401));
    check("body_md5=d41d8cd98f00b204e9800998ecf8427e", "", None);
}

const LIMITS: TriggerLimits = TriggerLimits {
    data_bytes_max: 20,
    channels_max: 3,
    batch_max: 2,
    name_bytes_max: 200,
};

#[track_caller]
fn check_trigger(body: &str, expected: Result<(&str, &str, &str), (u16, &str)>) {
    let got = trigger(body.as_bytes(), &LIMITS);
    match (&got, expected) {
        (Ok(got), Ok((event, channels, data))) => {
            let names: Vec<&str> = got.channels.iter().map(ChannelName::as_str).collect();
            assert_eq!(
                (got.event.as_str(), names.join(" ").as_str(), &got.data[..]),
                (event, channels, data.as_bytes())
            );
        }
        (Err(refusal), Err((status, says))) => {
            assert_eq!(refusal.status(), status, "{body}: {refusal}");
            assert!(refusal.to_string().contains(says), "{body}: {refusal}");
        }
        _ => panic!("{body}: {got:?}"),
    }
}

#[test]
fn triggers() {
    check_trigger(
        r#"{"name":"App\\Events\\X","channels":["private-a","b"],"data":"{\"id\":4.20}"}"#,
        Ok(("App\\Events\\X", "private-a b", r#"{"id":4.20}"#)),
    );
    check_trigger(r#"{"name":"e","channel":"a","data":""}"#, Ok(("e", "a", "")));
    check_trigger(
        r#"{"name":"e","channels":["a","a"],"data":"x"}"#,
        Ok(("e", "a", "x")),
    );
    check_trigger(
        r##"{"name":"e","channel":"#server-to-user-42","data":"x","more":{"a":1}}"##,
        Ok(("e", "user/42", "x")),
    );
    check_trigger(
        r#"{"name":"e","channel":"a","data":{ "b":1}}"#,
        Ok(("e", "a", r#"{ "b":1}"#)),
    );
    for (body, says) in [
        ("", "not JSON"),
        ("[]", "not JSON"),
        ("{", "not JSON"),
        (r#"{"name":5,"channel":"a","data":""}"#, "not JSON"),
        (r#"{"channel":"a","data":""}"#, "name is missing"),
        (r#"{"name":"e","channel":"a"}"#, "data is missing"),
        (r#"{"name":"e","data":""}"#, "channels is missing"),
        (r#"{"name":"e","channels":[],"data":""}"#, "channels is missing"),
        (
            r#"{"name":"e","channels":["a","b","c","d"],"data":""}"#,
            "at most 3",
        ),
        (r#"{"name":"e","channel":"a b","data":""}"#, "name of a channel"),
        (r#"{"name":"","channel":"a","data":""}"#, "event name"),
        (
            r#"{"name":"pusher:error","channel":"a","data":""}"#,
            "protocol's own",
        ),
        (r#"{"name":"e","channel":"a","data":"\ud800"}"#, "not valid text"),
        (
            r#"{"name":"e","channel":"a","data":"","socket_id":"x"}"#,
            "socket_id",
        ),
        (
            r#"{"name":"e","channel":"a","data":"","info":"colour"}"#,
            "info holds",
        ),
        (
            r#"{"name":"e","channels":["private-encrypted-a","b"],"data":""}"#,
            "encrypted",
        ),
    ] {
        check_trigger(body, Err((400, says)));
    }
    check_trigger(
        r#"{"name":"e","channel":"a","data":"123456789012345678901"}"#,
        Err((413, "content of this event")),
    );
    let all = trigger(
        br#"{"name":"e","channel":"a","data":"","socket_id":"81923.4471","info":"subscription_count,user_count"}"#,
        &LIMITS,
    )
    .unwrap();
    assert_eq!(all.socket_id, SessionId::parse_socket("81923.4471"));
    let info = Info {
        user_count: true,
        subscription_count: true,
        cache: false,
    };
    assert_eq!(all.info, info);
}

#[test]
fn batches() {
    let event = r#"{"name":"e","channel":"a","data":"x"}"#;
    let of = |events: &[&str]| {
        batch(
            format!("{{\"batch\":[{}]}}", events.join(",")).as_bytes(),
            &LIMITS,
        )
    };
    assert_eq!(of(&[event, event]).map(|events| events.len()), Ok(2));
    assert_eq!(of(&[]).map(|events| events.len()), Ok(0));
    let error = of(&[event; 3]).unwrap_err();
    assert!(error.status() == 400 && error.to_string().contains("Batch too large"));
    assert_eq!(of(&[event, "{}"]).unwrap_err().status(), 400);
    assert_eq!(batch(b"{}", &LIMITS).unwrap_err().status(), 400);
}

#[test]
fn what_is_wrong_with_a_body_is_said_without_its_words() {
    for body in [
        "\"very private\"",
        "[\"very private\",\"very private\"]",
        r#"{"name":{"a":"very private"}}"#,
        "{\"very private",
    ] {
        let error = trigger(body.as_bytes(), &LIMITS).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("private"), "{error}");
    }
    let long = format!("\"{}\"", "x".repeat(100_000));
    assert!(trigger(long.as_bytes(), &LIMITS).unwrap_err().to_string().len() < 200);
}

proptest::proptest! {
    /// Whatever a back end sends, signed or not, it is told what is wrong, in a sentence.
    #[test]
    fn no_request_comes_to_harm(
        query in proptest::option::of("[a-z_=&%\\[\\]0-9]{0,60}"),
        body in proptest::collection::vec(proptest::sample::select(PIECES), 0..20),
    ) {
        let body = body.concat();
        if let Ok(signed) = Signed::new(query.as_deref()) {
            let _ = signed.check_body(body.as_bytes());
        }
        for refusal in [trigger(body.as_bytes(), &LIMITS).err(), batch(body.as_bytes(), &LIMITS).err()] {
            let text = refusal.map(|refusal| refusal.to_string()).unwrap_or_default();
            proptest::prop_assert!(text.len() < 1_000, "{}", text);
        }
    }
}

/// What bodies are made of.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"name\"",
    "\"channel\"",
    "\"channels\"",
    "\"data\"",
    "\"info\"",
    "\"batch\"",
    "\"socket_id\"",
    "\"1.2\"",
    "\"a\"",
    "\"presence-a\"",
    "\"pusher:a\"",
    "null",
    "true",
    "1e999",
    "\"\\ud800\"",
    "\u{0}",
    "\"",
];
