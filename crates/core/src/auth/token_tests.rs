//! Tokens in, grants or errors out; and every way of RFC 8725 to slip one through.

use std::fmt::Write as _;
use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _,
};
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use proptest::prelude::*;

use super::*;

const KEY: &str = "a key of at least thirty-two bytes";
const NOW: u64 = 1_764_540_000;

/// What a PHP page makes with the recipe of `plain.md` section 5, that key and these claims:
/// `['sub' => '42', 'listen' => ['orders', 'room/*'], 'speak' => ['room/7'], 'exp' => 1764547200]`.
const BY_PHP: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
    eyJzdWIiOiI0MiIsImxpc3RlbiI6WyJvcmRlcnMiLCJyb29tLyoiXSwic3BlYWsiOlsicm9vbS83Il0sImV4cCI6MTc2NDU0NzIwMH0.\
    skX4fTRunmbN1QHG-AoUspPrMtfkD8I2SsFRTPyJ1TI";

/// A pair of keys of somebody who signs tokens.
struct Signer {
    algorithm: Algorithm,
    private: EncodingKey,
    pem: String,
}

fn pem(spki: &[u8]) -> String {
    let text = STANDARD.encode(spki);
    let lines = text.as_bytes().chunks(64).fold(String::new(), |mut lines, line| {
        let _ = writeln!(lines, "{}", String::from_utf8_lossy(line));
        lines
    });
    format!("-----BEGIN PUBLIC KEY-----\n{lines}-----END PUBLIC KEY-----\n")
}

impl Signer {
    fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = aws_lc_rs::signature::KeyPair::public_key(&pair).as_der().unwrap();
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let private = private_pem(pkcs8.as_ref());
        Self {
            algorithm: Algorithm::RS256,
            private: EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(),
            pem: pem(public.as_ref()),
        }
    }

    fn ec() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        Self {
            algorithm: Algorithm::ES256,
            private: EncodingKey::from_ec_der(pkcs8.as_ref()),
            pem: pem(pair.public_key().as_der().unwrap().as_ref()),
        }
    }

    fn ed() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        Self {
            algorithm: Algorithm::EdDSA,
            private: EncodingKey::from_ed_der(pkcs8.as_ref()),
            pem: pem(pair.public_key().as_der().unwrap().as_ref()),
        }
    }

    fn public(&self) -> VerifyingKey {
        VerifyingKey::from_pem(self.pem.as_bytes()).unwrap()
    }

    fn jwk(&self, id: Option<&str>) -> serde_json::Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = id.map(str::to_owned);
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        sign_with(header, claims, &self.private, self.algorithm)
    }

    /// With the header that its algorithm wants.
    fn token(&self, claims: &str) -> String {
        self.sign(&format!(r#"{{"alg":"{:?}"}}"#, self.algorithm), claims)
    }
}

fn private_pem(pkcs8: &[u8]) -> String {
    pem(pkcs8).replace("PUBLIC", "PRIVATE")
}

fn sign_with(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let signed = [header, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let signature = crypto::sign(signed.as_bytes(), key, algorithm).unwrap();
    format!("{signed}.{signature}")
}

/// Made once: an RSA key takes a while.
fn signers() -> &'static [Signer; 3] {
    static SIGNERS: OnceLock<[Signer; 3]> = OnceLock::new();
    SIGNERS.get_or_init(|| [Signer::rsa(), Signer::ec(), Signer::ed()])
}

fn secret() -> VerifyingKey {
    VerifyingKey::from_secret(&Secret::new(KEY)).unwrap()
}

fn rules() -> TokenRules {
    TokenRules {
        exp_required: true,
        ..TokenRules::default()
    }
}

/// The server's key and all public ones.
fn verifier() -> Verifier {
    let keys = [secret()].into_iter().chain(signers().iter().map(Signer::public));
    Verifier::new(keys.collect(), rules())
}

fn hs256(header: &str, claims: &str) -> String {
    sign_with(
        header,
        claims,
        &EncodingKey::from_secret(KEY.as_bytes()),
        Algorithm::HS256,
    )
}

const EXP: &str = r#"{"exp":1764547200}"#;

#[test]
fn what_php_makes_is_understood() {
    let grant = verifier().verify(BY_PHP, NOW).unwrap();
    let patterns = |texts: &[&str]| -> Vec<ChannelPattern> {
        texts
            .iter()
            .map(|text| ChannelPattern::new(text).unwrap())
            .collect()
    };
    let expected = Grant {
        user: UserId::new("42").ok(),
        listen: patterns(&["orders", "room/*"]),
        speak: patterns(&["room/7"]),
        expires: Some(1_764_547_200),
    };
    assert_eq!(grant, expected);
}

#[test]
fn our_own_tokens_are_what_php_makes() {
    let claims = r#"{"sub":"42","listen":["orders","room/*"],"speak":["room/7"],"exp":1764547200}"#;
    assert_eq!(sign(claims, &Secret::new(KEY)).unwrap(), BY_PHP);
}

#[test]
fn each_kind_of_key_is_good_for_its_own_algorithm() {
    for signer in signers() {
        let token = signer.token(EXP);
        assert_eq!(
            verifier().verify(&token, NOW).map(|grant| grant.expires),
            Ok(Some(1_764_547_200))
        );
        let jwks = serde_json::json!({"keys": [signer.jwk(Some("k"))]}).to_string();
        let fetched = VerifyingKey::from_jwks(jwks.as_bytes()).unwrap();
        let verifier = Verifier::new(Vec::new(), rules()).with_fetched(fetched);
        assert!(
            verifier.verify(&token, NOW).is_ok(),
            "{:?} by JWK",
            signer.algorithm
        );
        let other = Verifier::new(vec![secret()], rules());
        assert_eq!(other.verify(&token, NOW), Err(TokenError::Algorithm));
    }
}

/// A token's claims, and what is wrong with them.
#[track_caller]
fn check(claims: &str, expected: Result<(), TokenError>) {
    let token = hs256(r#"{"alg":"HS256"}"#, claims);
    assert_eq!(verifier().verify(&token, NOW).map(drop), expected, "{claims}");
}

fn claim(name: &'static str) -> Result<(), TokenError> {
    let expected = match name {
        "sub" => SUB,
        "exp" | "nbf" => "a Unix time in seconds, as a number",
        "aud" => "text or a list of texts",
        "iss" => "text",
        "mercure" => TOPICS,
        _ => PATTERNS,
    };
    Err(TokenError::Claim { name, expected })
}

/// [`check`] of a claim beside a good `exp`.
#[track_caller]
fn check_claim(member: &str, expected: Result<(), TokenError>) {
    check(&format!(r#"{{"exp":1764547200,{member}}}"#), expected);
}

#[test]
fn times() {
    check("{}", Err(TokenError::NoExpiry));
    let at = |name: &str, time: u64| {
        format!(r#"{{"exp":1764547200,"{name}":{time}}}"#).replacen(
            "\"exp\":1764547200,\"exp\"",
            "\"exp\"",
            1,
        )
    };
    check(&at("exp", NOW + 1), Ok(()));
    check(&at("exp", NOW - 59), Ok(()));
    check(&at("exp", NOW - 60), Err(TokenError::Expired));
    check(&at("exp", 0), Err(TokenError::Expired));
    check(&at("exp", u64::MAX), Ok(()));
    check(&at("nbf", NOW + 60), Ok(()));
    check(&at("nbf", NOW + 61), Err(TokenError::NotYet));
    check(&at("nbf", u64::MAX), Err(TokenError::NotYet));
    check(r#"{"exp":1764547200.75}"#, Ok(()));
    check(r#"{"exp":1.764e9}"#, Err(TokenError::Expired));
    check(r#"{"exp":1e300}"#, claim("exp"));
    check(r#"{"exp":-1}"#, claim("exp"));
    check(r#"{"exp":"1764547200"}"#, claim("exp"));
    check(r#"{"exp":null}"#, claim("exp"));
    check(r#"{"exp":[1764547200]}"#, claim("exp"));
    check_claim(r#""nbf":"soon""#, claim("nbf"));
    let lenient = Verifier::new(vec![secret()], TokenRules::default());
    assert!(lenient.verify(&hs256(r#"{"alg":"HS256"}"#, "{}"), NOW).is_ok());
}

#[test]
fn a_claim_of_another_form_refuses_the_token() {
    check_claim(r#""sub":"42""#, Ok(()));
    check_claim(r#""sub":42"#, claim("sub"));
    check_claim(r#""sub":null"#, claim("sub"));
    check_claim(r#""sub":"""#, claim("sub"));
    check_claim(r#""sub":"4\n2""#, claim("sub"));
    check_claim(&format!(r#""sub":"{}""#, "x".repeat(128)), Ok(()));
    check_claim(&format!(r#""sub":"{}""#, "x".repeat(129)), claim("sub"));
    for name in ["listen", "speak"] {
        check_claim(&format!(r#""{name}":[]"#), Ok(()));
        check_claim(&format!(r#""{name}":["*","a/*","b"]"#), Ok(()));
        check_claim(&format!(r#""{name}":"a""#), claim(name));
        check_claim(&format!(r#""{name}":null"#), claim(name));
        check_claim(&format!(r#""{name}":[7]"#), claim(name));
        check_claim(&format!(r#""{name}":["a",null]"#), claim(name));
        check_claim(&format!(r#""{name}":{{"0":"a"}}"#), claim(name));
        check_claim(&format!(r#""{name}":[""]"#), claim(name));
        let many = |count: usize| format!(r#""{name}":[{}]"#, vec!["\"a\""; count].join(","));
        check_claim(&many(200), Ok(()));
        check_claim(&many(201), Err(TokenError::TooMany(name)));
    }
    check_claim(r#""mercure":{}"#, Ok(()));
    check_claim(r#""mercure":{"subscribe":["a"],"publish":7}"#, Ok(()));
    check_claim(r#""mercure":[]"#, claim("mercure"));
    check_claim(r#""mercure":{"subscribe":"*"}"#, claim("mercure"));
    check_claim(r#""mercure":{"subscribe":[1]}"#, claim("mercure"));
    check_claim(
        r#""mercure":{"subscribe":[],"subscribe":["*"]}"#,
        claim("mercure"),
    );
    check_claim(r#""aud":"a""#, Ok(()));
    check_claim(r#""aud":7"#, claim("aud"));
    check_claim(r#""aud":["a",7]"#, claim("aud"));
    check_claim(r#""iss":["a"]"#, claim("iss"));
    // What we do not know may be anything.
    check_claim(r#""name":{"first":["Ann"]},"iat":"yesterday""#, Ok(()));
}

#[test]
fn a_name_that_stands_twice_refuses_the_token() {
    check_claim(r#""exp":9999999999"#, Err(TokenError::Claims));
    check_claim(r#""x":1,"x":1"#, Err(TokenError::Claims));
    check_claim(r#""sub":"a","\u0073ub":"b""#, Err(TokenError::Claims));
    check("[]", Err(TokenError::Claims));
    check("", Err(TokenError::Claims));
    check("{} {}", Err(TokenError::Claims));
    check(&format!("{{\"x\":{}", "[".repeat(4_000)), Err(TokenError::Claims));
    let token = hs256(r#"{"alg":"HS256","alg":"HS256"}"#, EXP);
    assert_eq!(verifier().verify(&token, NOW), Err(TokenError::Header));
}

#[test]
fn mercure_topics_are_names_or_everything() {
    #[track_caller]
    fn check(topics: &str, heard: &[&str], unheard: &[&str]) {
        let claims = format!(r#"{{"exp":1764547200,"mercure":{{"subscribe":{topics}}}}}"#);
        let grant = verifier()
            .verify(&hs256(r#"{"alg":"HS256"}"#, &claims), NOW)
            .unwrap();
        for (names, expected) in [(heard, true), (unheard, false)] {
            for name in names {
                let name = ChannelName::new(name).unwrap();
                assert_eq!(grant.listens_to(&name), expected, "{name} by {topics}");
            }
        }
    }
    check(r#"["*"]"#, &["a", "private/7"], &[]);
    check(r#"["a/*"]"#, &["a/*"], &["a/b"]);
    check(r#"["a","b/{id}"]"#, &["a"], &["b/7", "b/{id}"]);
}

#[test]
fn audience_and_issuer_count_where_they_are_set() {
    #[track_caller]
    fn check(members: &str, expected: Result<(), TokenError>) {
        let rules = TokenRules {
            audience: Some("fanfare".to_owned()),
            issuer: Some("https://id.example".to_owned()),
            ..TokenRules::default()
        };
        let token = hs256(r#"{"alg":"HS256"}"#, members);
        let got = Verifier::new(vec![secret()], rules).verify(&token, NOW).map(drop);
        assert_eq!(got, expected, "{members}");
    }
    check(r#"{"aud":"fanfare","iss":"https://id.example"}"#, Ok(()));
    check(r#"{"aud":["x","fanfare"],"iss":"https://id.example"}"#, Ok(()));
    check(
        r#"{"aud":["x"],"iss":"https://id.example"}"#,
        Err(TokenError::Audience),
    );
    check(
        r#"{"aud":"fanfare2","iss":"https://id.example"}"#,
        Err(TokenError::Audience),
    );
    check(r#"{"iss":"https://id.example"}"#, Err(TokenError::Audience));
    check(
        r#"{"aud":"fanfare","iss":"https://id.example.org"}"#,
        Err(TokenError::Issuer),
    );
    check(r#"{"aud":"fanfare"}"#, Err(TokenError::Issuer));
}

/// A header, and what is wrong with it, though the signature is good.
#[track_caller]
fn check_header(header: &str, expected: Result<(), TokenError>) {
    let token = hs256(header, EXP);
    assert_eq!(verifier().verify(&token, NOW).map(drop), expected, "{header}");
}

#[test]
fn a_header_leads_nowhere() {
    check_header(r#"{"alg":"HS256","typ":"JWT"}"#, Ok(()));
    check_header(r#"{"alg":"HS256","kid":"whatever"}"#, Ok(()));
    check_header(r#"{"alg":"HS256","kid":"../../etc/passwd"}"#, Ok(()));
    check_header(r#"{"alg":"HS256","kid":7}"#, Err(TokenError::Header));
    for name in ["jku", "jwk", "x5u", "x5c", "crit"] {
        let header = format!(r#"{{"alg":"HS256","{name}":["exp"]}}"#);
        check_header(&header, Err(TokenError::HeaderParameter(name)));
    }
    check_header("{}", Err(TokenError::Header));
    check_header(r#"{"alg":null}"#, Err(TokenError::Header));
    check_header(r#"{"alg":["HS256"]}"#, Err(TokenError::Header));
    check_header("7", Err(TokenError::Header));
}

/// RFC 8725 section 2.1 and 3.1: the header cannot choose how a signature is checked.
#[test]
fn algorithms_cannot_be_confused() {
    for none in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256"] {
        let header = format!(r#"{{"alg":"{none}"}}"#);
        check_header(&header, Err(TokenError::Algorithm));
        let signed = [header.as_str(), EXP]
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .join(".");
        assert_eq!(
            verifier().verify(&format!("{signed}."), NOW),
            Err(TokenError::Algorithm)
        );
    }
    let names = [
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384",
        "EdDSA",
    ];
    for signer in signers() {
        for name in names {
            let header = format!(r#"{{"alg":"{name}"}}"#);
            let is_own = name == format!("{:?}", signer.algorithm);
            // Signed as it should be, under another name.
            let token = signer.sign(&header, EXP);
            assert_eq!(
                verifier().verify(&token, NOW).is_ok(),
                is_own,
                "{:?} as {name}",
                signer.algorithm
            );
            // The public key, which everybody knows, as the secret of an HMAC.
            let (public, der) = (signer.pem.as_bytes(), STANDARD.decode(body(&signer.pem)).unwrap());
            for secret in [public, signer.pem.trim_end().as_bytes(), &der] {
                let token = sign_with(&header, EXP, &EncodingKey::from_secret(secret), Algorithm::HS256);
                assert!(
                    verifier().verify(&token, NOW).is_err(),
                    "{name} with a public key as secret"
                );
            }
            // With the server's secret, under another name.
            let token = hs256(&header, EXP);
            assert_eq!(
                verifier().verify(&token, NOW).is_ok(),
                name == "HS256",
                "{name} with the secret"
            );
        }
    }
    // HS384 and HS512 with the right secret are not what the key is for.
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let key = EncodingKey::from_secret(KEY.as_bytes());
        for header in [
            format!(r#"{{"alg":"{algorithm:?}"}}"#),
            r#"{"alg":"HS256"}"#.to_owned(),
        ] {
            assert!(
                verifier()
                    .verify(&sign_with(&header, EXP, &key, algorithm), NOW)
                    .is_err()
            );
        }
    }
    // No signature at all, and one of nothing.
    for signature in ["", "AA", &"A".repeat(43), &"A".repeat(86)] {
        for name in ["HS256", "RS256", "ES256", "EdDSA"] {
            let signed =
                [format!(r#"{{"alg":"{name}"}}"#).as_str(), EXP].map(|part| URL_SAFE_NO_PAD.encode(part));
            let token = format!("{}.{signature}", signed.join("."));
            assert_eq!(
                verifier().verify(&token, NOW),
                Err(TokenError::Signature),
                "{name} {signature:?}"
            );
        }
    }
}

fn body(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

#[test]
fn every_bit_of_a_token_counts() {
    let verifier = verifier();
    let claims = r#"{"sub":"42","listen":["a"],"exp":1764547200}"#;
    let tokens = signers().iter().map(|signer| signer.token(claims));
    for token in tokens.chain([BY_PHP.to_owned()]) {
        assert!(verifier.verify(&token, NOW).is_ok());
        let mut bytes = token.clone().into_bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                if let Ok(changed) = std::str::from_utf8(&bytes) {
                    assert!(
                        verifier.verify(changed, NOW).is_err(),
                        "bit {bit} of byte {at}: {changed}"
                    );
                }
                bytes[at] ^= 1 << bit;
            }
        }
        for cut in [token.len() - 1, token.len() / 2, 1, 0] {
            assert!(verifier.verify(&token[..cut], NOW).is_err());
        }
        for longer in [
            format!("{token}A"),
            format!("{token}="),
            format!("{token}."),
            format!(" {token}"),
        ] {
            assert!(verifier.verify(&longer, NOW).is_err(), "{longer}");
        }
    }
}

#[test]
fn a_token_has_a_largest_size() {
    let header = r#"{"alg":"HS256"}"#;
    let sized = |bytes: usize| {
        let token = |padding: usize| {
            hs256(
                header,
                &format!(r#"{{"exp":1764547200,"x":"{}"}}"#, "x".repeat(padding)),
            )
        };
        (0..bytes)
            .rev()
            .map(token)
            .find(|token| token.len() <= bytes)
            .unwrap()
    };
    let (fits, more) = (sized(TOKEN_BYTES_MAX), sized(TOKEN_BYTES_MAX + 2));
    assert!(fits.len() > TOKEN_BYTES_MAX - 2 && more.len() > TOKEN_BYTES_MAX);
    assert!(verifier().verify(&fits, NOW).is_ok());
    assert_eq!(verifier().verify(&more, NOW), Err(TokenError::TooLarge));
}

#[test]
fn kid_selects_among_the_keys_that_are_here() {
    let [_, ec, _] = signers();
    let other = Signer::ec();
    let jwks = serde_json::json!({"keys": [ec.jwk(Some("a")), other.jwk(Some("b"))]}).to_string();
    let fetched = VerifyingKey::from_jwks(jwks.as_bytes()).unwrap();
    let rules = TokenRules {
        keys_are_fetched: true,
        ..rules()
    };
    let empty = Verifier::new(vec![secret()], rules);
    let verifier = empty.with_fetched(fetched);
    let check = |verifier: &Verifier, header: &str, expected: Result<(), TokenError>| {
        assert_eq!(
            verifier.verify(&ec.sign(header, EXP), NOW).map(drop),
            expected,
            "{header}"
        );
    };
    check(&verifier, r#"{"alg":"ES256","kid":"a"}"#, Ok(()));
    check(&verifier, r#"{"alg":"ES256"}"#, Ok(()));
    check(
        &verifier,
        r#"{"alg":"ES256","kid":"b"}"#,
        Err(TokenError::Signature),
    );
    check(
        &verifier,
        r#"{"alg":"ES256","kid":"c"}"#,
        Err(TokenError::UnknownKey),
    );
    check(
        &verifier,
        r#"{"alg":"HS384","kid":"c"}"#,
        Err(TokenError::Algorithm),
    );
    check(&empty, r#"{"alg":"ES256"}"#, Err(TokenError::UnknownKey));
    check(
        &empty,
        r#"{"alg":"ES256","kid":"a"}"#,
        Err(TokenError::UnknownKey),
    );
    // Looking for new keys cannot help these.
    check(
        &verifier,
        r#"{"alg":"HS256","kid":"c"}"#,
        Err(TokenError::Signature),
    );
    let own = Verifier::new(vec![ec.public()], super::TokenRules::default());
    check(&own, r#"{"alg":"ES256","kid":"c"}"#, Ok(()));
    // A key can be changed without a gap.
    let both = Verifier::new(
        vec![VerifyingKey::from_secret(&Secret::new("new")).unwrap(), secret()],
        super::TokenRules::default(),
    );
    assert!(both.verify(BY_PHP, NOW).is_ok());
}

#[test]
fn keys_that_cannot_be_used_are_refused_or_left_out() {
    #[track_caller]
    fn check(pem: &str, expected: KeyError) {
        assert_eq!(
            VerifyingKey::from_pem(pem.as_bytes()).map(drop),
            Err(expected),
            "{pem}"
        );
    }
    check("", KeyError::NotPublic);
    check("-----BEGIN PUBLIC KEY-----\n", KeyError::NotPublic);
    check(
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        KeyError::NotPublic,
    );
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    check(
        &private_pem(pair.to_pkcs8v1().unwrap().as_ref()),
        KeyError::NotPublic,
    );
    check(&pem(pair.public_key().as_der().unwrap().as_ref()), KeyError::Kind);
    assert!(VerifyingKey::from_secret(&Secret::new("")).is_none());

    let [rsa, ec, ed] = signers();
    let with = |mut jwk: serde_json::Value, name: &str, value: &str| {
        jwk[name] = value.into();
        jwk
    };
    let count = |keys: Vec<serde_json::Value>| {
        let set = serde_json::json!({"keys": keys}).to_string();
        VerifyingKey::from_jwks(set.as_bytes()).map(|keys| keys.len())
    };
    assert_eq!(count(vec![rsa.jwk(None), ec.jwk(None), ed.jwk(None)]), Ok(3));
    assert_eq!(count(vec![with(rsa.jwk(None), "use", "enc")]), Ok(0));
    assert_eq!(count(vec![with(rsa.jwk(None), "alg", "PS256")]), Ok(0));
    assert_eq!(count(vec![with(ec.jwk(None), "crv", "P-384")]), Ok(0));
    assert_eq!(count(vec![with(ed.jwk(None), "crv", "X25519")]), Ok(0));
    assert_eq!(count(vec![with(ec.jwk(None), "x", "AA")]), Ok(0));
    assert_eq!(
        count(vec![serde_json::json!({"kty": "oct", "k": "c2VjcmV0"})]),
        Ok(0)
    );
    assert_eq!(count(vec![serde_json::json!(7), ec.jwk(None)]), Ok(1));
    assert_eq!(count(vec![ec.jwk(None); 100]), Ok(100));
    assert_eq!(count(vec![ec.jwk(None); 101]), Err(KeyError::TooMany));
    assert_eq!(
        VerifyingKey::from_jwks(b"<html>").map(drop),
        Err(KeyError::NotASet)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Whatever is shown, it is judged, and only what was signed is good.
    #[test]
    fn no_text_is_good_by_chance(text in "[A-Za-z0-9_.{}\":-]{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let own = Verifier::new(vec![secret()], TokenRules::default());
        prop_assert!(own.verify(&text, NOW).is_err());
        let part = URL_SAFE_NO_PAD.encode(&bytes);
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        for token in [format!("{part}.{part}.{part}"), format!("{header}.{part}.{part}")] {
            prop_assert!(own.verify(&token, NOW).is_err());
        }
        // Signed, so that the claims are read: any answer will do, as long as there is one.
        let signed = format!("{header}.{part}");
        let key = EncodingKey::from_secret(KEY.as_bytes());
        let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
        let _ = own.verify(&format!("{signed}.{signature}"), NOW);
    }
}
