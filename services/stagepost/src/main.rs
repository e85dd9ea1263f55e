//! The program: argument parsing and wiring, nothing else.

mod cli;
mod commands;
mod dev;
mod narrate;
mod serve;
mod settings;
mod site;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse().and_then(cli::Parsed::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
