//! What is an address, what isn't, and why.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use smtp::address::{Address, AddressError, Domain, ForwardPath, Host, ReversePath, Utf8};

use AddressError::{
    BadDomain, BadLiteral, BadLocalPart, BadPath, FinalDot, MissingHost, NeedsSmtpUtf8, TooLong,
};

fn wire(text: &str) -> Result<String, AddressError> {
    Address::parse(text, Utf8::Allowed).map(|address| address.to_string())
}

#[test]
fn the_local_part_keeps_its_case_and_the_domain_does_not() {
    let address = Address::parse("UsEr+Tag@D1.Test", Utf8::Refused).unwrap();
    assert_eq!((address.local(), address.host().to_string().as_str()), ("UsEr+Tag", "d1.test"));
    assert_eq!(address.to_string(), "UsEr+Tag@d1.test");
}

#[test]
fn addresses_are_read_and_written() {
    for (text, expected) in [
        ("a@b", "a@b"),
        ("u%evil.test@d1.test", "u%evil.test@d1.test"),
        ("evil!u@d1.test", "evil!u@d1.test"),
        ("!#$%&'*+-/=?^_`{|}~@x.test", "!#$%&'*+-/=?^_`{|}~@x.test"),
        ("a.b.c@x.test", "a.b.c@x.test"),
        // The quoted form is kept where it is needed only.
        (r#""a.b"@x.test"#, "a.b@x.test"),
        (r#""\a\b"@x.test"#, "ab@x.test"),
        (r#""a b"@x.test"#, r#""a b"@x.test"#),
        (r#""a@b"@x.test"#, r#""a@b"@x.test"#),
        (r#""a\"b\\c"@x.test"#, r#""a\"b\\c"@x.test"#),
        (r#""a..b"@x.test"#, r#""a..b"@x.test"#),
        (r#"""@x.test"#, r#"""@x.test"#),
        ("u@[192.0.2.1]", "u@[192.0.2.1]"),
        ("u@[IPv6:2001:DB8::1]", "u@[IPv6:2001:db8::1]"),
        ("u@[ipv6:::ffff:127.0.0.1]", "u@[IPv6:::ffff:127.0.0.1]"),
        ("u@münchen.test", "u@xn--mnchen-3ya.test"),
        ("u@MÜNCHEN.test", "u@xn--mnchen-3ya.test"),
        ("u@XN--MNCHEN-3YA.Test", "u@xn--mnchen-3ya.test"),
        ("u@faß.test", "u@xn--fa-hia.test"),
        ("用户@例え.テスト", "用户@xn--r8jz45g.xn--zckzah"),
        ("u@1.test", "u@1.test"),
        ("u@a-b--c.test", "u@a-b--c.test"),
    ] {
        assert_eq!(wire(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_address_is_refused_with_its_reason() {
    for (text, reason) in [
        ("", MissingHost),
        ("u", MissingHost),
        ("u@", MissingHost),
        (r#""u""#, MissingHost),
        ("@d1.test", BadLocalPart),
        (".a@x.test", BadLocalPart),
        ("a.@x.test", BadLocalPart),
        ("a..b@x.test", BadLocalPart),
        ("a b@x.test", BadLocalPart),
        ("a\"b@x.test", BadLocalPart),
        (r#""a"b@x.test"#, BadLocalPart),
        (r#""a@x.test"#, BadLocalPart),
        (r#""a\"@x.test"#, BadLocalPart),
        ("\"a\u{7}\"@x.test", BadLocalPart),
        ("\"a\\\r\n\"@x.test", BadLocalPart),
        ("\"\\ü\"@x.test", BadLocalPart),
        ("a\u{85}b@x.test", BadLocalPart),
        ("a\u{2028}b@x.test", BadLocalPart),
        ("u@d1.test.", FinalDot),
        ("u@.", FinalDot),
        ("u@.test", BadDomain),
        ("u@a..test", BadDomain),
        ("u@-a.test", BadDomain),
        ("u@a-.test", BadDomain),
        ("u@a_b.test", BadDomain),
        ("u@a b.test", BadDomain),
        ("u@a@b.test", BadDomain),
        ("u@127.0.0.1", BadDomain),
        ("u@example.0", BadDomain),
        ("u@xn--.test", BadDomain),
        ("u@xn--a-.test", BadDomain),
        ("u@xn--mnchen-3yb9.test\u{0}", BadDomain),
        // Names that UTS 46 would map to others.
        ("u@ｅvil.test", BadDomain),
        ("u@evil。test", BadDomain),
        ("u@e\u{ad}vil.test", BadDomain),
        ("u@℀.test", BadDomain),
        ("u@[999.1.1.1]", BadLiteral),
        ("u@[127.0.0.1", BadLiteral),
        ("u@[127.0.0.01]", BadLiteral),
        ("u@[::1]", BadLiteral),
        ("u@[IPv6:::1%eth0]", BadLiteral),
        ("u@[tag:content]", BadLiteral),
        ("u@[]", BadLiteral),
        ("u@[ü]", BadLiteral),
    ] {
        assert_eq!(wire(text), Err(reason), "{text:?}");
    }
}

#[test]
fn the_limits_of_rfc_5321_are_exact() {
    let local = "l".repeat(64);
    let domain = |octets: usize| {
        let mut domain = format!("{0}.{0}.{0}.", "d".repeat(61));
        domain.push_str(&"e".repeat(octets - domain.len()));
        domain
    };
    assert!(wire(&format!("{local}@x.test")).is_ok());
    assert_eq!(wire(&format!("{local}l@x.test")), Err(TooLong));
    assert_eq!(wire(&format!("{local}@{}", domain(189))).unwrap().len(), 254);
    assert_eq!(wire(&format!("{local}@{}", domain(190))), Err(TooLong));
    assert!(format!("{}.test", "d".repeat(63)).parse::<Domain>().is_ok());
    assert_eq!(format!("{}.test", "d".repeat(64)).parse::<Domain>(), Err(BadDomain));
    assert_eq!("d.".repeat(5000).parse::<Domain>(), Err(FinalDot));
    assert_eq!(format!("{}d", "d.".repeat(5000)).parse::<Domain>(), Err(TooLong));
}

#[test]
fn octets_over_127_are_refused_where_they_were_not_announced() {
    for text in ["ü@x.test", "u@münchen.test", "\"ü\"@x.test"] {
        assert_eq!(Address::parse(text, Utf8::Refused), Err(NeedsSmtpUtf8));
    }
    assert!(Address::parse("ü@x.test", Utf8::Allowed).unwrap().needs_smtputf8());
    assert!(!Address::parse("u@münchen.test", Utf8::Allowed).unwrap().needs_smtputf8());
}

#[test]
fn both_spellings_of_a_domain_are_one() {
    let unicode: Domain = "MÜNCHEN.test".parse().unwrap();
    let ascii: Domain = "xn--MNCHEN-3ya.TEST".parse().unwrap();
    assert_eq!(unicode, ascii);
    assert_eq!(ascii.to_unicode(), "münchen.test");
}

#[test]
fn below_means_whole_labels() {
    let domain = |text: &str| text.parse::<Domain>().unwrap();
    assert!(domain("x.test").is_at_or_below(&domain("x.test")));
    assert!(domain("a.b.x.test").is_at_or_below(&domain("X.test")));
    assert!(!domain("evilx.test").is_at_or_below(&domain("x.test")));
    assert!(!domain("test").is_at_or_below(&domain("x.test")));
    assert_eq!(domain("a.x.test").parent(), Some(domain("x.test")));
    assert_eq!(domain("test").parent(), None);
}

#[test]
fn paths_are_addresses_and_two_names_for_nobody_and_somebody() {
    assert_eq!(ReversePath::parse("", Utf8::Refused), Ok(ReversePath::Null));
    assert_eq!(ReversePath::Null.to_string(), "");
    assert_eq!(ReversePath::parse("postmaster", Utf8::Refused), Err(MissingHost));
    assert_eq!(ForwardPath::parse("POSTMASTER", Utf8::Refused), Ok(ForwardPath::Postmaster));
    assert_eq!(ForwardPath::parse("", Utf8::Refused), Err(MissingHost));
    let routed = ForwardPath::parse("@a.test,@b.test:u@d1.test", Utf8::Refused).unwrap();
    assert_eq!(routed.to_string(), "u@d1.test");
    assert_eq!(routed.mailbox().unwrap().host(), &Host::parse("d1.test").unwrap());
    for (text, reason) in [
        ("@d1.test", BadPath),
        ("@a.test,b.test:u@x.test", BadPath),
        ("@a_b:u@x.test", BadDomain),
        (":u@x", BadLocalPart),
    ] {
        assert_eq!(ForwardPath::parse(text, Utf8::Refused), Err(reason), "{text}");
    }
}
