//! What the peers of the conversations in the tests send.

/// A client's frame: masked, as RFC 6455 section 5.1 demands.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![first];
    if let Ok(len @ 0..126) = u8::try_from(payload.len()) {
        bytes.push(0x80 + len);
    } else {
        bytes.push(0x80 + 126);
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// A line of a conversation: `text hello`, `binary ff00`, `ping x`, `close 1000`, `part he` (a text begun
/// and not finished), `rest llo` (its end) or `raw 81 05` (bytes as they are).
pub(super) fn client(words: &str) -> Vec<u8> {
    let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
    match verb {
        "text" => frame(0x81, rest.as_bytes()),
        "binary" => frame(0x82, &hex(rest)),
        "ping" => frame(0x89, rest.as_bytes()),
        "pong" => frame(0x8a, rest.as_bytes()),
        "part" => frame(0x01, rest.as_bytes()),
        "rest" => frame(0x80, rest.as_bytes()),
        "close" if rest.is_empty() => frame(0x88, b""),
        "close" => frame(0x88, &rest.parse::<u16>().unwrap().to_be_bytes()),
        "raw" => hex(rest),
        _ => panic!("unknown verb {verb}"),
    }
}
