//! `stagepost dev`: the whole of it on loopback, to try out.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Command, ValueEnum};
use delivery::Mode;

use crate::cli::Failure;
use crate::narrate::Narrator;
use crate::serve::{self, Site, Watch};
use crate::site::Settings;

const ACCOUNT: &str = "demo";
const PASSWORD: &str = "demo";
const DOMAIN: &str = "example.com";

/// What differs from the defaults of `run`.
const DEFAULTS: [(&str, &str); 5] = [
    ("state", "./.stagepost"),
    ("host-name", "stagepost.localhost"),
    ("ingress-listen", "127.0.0.1:2525"),
    ("log", "warn"),
    ("delivery-mode", "sandbox"),
];

#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// Where mail goes: `sandbox` writes it to the Maildir `sandbox` in the state directory, `mx` sends it for real.
    #[arg(long, value_enum, default_value_t = Deliver::Sandbox, value_name = "WHERE")]
    deliver: Deliver,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Deliver {
    Sandbox,
    Mx,
}

/// The settings of `run` with the defaults of `dev`; what `--deliver` decides isn't offered a second time.
pub(crate) fn with_defaults(command: Command) -> Command {
    command.mut_args(|arg| {
        let long = arg.get_long().unwrap_or_default().to_owned();
        let arg = match DEFAULTS.iter().find(|(name, _)| *name == long) {
            Some((_, value)) => arg.default_value(*value),
            None => arg,
        };
        let decided = ["delivery-mode", "delivery-sandbox"].contains(&long.as_str());
        // The settings are the same as for `run`, whose help tells of them; here the few that matter are shown.
        let shown = ["deliver", "state", "ingress-listen", "log", "help"].contains(&long.as_str());
        arg.hide(decided || !shown)
    })
}

/// Runs it until a signal.
pub(crate) fn run(dev: Dev) -> Result<(), Failure> {
    let Dev { deliver, mut settings } = dev;
    serve::only_loopback(&settings).map_err(|error| Failure::Configuration(error.to_string()))?;
    let sandbox = settings.process.state.join("sandbox");
    match deliver {
        Deliver::Sandbox => {
            settings.delivery.delivery_mode = Mode::Sandbox;
            settings.delivery.delivery_sandbox = Some(sandbox.clone());
        }
        Deliver::Mx => settings.delivery.delivery_mode = Mode::Mx,
    }
    serve::block_on(start(settings, deliver, sandbox))
}

async fn start(settings: Settings, deliver: Deliver, sandbox: PathBuf) -> Result<(), Failure> {
    let _guard = settings.process.start_telemetry("stagepost")?;
    let shutdown =
        runtime::signals::shutdown_token().context("can't listen to signals").map_err(Failure::Work)?;
    let narrator = Arc::new(Narrator::new());
    let watch = Watch {
        ingress: Arc::clone(&narrator) as Arc<dyn ingress::Observer>,
        delivery: narrator,
        auth: ingress::AuthPolicy::LoopbackToo,
    };
    let state = settings.process.state.clone();
    let listen = settings.ingress.ingress_listen.first().copied();
    let site = Site::open(settings, watch).await?;
    site.accounts()
        .ensure_demo(ACCOUNT, ACCOUNT, PASSWORD, DOMAIN)
        .await
        .context("can't set up the account `demo`")
        .map_err(Failure::Work)?;
    let welcome = welcome(deliver, &state, &sandbox, listen);
    std::io::stdout()
        .write_all(welcome.as_bytes())
        .context("can't write to the terminal")
        .map_err(Failure::Work)?;
    site.serve(shutdown).await.map_err(Failure::Work)
}

fn welcome(deliver: Deliver, state: &Path, sandbox: &Path, listen: Option<SocketAddr>) -> String {
    let goes = match deliver {
        Deliver::Sandbox => format!("Mail goes to the Maildir {} and nowhere else.", sandbox.display()),
        Deliver::Mx => String::from("Mail goes to the recipients' servers, for real."),
    };
    let address = listen.map_or_else(|| String::from("127.0.0.1:2525"), |address| address.to_string());
    format!(
        "Stagepost takes mail on {address}: account {ACCOUNT}, password {PASSWORD}, senders at {DOMAIN}.\n\
         {goes} State is kept in {}.\n\n\
         Send a first mail:\n\n\
         printf 'From: hello@{DOMAIN}\\r\\nTo: you@example.org\\r\\nSubject: First mail\\r\\n\\r\\nHello.\\r\\n' |\n  \
         curl --silent --show-error --url smtp://{address} --user {ACCOUNT}:{PASSWORD} \\\n  \
         --mail-from hello@{DOMAIN} --mail-rcpt you@example.org --upload-file -\n\n",
        state.display()
    )
}
