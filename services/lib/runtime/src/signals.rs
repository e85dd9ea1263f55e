//! SIGTERM and SIGINT end a process in order; the second of them at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns a token that the first SIGTERM or SIGINT cancels. The second ends the process with exit code 130.
///
/// # Errors
/// When the handlers can't be installed.
pub fn shutdown_token() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancelled = token.clone();
    tokio::spawn(async move {
        for round in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if round > 0 {
                tracing::warn!("second signal: ending at once");
                std::process::exit(130);
            }
            tracing::info!("stopping: what is in progress is finished first; a second signal ends at once");
            cancelled.cancel();
        }
    });
    Ok(token)
}
