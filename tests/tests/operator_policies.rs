//! MTA-STS policies: read where senders read them, over HTTPS with a good certificate.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tests::address;
use tests::operated::{Operated, ZONE};

const PATH: &str = "/.well-known/mta-sts.txt";
const POLICY: &str = "version: STSv1\r\nmode: enforce\r\nmx: mx.servers.test\r\nmax_age: 86400\r\n";

/// Answers who asks for a policy with it, and all others with 404.
fn serve(tls: Arc<ServerConfig>, policy: Option<&'static str>) -> Ipv4Addr {
    let address = address::fresh();
    let listener = TcpListener::bind((address, 443)).unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), socket);
            let mut request = Vec::new();
            let mut octets = [0; 1024];
            // Who doesn't trust the certificate ends the connection.
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut octets) {
                    Ok(read) if read > 0 => request.extend_from_slice(&octets[..read]),
                    _ => break,
                }
            }
            let asked = String::from_utf8_lossy(&request).starts_with(&format!("GET {PATH} HTTP/1.1\r\n"));
            let (status, body) = match policy {
                Some(policy) if asked => ("200 OK", policy),
                _ => ("404 Not Found", ""),
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
        }
    });
    address
}

fn object(label: &str) -> String {
    format!(
        "apiVersion: stagepost.dev/v1alpha1\nkind: SendingDomain\nmetadata: {{name: {label}, namespace: shop}}\n\
         spec: {{domain: {label}.{ZONE}, account: shop}}\n"
    )
}

#[test]
fn a_policy_counts_where_its_host_shows_a_good_certificate_and_gives_it() {
    let mut site = Operated::start();
    let name = |label: &str| format!("mta-sts.{label}.{ZONE}");
    let signed = |label: &str| site.lab.authority.issue(&[&name(label)]).server();
    let servers = [
        ("good", serve(signed("good"), Some(POLICY))),
        ("gone", serve(signed("gone"), None)),
        ("another", serve(signed("good"), Some(POLICY))),
        ("other-hosts", serve(signed("other-hosts"), Some(POLICY))),
    ];
    let mut records = String::new();
    for (label, address) in servers {
        let mx = if label == "other-hosts" { "out" } else { "mx" };
        records.push_str(&format!(
            "_mta-sts.{label} TXT \"v=STSv1; id=1\"\nmta-sts.{label} A {address}\n{label} MX 10 {mx}.servers.test.\n"
        ));
    }
    site.knot.serve(ZONE, &records);
    let authority = site.lab.subfolder("web").join("authority.pem");
    std::fs::write(&authority, site.lab.authority.pem()).unwrap();
    let mut arguments = site.arguments();
    arguments.push(format!("--operator-ca-file={}", authority.display()));
    arguments.push("--operator-allowed-networks=127.0.0.0/8".into());
    let operator = site.cluster.operator("one", &arguments);
    site.apply_domain();
    for (label, _) in servers {
        site.cluster.apply(&object(label));
    }
    let message = |name: &str, status: &str| {
        site.cluster.wait_condition(("shop", "sendingdomain", name), "MTASTSReady", status)
    };
    for (name, status, part) in [
        ("good", "True", "mode: enforce"),
        ("gone", "False", "the server answers 404"),
        ("another", "Unknown", "TLS can't be begun"),
        ("other-hosts", "False", "doesn't name out.servers.test"),
        // It announces none.
        ("example", "False", "no MTA-STS record"),
    ] {
        let text = message(name, status);
        assert!(text.contains(part), "{name}: {text}");
    }

    // Who names a host of our own network isn't taken there.
    drop(operator);
    arguments.pop();
    site.cluster.kubectl(&["delete", "sendingdomain", "good", "-n", "shop"]);
    site.cluster.apply(&object("good"));
    let _operator = site.cluster.operator("two", &arguments);
    let text = message("good", "Unknown");
    assert!(text.contains("no address that may be connected to"), "{text}");
}
