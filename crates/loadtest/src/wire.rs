//! The client's side of what servers send: answer heads, `WebSocket` frames, event streams, and
//! the answers to POSTs. Written apart from the server's code, since a judge that shares code with
//! what it judges shares its mistakes.
//!
//! All readers take what has arrived and say how much of it they have used; the caller keeps the
//! rest and shows it again with more behind it. Nothing here is meant for hostile servers.

/// The head of an HTTP answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AnswerHead {
    pub(crate) status: u16,
    /// Bytes of the head.
    pub(crate) len: usize,
    pub(crate) content_length: Option<usize>,
    pub(crate) chunked: bool,
}

/// Reads an answer's head; `None` when it is not whole yet, or no head at all and never will be.
pub(crate) fn answer_head(input: &[u8]) -> Option<AnswerHead> {
    let len = memchr::memmem::find(input, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(input.get(..len)?);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut answer = AnswerHead {
        status,
        len,
        content_length: None,
        chunked: false,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            answer.content_length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            answer.chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    Some(answer)
}

/// A whole answer to a POST at the front of `input`: its status and its length.
pub(crate) fn whole_answer(input: &[u8]) -> Option<(u16, usize)> {
    let head = answer_head(input)?;
    let body = input.get(head.len..)?;
    if !head.chunked {
        let len = head.content_length.unwrap_or(0);
        return (body.len() >= len).then_some((head.status, head.len + len));
    }
    let mut at = 0;
    loop {
        let (size, line) = chunk_head(body.get(at..)?)?;
        at += line + size + 2;
        body.get(..at)?;
        if size == 0 {
            return Some((head.status, head.len + at));
        }
    }
}

/// The size in a chunk's head, and the head's length.
fn chunk_head(input: &[u8]) -> Option<(usize, usize)> {
    let line = memchr::memmem::find(input, b"\r\n")?;
    let digits = std::str::from_utf8(input.get(..line)?).ok()?;
    let digits = digits.split(';').next()?.trim();
    Some((usize::from_str_radix(digits, 16).ok()?, line + 2))
}

/// A frame that a server sends.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Frame<'a> {
    /// Text or binary, or a piece of one.
    Data(&'a [u8]),
    /// To be answered with the same bytes.
    Ping(&'a [u8]),
    /// The answer to a ping.
    Pong(&'a [u8]),
    /// The code, 1005 when there is none.
    Close(u16),
    /// Nothing to do.
    Other,
}

/// The frame at the front of `input` and its length; `None` when it is not whole.
pub(crate) fn frame(input: &[u8]) -> Option<(Frame<'_>, usize)> {
    let (&[first, second], rest) = input.split_first_chunk()?;
    let (len, head) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    let end = head + usize::try_from(len).ok()?;
    let payload = input.get(head..end)?;
    let frame = match first & 0x0f {
        0..=2 => Frame::Data(payload),
        8 => Frame::Close(
            payload
                .first_chunk()
                .map_or(1005, |code| u16::from_be_bytes(*code)),
        ),
        9 => Frame::Ping(payload),
        10 => Frame::Pong(payload),
        _ => Frame::Other,
    };
    Some((frame, end))
}

/// A client's pong. The mask is zero: allowed, and cheap.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    control(0x8a, payload)
}

/// A client's ping.
pub(crate) fn ping(payload: &[u8]) -> Vec<u8> {
    control(0x89, payload)
}

/// A client's goodbye.
pub(crate) fn close(code: u16) -> Vec<u8> {
    control(0x88, &code.to_be_bytes())
}

fn control(first: u8, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..payload.len().min(125)).unwrap_or_default();
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap_or(0), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// A client's text message, masked with zero.
pub(crate) fn text(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ 0..=125), _) => frame.push(0x80 | len),
        (_, Ok(len)) => {
            frame.push(0xfe);
            frame.extend(len.to_be_bytes());
        }
        _ => {
            frame.push(0xff);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Calls `line` with each whole line of an event stream at the front of `input`; returns how many
/// bytes that was.
pub(crate) fn lines<'a>(input: &'a [u8], mut line: impl FnMut(&'a [u8])) -> usize {
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', input) {
        line(input.get(begin..end).unwrap_or_default());
        begin = end + 1;
    }
    begin
}

/// Takes the chunks off a body of unknown length.
#[derive(Debug, Default)]
pub(crate) struct Dechunker {
    head: Vec<u8>,
    left: usize,
    /// Line end behind a chunk that is still to come.
    tail: usize,
}

impl Dechunker {
    /// Appends what `input` carries to `body`. Returns whether the last chunk has come.
    pub(crate) fn take(&mut self, mut input: &[u8], body: &mut Vec<u8>) -> bool {
        while let Some(&byte) = input.first() {
            if self.left > 0 {
                let (data, rest) = input.split_at(self.left.min(input.len()));
                body.extend_from_slice(data);
                self.left -= data.len();
                input = rest;
            } else if self.tail > 0 {
                self.tail -= 1;
                input = input.get(1..).unwrap_or_default();
            } else {
                self.head.push(byte);
                input = input.get(1..).unwrap_or_default();
                if let Some((size, _)) = chunk_head(&self.head) {
                    self.head.clear();
                    if size == 0 {
                        return true;
                    }
                    (self.left, self.tail) = (size, 2);
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_answer(input: &str, expected: Option<(u16, usize)>) {
        assert_eq!(whole_answer(input.as_bytes()), expected, "{input:?}");
    }

    #[test]
    fn answers_are_whole_only_with_their_body() {
        check_answer("HTTP/1.1 204 No Content\r\n\r\n", Some((204, 27)));
        check_answer(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP",
            Some((200, 40)),
        );
        check_answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", None);
        check_answer("HTTP/1.1 200 OK\r\ncontent-le", None);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        check_answer(chunked, Some((200, chunked.len())));
        check_answer(&chunked[..chunked.len() - 1], None);
    }

    #[track_caller]
    fn check_frame(input: &[u8], expected: Option<(Frame<'_>, usize)>) {
        assert_eq!(frame(input), expected, "{input:x?}");
    }

    #[test]
    fn frames_of_each_length_and_kind() {
        check_frame(b"\x81\x02hi\x81", Some((Frame::Data(b"hi"), 4)));
        check_frame(b"\x81\x02h", None);
        check_frame(b"\x82\x7e\x00", None);
        let mut long = b"\x82\x7e\x01\x00".to_vec();
        long.resize(4 + 256, 7);
        check_frame(&long, Some((Frame::Data(&[7; 256]), 260)));
        check_frame(b"\x89\x01x", Some((Frame::Ping(b"x"), 3)));
        check_frame(b"\x8a\x01x", Some((Frame::Pong(b"x"), 3)));
        check_frame(b"\x88\x02\x11\x38", Some((Frame::Close(4408), 4)));
        check_frame(b"\x88\x00", Some((Frame::Close(1005), 2)));
    }

    #[test]
    fn chunks_come_off_wherever_they_are_cut() {
        let input = b"3\r\nabc\r\n5;x=1\r\ndefgh\r\n0\r\n\r\n";
        for cut in 0..input.len() {
            let (mut dechunker, mut body) = (Dechunker::default(), Vec::new());
            let first = dechunker.take(&input[..cut], &mut body);
            let last = first || dechunker.take(&input[cut..], &mut body);
            assert_eq!((body.as_slice(), last), (&b"abcdefgh"[..], true), "cut at {cut}");
        }
    }

    #[test]
    fn lines_stop_at_the_last_whole_one() {
        let mut seen = Vec::new();
        let used = lines(b"a\n\nbc\nd", |line| seen.push(line));
        assert_eq!((seen, used), (vec![&b"a"[..], b"", b"bc"], 6));
    }
}
