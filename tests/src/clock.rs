//! Clocks that are wrong, by Debian's libfaketime.

use std::path::PathBuf;
use std::process::Command;

/// What this command will take for the time of day is wrong by so many seconds. How long things take it will know as before.
///
/// # Panics
/// When the library isn't there.
pub fn set_off(command: &mut Command, secs: i64) {
    command
        .env("LD_PRELOAD", library())
        .env("FAKETIME", format!("{secs:+}s"))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

/// Debian has it in a folder of the machine's kind.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("there are libraries").filter_map(Result::ok);
    let mut places = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    places.find(|place| place.exists()).expect("libfaketime isn't there: run tests/install")
}
