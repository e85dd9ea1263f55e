//! The program: argument parsing and wiring, nothing else.

mod admin;
mod cli;
mod commands;
mod dev;
mod narrate;
mod roles;
mod serve;
mod settings;
mod site;

use std::process::ExitCode;

/// Sessions and attempts allocate on one thread and free on another; the system's allocator keeps what large messages and
/// password hashes once took, this one gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::parse().and_then(cli::Parsed::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
