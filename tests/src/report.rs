//! Reports on deliveries, read by Python's mail parser.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::address;
use crate::mx::Received;
use crate::process::run;

/// Fields by their names in lower case.
pub type Fields = BTreeMap<String, String>;

/// A delivery status notification (RFC 3464).
#[derive(Clone, Debug)]
pub struct Report {
    /// Its own header.
    pub header: Fields,
    /// The part for people.
    pub text: String,
    /// The machine-readable fields about the message.
    pub message: Fields,
    /// The machine-readable fields about each recipient.
    pub recipients: Vec<Fields>,
    /// The media type of what it gives back.
    pub returned_type: Option<String>,
    /// What it gives back.
    pub returned: Option<String>,
}

/// Reads a report as it was received.
///
/// # Panics
/// When it breaks the rules of mail: no null sender, lines over 998 octets, controls, bare line ends, or whatever Python's
/// parser finds.
pub fn read(received: &Received) -> Report {
    assert_eq!(received.reverse_path(), "", "a report has the null sender: {}", received.mail);
    let octets = &received.octets;
    let text = received.text();
    for line in text.split("\r\n") {
        assert!(line.len() <= 998, "a line of {} octets: {text}", line.len());
        assert!(!line.chars().any(|c| c.is_control() && c != '\t'), "a control in {line:?}");
    }
    let mut command = Command::new(address::cache().join("python/bin/python3"));
    command.arg(address::tests_folder().join("clients/python/read_report.py"));
    let output = run(command, octets);
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).expect("the script answers with JSON");
    let string = |value: &Value| value.as_str().map(str::to_owned);
    Report {
        header: fields(&read["header"]),
        text: string(&read["text"]).unwrap_or_default(),
        message: fields(&read["message"]),
        recipients: read["recipients"].as_array().into_iter().flatten().map(fields).collect(),
        returned_type: string(&read["returned_type"]),
        returned: string(&read["returned"]),
    }
}

fn fields(value: &Value) -> Fields {
    let all = value.as_object().into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

impl Report {
    /// A field about the only recipient; empty when it isn't there.
    ///
    /// # Panics
    /// When the report is about several.
    pub fn of_one(&self, name: &str) -> &str {
        let [recipient] = self.recipients.as_slice() else { panic!("not one recipient: {self:#?}") };
        recipient.get(name).map_or("", String::as_str)
    }

    /// What a field says of each recipient, by the address in Final-Recipient.
    pub fn each(&self, name: &str) -> BTreeMap<&str, &str> {
        let told = self.recipients.iter().filter_map(|fields| {
            let (_, address) = fields.get("final-recipient")?.split_once(';')?;
            Some((address.trim(), fields.get(name).map_or("", String::as_str)))
        });
        told.collect()
    }
}
