//! A message for a server without 8BITMIME: converted, and signed anew (RFC 6152 section 3, RFC 6376 section 5.3).

use bytes::Bytes;
use dkim::BodyHasher;
use limits::Limits;
use mail::downgrade;
use spool::Spool;

use crate::approach::Failure;
use crate::attempt::unreadable;
use crate::config::Sign;
use crate::context::{Context, now};
use crate::sign::Standing;
use crate::work::Work;

/// The message without octets over 127, its signature on top.
pub(crate) async fn to_seven_bit<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &Work<S::Lease>,
) -> Result<Vec<u8>, Failure> {
    // Never closed while anybody works.
    let _room = context.whole_messages.acquire().await;
    let message = &work.job().message;
    let content = work.content().await.map_err(|error| unreadable(&error))?;
    let split = message.header_octets as usize;
    let converted = tokio::task::spawn_blocking(move || {
        let (header, rest) = content.split_at_checked(split)?;
        downgrade::to_seven_bit(header, rest.strip_prefix(b"\r\n").unwrap_or(rest))
    });
    let converted = converted.await.map_err(|error| Failure::new((4, 3, 0), error.to_string()))?;
    let Some((header, body)) = converted else {
        let reason = "the server takes no 8-bit mail, and the message can't be converted without changing what it says";
        return Err(Failure::new((5, 6, 3), reason.to_owned()));
    };
    let mut hasher = BodyHasher::new();
    hasher.update(&body);
    let author = context.signatures.author(&message.account, &message.author_domain).await;
    let signers = match author.standing {
        Standing::Keys(_) | Standing::KeyToCome(_) if context.sign == Sign::Never => None,
        Standing::Keys(signers) => Some(signers),
        Standing::NoKeys(_) if context.sign != Sign::Always => None,
        Standing::NoKeys(reason)
        | Standing::KeyToCome(reason)
        | Standing::Suspended(reason)
        | Standing::Unknown(reason) => {
            return Err(Failure::new((4, 7, 0), reason.to_string()));
        }
    };
    let header = Bytes::from(header);
    let mut whole = Vec::with_capacity(header.len() + body.len() + 2048);
    if let Some(signers) = signers {
        let signed = context.signatures.sign(signers, header.clone(), hasher.finish(), now().secs()).await;
        let fields = signed.map_err(|error| Failure::new((4, 7, 0), error.to_string()))?;
        whole.extend_from_slice(fields.as_bytes());
    }
    whole.extend_from_slice(&header);
    whole.extend_from_slice(b"\r\n");
    whole.extend_from_slice(&body);
    Ok(whole)
}
