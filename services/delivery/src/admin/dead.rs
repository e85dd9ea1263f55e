//! Records that can't be read and were put aside.

use proto::admin::v1 as admin;
use proto::admin::v1::revive_dead_request::Which;
use spool::{DeadLetter, DeadLetterError, DeadSelection, Revival, Spool};
use tonic::Status;

use super::{invalid, listed, millis};

pub(super) async fn list<S: Spool>(
    spool: &S,
    request: admin::ListDeadRequest,
) -> Result<admin::ListDeadResponse, Status> {
    let admin::ListDeadRequest { after, limit } = request;
    let letters = spool.dead_letters(after, listed(limit)).await.map_err(|error| unavailable(&error))?;
    Ok(admin::ListDeadResponse { letters: letters.into_iter().map(letter).collect() })
}

pub(super) async fn revive<S: Spool>(
    spool: &S,
    request: admin::ReviveDeadRequest,
) -> Result<admin::ReviveDeadResponse, Status> {
    let which = match request.which {
        Some(Which::Number(number)) => DeadSelection::Number(number),
        Some(Which::All(_)) => DeadSelection::All,
        None => return Err(invalid("expected a number or all")),
    };
    let Revival { revived, left } = spool.revive(which).await.map_err(|error| unavailable(&error))?;
    match which {
        DeadSelection::Number(number) if revived + left == 0 => {
            Err(Status::not_found(format!("there is no dead letter {number}")))
        }
        _ => Ok(admin::ReviveDeadResponse { revived, left }),
    }
}

fn letter(letter: DeadLetter) -> admin::DeadLetter {
    let DeadLetter { number, subject, cause, octets, at } = letter;
    admin::DeadLetter { number, subject, cause, octets, at_ms: millis(at) }
}

fn unavailable(error: &DeadLetterError) -> Status {
    Status::unavailable(error.to_string())
}
