//! What a client offers in `Sec-WebSocket-Extensions`, and our answer (RFC 6455 section 9.1,
//! RFC 7692 section 7.1).
//!
//! Only permessage-deflate is known, and only without context takeover: both sides begin each
//! message with an empty window, so one compressed frame serves every listener
//! ([`super::deflate`]). A client that would rather keep its window is told not to, which
//! section 7.1.1.2 lets a server do.
//!
//! Invariant: what cannot be used is declined, never an error. An unknown extension, an unknown,
//! repeated or senseless parameter, or one that we cannot meet declines that one offer, and the
//! next is looked at; without an acceptable offer the connection is simply not compressed.
//!
//! This module does not compress, and does not decide whether compression is wanted at all.

use std::borrow::Cow;

use super::deflate::WINDOW_BITS;

/// What both sides will do, as agreed in the handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Agreement {
    /// The largest window that the client asked us to use; named in the answer if it did.
    server_max_window_bits: Option<u8>,
}

impl Agreement {
    /// The value of `Sec-WebSocket-Extensions` in the answer.
    pub fn field(self) -> String {
        const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        match self.server_max_window_bits {
            None => ANSWER.to_owned(),
            Some(bits) => format!("{ANSWER}; server_max_window_bits={bits}"),
        }
    }
}

/// Looks through the offers of all `Sec-WebSocket-Extensions` fields, in the client's order of
/// preference, and accepts the first that we can meet.
///
/// A field that breaks the grammar is read up to there.
pub fn negotiate<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Option<Agreement> {
    fields.into_iter().find_map(|field| {
        let mut reader = Reader { rest: field };
        loop {
            match reader.offer()? {
                Offer::Acceptable(agreement) => return Some(agreement),
                Offer::Declined => {}
            }
        }
    })
}

enum Offer {
    Acceptable(Agreement),
    Declined,
}

/// Parameters of one offer, as far as they have been read. Each may come once.
#[derive(Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    client_max_window_bits: bool,
    server_max_window_bits: Option<u8>,
}

impl Parameters {
    /// Takes one parameter; `false`: the offer cannot be accepted.
    fn take(&mut self, name: &[u8], value: Option<&[u8]>) -> bool {
        match (name, value) {
            (b"server_no_context_takeover", None) => {
                !std::mem::replace(&mut self.server_no_context_takeover, true)
            }
            (b"client_no_context_takeover", None) => {
                !std::mem::replace(&mut self.client_no_context_takeover, true)
            }
            // A hint only (section 7.1.2.2): whatever the client's window is, ours is the largest.
            (b"client_max_window_bits", value) => {
                let known = std::mem::replace(&mut self.client_max_window_bits, true);
                !known && value.is_none_or(|value| window_bits(value).is_some())
            }
            // One frame serves all, so its window is the same for all, and who wants a smaller
            // one must do without (section 7.1.2.1 lets a server decline).
            (b"server_max_window_bits", Some(value)) => {
                let bits = window_bits(value).filter(|bits| *bits >= WINDOW_BITS);
                bits.is_some() && std::mem::replace(&mut self.server_max_window_bits, bits).is_none()
            }
            _ => false,
        }
    }
}

/// 8 to 15, in decimal and without leading zeros (section 7.1.2).
fn window_bits(value: &[u8]) -> Option<u8> {
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// Reads `extension-list` of RFC 6455 section 9.1: `name; parameter; parameter=value, name`.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next offer; `None` at the end, and at the first thing that breaks the grammar.
    fn offer(&mut self) -> Option<Offer> {
        // Empty list elements are allowed (RFC 9110 section 5.6.1.2).
        while self.skip(b',') {}
        let mut acceptable = self.token()? == b"permessage-deflate";
        let mut parameters = Parameters::default();
        while self.skip(b';') {
            let name = self.token()?;
            let value = if self.skip(b'=') {
                Some(self.value()?)
            } else {
                None
            };
            acceptable = acceptable && parameters.take(name, value.as_deref());
        }
        self.skip_space();
        if !self.rest.is_empty() && self.rest.first() != Some(&b',') {
            return None;
        }
        Some(if acceptable {
            Offer::Acceptable(Agreement {
                server_max_window_bits: parameters.server_max_window_bits,
            })
        } else {
            Offer::Declined
        })
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    /// Skips this byte and the white space around it, if it comes next.
    fn skip(&mut self, byte: u8) -> bool {
        self.skip_space();
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                self.skip_space();
                true
            }
            _ => false,
        }
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| !is_token(*byte));
        let (token, rest) = self.rest.split_at_checked(end.unwrap_or(self.rest.len()))?;
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A token, bare or quoted; what is in the quotes must be a token too.
    fn value(&mut self) -> Option<Cow<'a, [u8]>> {
        let Some((b'"', mut rest)) = self.rest.split_first() else {
            return self.token().map(Cow::Borrowed);
        };
        let mut text = Vec::new();
        loop {
            let (first, tail) = rest.split_first()?;
            rest = tail;
            let byte = match first {
                b'"' => break,
                b'\\' => {
                    let (escaped, tail) = rest.split_first()?;
                    rest = tail;
                    escaped
                }
                byte => byte,
            };
            text.push(*byte);
        }
        self.rest = rest;
        (!text.is_empty() && text.iter().all(|byte| is_token(*byte))).then_some(Cow::Owned(text))
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields of an offer, and what is answered; a number stands for our usual answer with that
    /// window named, 0 without.
    #[track_caller]
    fn check(fields: &[&str], expected: Option<u8>) {
        let got = negotiate(fields.iter().map(|field| field.as_bytes()));
        let expected = expected.map(|bits| Agreement {
            server_max_window_bits: (bits > 0).then_some(bits),
        });
        assert_eq!(got, expected, "{fields:?}");
    }

    #[test]
    fn the_answer() {
        let answer = |field: &str| negotiate([field.as_bytes()]).map(Agreement::field);
        assert_eq!(
            answer("permessage-deflate; client_max_window_bits").as_deref(),
            Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
        );
        assert_eq!(
            answer("permessage-deflate; server_max_window_bits=13").as_deref(),
            Some(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=13"
            )
        );
    }

    #[test]
    fn what_clients_of_today_offer() {
        // Chromium, Firefox, Node, ws.
        check(&["permessage-deflate; client_max_window_bits"], Some(0));
        check(&["permessage-deflate"], Some(0));
        // Old WebKit, which offers its own first.
        check(&["x-webkit-deflate-frame, permessage-deflate"], Some(0));
        // Go, gorilla.
        check(
            &["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
            Some(0),
        );
        // Python, websockets with its server's own settings.
        check(
            &["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"],
            Some(12),
        );
    }

    #[test]
    fn the_first_acceptable_offer_counts() {
        check(&[], None);
        check(&[""], None);
        check(&["mux"], None);
        check(&["mux; max=4, permessage-deflate"], Some(0));
        check(
            &["permessage-deflate; server_max_window_bits=10, permessage-deflate"],
            Some(0),
        );
        check(
            &["permessage-deflate; server_max_window_bits=13, permessage-deflate"],
            Some(13),
        );
        check(
            &["mux", "permessage-deflate; server_max_window_bits=15"],
            Some(15),
        );
        check(&[" ,, permessage-deflate ,"], Some(0));
        // Names are tokens, and are compared as they are.
        check(&["permessage-deflate-2"], None);
        check(&["Permessage-Deflate"], None);
    }

    #[test]
    fn windows() {
        for bits in 8..=15_u8 {
            let server = format!("permessage-deflate; server_max_window_bits={bits}");
            check(&[&server], (bits >= WINDOW_BITS).then_some(bits));
            check(
                &[&format!("permessage-deflate; client_max_window_bits={bits}")],
                Some(0),
            );
        }
        for bad in [
            "7",
            "16",
            "08",
            "012",
            "0",
            "",
            "-9",
            "1x",
            "100000000000000000000",
        ] {
            check(
                &[&format!("permessage-deflate; server_max_window_bits={bad}")],
                None,
            );
            check(
                &[&format!("permessage-deflate; client_max_window_bits={bad}")],
                None,
            );
        }
        check(&["permessage-deflate; server_max_window_bits"], None);
    }

    #[test]
    fn values_may_be_quoted() {
        check(&["permessage-deflate; server_max_window_bits=\"13\""], Some(13));
        check(&[r#"permessage-deflate; server_max_window_bits="1\3""#], Some(13));
        check(
            &["permessage-deflate ; server_max_window_bits = \"12\" "],
            Some(12),
        );
        check(&["x; a=\"permessage-deflate\", permessage-deflate"], Some(0));
        check(&["permessage-deflate; server_max_window_bits=\"\""], None);
        check(&["permessage-deflate; server_max_window_bits=\"13"], None);
        check(&["permessage-deflate; server_max_window_bits=\"1,3\""], None);
        check(&["permessage-deflate; server_max_window_bits=\"13\\"], None);
    }

    #[test]
    fn senseless_parameters_decline_their_offer() {
        for parameters in [
            "unknown",
            "unknown=1",
            "server_no_context_takeover=1",
            "client_no_context_takeover=true",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "client_max_window_bits; client_max_window_bits=12",
            "server_max_window_bits=13; server_max_window_bits=13",
            "Server_no_context_takeover",
        ] {
            check(&[&format!("permessage-deflate; {parameters}")], None);
            let second = format!("permessage-deflate; {parameters}, permessage-deflate");
            check(&[&second], Some(0));
        }
    }

    #[test]
    fn a_broken_field_is_read_up_to_there() {
        check(&["permessage-deflate, ;;;"], Some(0));
        check(&["; permessage-deflate"], None);
        check(&["permessage-deflate;"], None);
        check(&["permessage-deflate; =1"], None);
        check(&["permessage-deflate mux, permessage-deflate"], None);
        check(&["permessage-deflate/1"], None);
        // The next field is a field of its own.
        check(&["(), x", "permessage-deflate"], Some(0));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_can_do_harm(field in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            let _ = negotiate([&field[..]]);
        }
    }
}
