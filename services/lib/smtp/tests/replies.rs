//! Replies as they are written and read.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use smtp::reply::{EnhancedCode, Reply, ReplyError, ReplyReader};

fn wire(reply: &Reply) -> String {
    let mut out = Vec::new();
    reply.write_to(&mut out);
    String::from_utf8(out).unwrap()
}

fn read(input: &[u8]) -> Vec<Result<Reply, ReplyError>> {
    let mut reader = ReplyReader::new();
    let mut replies = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let (consumed, reply) = reader.push(rest);
        rest = &rest[consumed..];
        replies.extend(reply);
        if matches!(replies.last(), Some(Err(_))) {
            break;
        }
    }
    replies
}

#[test]
fn every_line_has_the_enhanced_code() {
    let reply = Reply::new(550, (5, 7, 1), "not here\nnot now");
    assert_eq!(wire(&reply), "550-5.7.1 not here\r\n550 5.7.1 not now\r\n");
    assert_eq!(reply.to_string(), "550 5.7.1 not here not now");
    assert_eq!(wire(&Reply::bare(354, "go")), "354 go\r\n");
    assert_eq!(wire(&Reply::bare(334, "")), "334 \r\n");
}

#[test]
fn a_reply_cannot_carry_lines_of_its_own() {
    let reply = Reply::new(550, (5, 1, 1), "a\r\nb\rc\u{1b}[31m\td\u{2028}e\u{202e}f\0");
    assert_eq!(wire(&reply), "550-5.1.1 a\r\n550 5.1.1 b?c?[31m d?e?f?\r\n");
}

#[test]
fn no_line_is_over_512_octets() {
    let reply = Reply::new(550, (5, 1, 1), "é".repeat(1000));
    let wire = wire(&reply);
    assert!(wire.split_inclusive("\r\n").all(|line| line.len() <= 512 && line.starts_with("550")));
    let text: String = wire.lines().map(|line| line[10..].to_owned()).collect();
    assert_eq!(text, "é".repeat(1000));
}

#[test]
fn replies_are_read_as_servers_write_them() {
    for (input, code, enhanced, text) in [
        ("250 2.1.5 ok\r\n", 250, Some((2, 1, 5)), "ok"),
        ("250\r\n", 250, None, ""),
        ("250 \r\n", 250, None, ""),
        ("250-\r\n250\r\n", 250, None, "\n"),
        ("250 2.0.0\r\n", 250, Some((2, 0, 0)), ""),
        ("250-mx\r\n250-SIZE 100\r\n250 DSN\r\n", 250, None, "mx\nSIZE 100\nDSN"),
        ("550-5.1.1 a\r\n550 5.1.1 b\r\n", 550, Some((5, 1, 1)), "a\nb"),
        ("550-5.1.1 a\r\n550 b\r\n", 550, Some((5, 1, 1)), "a\nb"),
        ("550-a\r\n550 5.1.1 b\r\n", 550, None, "a\n5.1.1 b"),
        ("250-a\n250 b\n", 250, None, "a\nb"),
        // Codes at odds, and codes that no standard has: the first digit decides.
        ("550 4.7.1 x\r\n", 550, Some((4, 7, 1)), "x"),
        ("450 5.1.1 x\r\n", 450, Some((5, 1, 1)), "x"),
        ("250 5.0.0 x\r\n", 250, Some((5, 0, 0)), "x"),
        ("299 x\r\n", 299, None, "x"),
        ("571 x\r\n", 571, None, "x"),
        ("521 x\r\n", 521, None, "x"),
        ("550 5.1 x\r\n", 550, None, "5.1 x"),
        ("550 6.1.1 x\r\n", 550, None, "6.1.1 x"),
        ("550 5.1.1.1 x\r\n", 550, None, "5.1.1.1 x"),
        // A bare LF within the text doesn't end the line where no code follows.
        ("550-5.1.1 a\nX-Evil: 1\r\n550 5.1.1 \u{1b}[1mb\r\n", 550, Some((5, 1, 1)), "a\nX-Evil: 1\n?[1mb"),
    ] {
        let replies = read(input.as_bytes());
        let [Ok(reply)] = &replies[..] else { panic!("{input:?}: {replies:?}") };
        assert_eq!(
            (reply.code(), reply.enhanced(), reply.text()),
            (code, enhanced.map(EnhancedCode::from), text),
            "{input:?}"
        );
    }
}

#[test]
fn the_first_digit_decides() {
    let classes = |code| {
        let reply = Reply::new(code, (5, 0, 0), "");
        [reply.is_positive(), reply.is_intermediate(), reply.is_transient(), reply.is_permanent()]
    };
    assert_eq!(classes(299), [true, false, false, false]);
    assert_eq!(classes(354), [false, true, false, false]);
    assert_eq!(classes(450), [false, false, true, false]);
    assert_eq!(classes(571), [false, false, false, true]);
}

#[test]
fn what_is_no_reply_is_an_error() {
    for (input, error) in [
        ("250-x\r\n550 y\r\n", ReplyError::MixedCodes),
        ("xyz\r\n", ReplyError::Malformed),
        ("\r\n", ReplyError::Malformed),
        ("25\r\n", ReplyError::Malformed),
        ("250ok\r\n", ReplyError::Malformed),
        ("199 x\r\n", ReplyError::Malformed),
        ("600 x\r\n", ReplyError::Malformed),
        ("2500 x\r\n", ReplyError::Malformed),
        ("HTTP/1.1 400\r\n", ReplyError::Malformed),
        ("250-x\r\nhello\r\n250 y\r\n", ReplyError::Malformed),
    ] {
        assert_eq!(read(input.as_bytes()), [Err(error)], "{input:?}");
    }
}

#[test]
fn a_reply_without_an_end_is_an_error() {
    assert_eq!(read("250-x\r\n".repeat(5000).as_bytes()), [Err(ReplyError::TooLong)]);
    assert_eq!(read(&[b'2'; 70_000]), [Err(ReplyError::TooLong)]);
    let mut reader = ReplyReader::new();
    let endless = (0..100_000).find_map(|_| reader.push(b"250-some text").1);
    assert_eq!(endless, Some(Err(ReplyError::TooLong)));
}

#[test]
fn a_long_text_is_a_reply_all_the_same() {
    let input = format!("550 5.1.1 {}\r\n", "é".repeat(9000));
    let replies = read(input.as_bytes());
    let [Ok(reply)] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!((reply.code(), reply.enhanced()), (550, Some((5, 1, 1).into())));
    assert!(reply.text().len() <= 8192 && reply.text().chars().all(|c| c == 'é'));
}

#[test]
fn two_replies_in_one_segment_are_two() {
    let mut reader = ReplyReader::new();
    let input = b"250 a\r\n354 b\r\n25";
    let (first, reply) = reader.push(input);
    assert_eq!((first, reply.unwrap().unwrap().code()), (7, 250));
    assert!(reader.is_between_replies());
    let (second, reply) = reader.push(&input[first..]);
    assert_eq!((second, reply.unwrap().unwrap().code()), (7, 354));
    assert_eq!(reader.push(&input[first + second..]), (2, None));
    assert!(!reader.is_between_replies());
}

#[test]
fn enhanced_codes_are_three_numbers() {
    assert_eq!("5.1.10".parse(), Ok(EnhancedCode::new(5, 1, 10)));
    assert_eq!(EnhancedCode::new(4, 4, 3).to_string(), "4.4.3");
    for text in
        ["", "5", "5.1", "5.1.", "3.1.1", "6.0.0", "5.1.1.1", "5.+1.1", "5.1.1000", "05.1.1000", " 5.1.1"]
    {
        assert!(text.parse::<EnhancedCode>().is_err(), "{text}");
    }
}
