//! Machine: what this machine can do at most of the things that a mail system does much of. One line of JSON.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark's program ends with a panic when it can't go on"
)]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use clap::Parser;
use serde_json::json;

#[derive(Parser)]
struct Arguments {
    /// A folder on the disk that queues are on.
    #[arg(long)]
    folder: PathBuf,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 2)]
    secs: u64,
}

fn main() {
    let Arguments { folder, secs } = Arguments::parse();
    let during = Duration::from_secs(secs);
    std::fs::create_dir_all(&folder).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    let key = RsaKeyPair::from_pkcs8(
        PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap().as_der().unwrap().as_ref(),
    );
    let key = key.unwrap();
    let report = json!({
        "cores": cores,
        "rsa_2048_signatures_per_s_one_core": rate(1, during, |_| signer(&key)),
        "rsa_2048_signatures_per_s": rate(cores, during, |_| signer(&key)),
        "syncs_per_s_one_writer": rate(1, during, |writer| syncer(&folder, writer)),
        "syncs_per_s_eight_writers": rate(8, during, |writer| syncer(&folder, writer)),
    });
    println!("{report}");
}

/// How often in a second the work that `make` gives each of `threads` threads is done.
fn rate<W: FnMut()>(threads: usize, during: Duration, make: impl Fn(usize) -> W + Sync) -> f64 {
    let clock = Instant::now();
    let total: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|number| {
                let make = &make;
                scope.spawn(move || {
                    let (mut work, mut count) = (make(number), 0);
                    while clock.elapsed() < during {
                        work();
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    (total as f64 / clock.elapsed().as_secs_f64()).round()
}

fn signer(key: &RsaKeyPair) -> impl FnMut() + '_ {
    let random = SystemRandom::new();
    let mut signature = vec![0; key.public_modulus_len()];
    move || key.sign(&RSA_PKCS1_SHA256, &random, b"a header to be signed", &mut signature).unwrap()
}

/// Appends 4 KiB and syncs it, as a queue does for a message without others to share the sync with.
fn syncer(folder: &Path, writer: usize) -> impl FnMut() + use<> {
    let path = folder.join(format!("machine-{writer}"));
    let mut file = File::create(&path).unwrap();
    let remover = Remover(path);
    move || {
        let _ = &remover;
        file.write_all(&[b'x'; 4096]).unwrap();
        file.sync_data().unwrap();
    }
}

struct Remover(PathBuf);

impl Drop for Remover {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
