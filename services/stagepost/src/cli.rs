//! The command line, with the environment and a file behind it.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands::{Ask, Connection};
use crate::settings::{self, File};
use crate::site::Settings;
use crate::{dev, roles, serve};

/// Wrong usage or configuration; nothing was started.
const EXIT_CONFIGURATION: u8 = 2;
/// The subcommands that take settings from a file.
const SERVING: [&str; 5] = ["run", "ingress", "accounts", "delivery", "operator"];
/// The work itself failed.
const EXIT_FAILURE: u8 = 1;

/// Sends an organisation's email.
#[derive(Parser, Debug)]
#[command(name = "stagepost", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Role,
}

#[derive(Subcommand, Debug)]
enum Role {
    /// Try Stagepost: everything in one process on loopback, with an account, a domain and a sandbox instead of the world.
    Dev(Box<dev::Dev>),
    /// Run a small site: everything in one process on the embedded store.
    Run(Box<Run>),
    /// Take mail by SMTP, as one process of many on NATS.
    Ingress(Box<Service>),
    /// Keep accounts, domains and keys, as one process of many on NATS.
    Accounts(Box<Service>),
    /// Deliver, as one process of many on NATS.
    Delivery(Box<Service>),
    /// Look after sending domains, credentials and accounts that are Kubernetes objects.
    Operator(Box<Service>),
    /// Print the definitions of the Kubernetes objects, as YAML for `kubectl apply --server-side -f -`.
    Crds,
    /// Ask or change a running Stagepost.
    #[command(flatten)]
    Ask(Ask),
}

/// A role of a Stagepost on many hosts.
#[derive(Args, Debug)]
struct Service {
    /// TOML file with settings; all roles can share one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every setting with its default and what it does, as a file for --config.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    settings: roles::Settings,
}

#[derive(Args, Debug)]
struct Run {
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every setting with its default and what it does, as a file for --config.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Why the program ends without success.
pub(crate) enum Failure {
    /// What clap says, over as many lines as it likes (`--help` is one).
    Usage(Box<clap::Error>),
    /// The configuration can't be used: one line.
    Configuration(String),
    /// The work failed.
    Work(anyhow::Error),
}

impl Failure {
    /// Says what happened, and the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (code, line) = match self {
            Self::Usage(error) => {
                // Nothing can be done when the terminal is gone.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_CONFIGURATION));
            }
            Self::Configuration(line) => (EXIT_CONFIGURATION, line),
            Self::Work(error) => (EXIT_FAILURE, in_one_line(&error)),
        };
        let _ = writeln!(std::io::stderr(), "stagepost: {line}");
        ExitCode::from(code)
    }
}

/// An error with its causes. Most errors tell their cause themselves; it isn't told twice.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause.replace('\n', " "));
    }
    line
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Work(error)
    }
}

/// What the command line asks for.
pub(crate) struct Parsed {
    role: Role,
    connection: Option<Connection>,
}

/// Reads the command line, the environment and the file.
pub(crate) fn parse() -> Result<Parsed, Failure> {
    parse_from(std::env::args_os().collect())
}

fn parse_from(arguments: Vec<OsString>) -> Result<Parsed, Failure> {
    let mut command = schema();
    // The file's name may itself come from a flag or the environment, so what is given is looked at once before.
    let first = command.clone().ignore_errors(true).try_get_matches_from(&arguments);
    let named = first.as_ref().ok().and_then(ArgMatches::subcommand);
    let named = named.filter(|(name, _)| SERVING.contains(name));
    let named =
        named.and_then(|(name, matches)| Some((name, matches.get_one::<PathBuf>("config").cloned()?)));
    let file = match named {
        Some((name, path)) => {
            let known: Vec<&Command> =
                SERVING.iter().filter_map(|name| command.find_subcommand(name)).collect();
            let file =
                File::read(&path, &known).map_err(|error| Failure::Configuration(error.to_string()))?;
            command = command.mut_subcommand(name, |serving| file.apply(serving));
            Some(file)
        }
        None => None,
    };
    let explain = |error: clap::Error| explained(error, file.as_ref());
    let matches = command.try_get_matches_from(&arguments).map_err(explain)?;
    let connection = match matches.subcommand() {
        None => None,
        Some((name, _)) if !asks(name) => None,
        Some((_, matches)) => Some(Connection::from_arg_matches(matches).map_err(explain)?),
    };
    let role = Cli::from_arg_matches(&matches).map_err(explain)?.command;
    Ok(Parsed { role, connection })
}

/// The whole command line, every setting with its environment name.
fn schema() -> Command {
    let mut command = Cli::command()
        .mut_subcommand("run", settings::with_environment)
        .mut_subcommand("ingress", |command| settings::with_environment(roles::with_defaults(command)))
        .mut_subcommand("accounts", |command| settings::with_environment(roles::with_defaults(command)))
        .mut_subcommand("delivery", |command| settings::with_environment(roles::with_defaults(command)))
        .mut_subcommand("operator", |command| settings::with_environment(roles::with_defaults(command)))
        .mut_subcommand("dev", |command| settings::with_environment(dev::with_defaults(command)));
    let asks: Vec<String> =
        command.get_subcommands().map(|sub| sub.get_name().to_owned()).filter(|name| asks(name)).collect();
    for name in asks {
        command = command.mut_subcommand(name, Connection::augment_args);
    }
    command
}

/// Whether a subcommand asks a running Stagepost.
fn asks(name: &str) -> bool {
    !["dev", "crds"].contains(&name) && !SERVING.contains(&name)
}

/// A value that clap refuses and that the file gave is named by its file and key, in one line.
fn explained(error: clap::Error, file: Option<&File>) -> Failure {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(shown)) => {
            shown.trim_start_matches("--").split([' ', '=']).next().map(str::to_owned)
        }
        _ => None,
    };
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.clone(),
        _ => String::new(),
    };
    let source = flag.as_deref().and_then(|flag| file?.source_of(flag));
    match (source, error.kind()) {
        (Some(source), ErrorKind::InvalidValue | ErrorKind::ValueValidation) => {
            let cause = std::error::Error::source(&error).map_or_else(
                || match error.get(ContextKind::ValidValue) {
                    Some(ContextValue::Strings(values)) => format!("expected one of {}", values.join(", ")),
                    _ => String::from("not a valid value"),
                },
                ToString::to_string,
            );
            Failure::Configuration(format!("{source}: {value:?}: {cause}"))
        }
        _ => Failure::Usage(Box::new(error)),
    }
}

impl Parsed {
    /// Does it.
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.role {
            Role::Dev(dev) => dev::run(*dev),
            Role::Run(run) => {
                let Run { config: _, print_config, settings } = *run;
                if print_config {
                    return print_settings("run");
                }
                serve::block_on(serve::run(settings))
            }
            Role::Ingress(service) => service.run("ingress", roles::ingress),
            Role::Accounts(service) => service.run("accounts", roles::accounts),
            Role::Delivery(service) => service.run("delivery", roles::delivery),
            Role::Operator(service) => service.run("operator", roles::operator),
            Role::Crds => print_out(&operator::crd::yaml().map_err(|error| Failure::Work(error.into()))?),
            Role::Ask(ask) => {
                let Some(connection) = self.connection else { return Ok(()) };
                serve::block_on(async move { ask.run(&connection).await.map_err(Failure::Work) })
            }
        }
    }
}

impl Service {
    fn run<F>(self, name: &str, role: impl FnOnce(roles::Settings) -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let Self { config: _, print_config, settings } = self;
        if print_config { print_settings(name) } else { serve::block_on(role(settings)) }
    }
}

/// Every setting of a subcommand on standard output.
fn print_settings(name: &str) -> Result<(), Failure> {
    let schema = schema();
    print_out(&settings::print(schema.find_subcommand(name).unwrap_or(&schema)))
}

fn print_out(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::Work(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(arguments: &[&str]) -> String {
        let arguments = arguments.iter().map(OsString::from).collect();
        match parse_from(arguments) {
            Err(Failure::Configuration(line)) => line,
            Err(Failure::Usage(error)) => error.to_string(),
            Err(Failure::Work(error)) => error.to_string(),
            Ok(_) => panic!("this must not parse"),
        }
    }

    #[test]
    fn a_cause_that_an_error_tells_itself_is_told_once() {
        let cause = std::io::Error::other("the disk is on fire");
        let error = anyhow::Error::new(cause)
            .context("can't read token: the disk is on fire")
            .context("is it running?");
        assert_eq!(in_one_line(&error), "is it running?: can't read token: the disk is on fire");
    }

    #[test]
    fn the_command_line_is_sound() {
        schema().debug_assert();
    }

    #[test]
    fn every_setting_is_printed_and_read_again() {
        let schema = schema();
        let run = schema.find_subcommand("run").unwrap();
        let printed = settings::print(run);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.toml");
        std::fs::write(&path, &printed).unwrap();
        let arguments = ["stagepost", "run", "--config", path.to_str().unwrap()];
        let parsed = parse_from(arguments.iter().map(OsString::from).collect());
        let Ok(Parsed { role: Role::Run(run), .. }) = parsed else {
            panic!("the printed file must be accepted")
        };
        let Ok(Parsed { role: Role::Run(plain), .. }) = parse_from(vec!["stagepost".into(), "run".into()])
        else {
            panic!("run needs no flag")
        };
        assert_eq!(format!("{:?}", run.settings), format!("{:?}", plain.settings));
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named_with_its_file_and_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.toml");
        std::fs::write(&path, "[ingress]\nrecipients_max = \"many\"").unwrap();
        let line = failure(&["stagepost", "run", "--config", path.to_str().unwrap()]);
        assert!(line.contains("site.toml: setting `ingress.recipients_max`: \"many\""), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let line = failure(&["stagepost", "run", "--config", "/nowhere/site.toml"]);
        assert!(line.starts_with("can't read /nowhere/site.toml"), "{line}");
    }
}
