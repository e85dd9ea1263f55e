//! What the server says of its own accord.

use crate::reply::Reply;

pub(super) const OK: Reply = Reply::fixed(250, (2, 0, 0), "ok");
pub(super) const SENDER_OK: Reply = Reply::fixed(250, (2, 1, 0), "sender ok");
pub(super) const RECIPIENT_OK: Reply = Reply::fixed(250, (2, 1, 5), "recipient ok");
pub(super) const CHUNK_OK: Reply = Reply::fixed(250, (2, 0, 0), "chunk received");
pub(super) const ACCEPTED: Reply = Reply::fixed(250, (2, 0, 0), "message accepted");
pub(super) const AUTHENTICATED: Reply = Reply::fixed(235, (2, 7, 0), "authentication succeeded");
pub(super) const START_TLS: Reply = Reply::fixed(220, (2, 0, 0), "ready to start TLS");
pub(super) const BYE: Reply = Reply::fixed(221, (2, 0, 0), "goodbye");
pub(super) const CANNOT_VERIFY: Reply = Reply::fixed(252, (2, 0, 0), "cannot verify, send some mail and see");
pub(super) const HELP: Reply = Reply::fixed(214, (2, 0, 0), "see RFC 5321");

pub(super) const SEND_DATA: Reply = Reply::fixed_bare(354, "end with a dot on a line of its own");
pub(super) const CHALLENGE: Reply = Reply::fixed_bare(334, "");
/// `Username:` and `Password:` in base64, which is what clients of LOGIN expect.
pub(super) const CHALLENGE_NAME: Reply = Reply::fixed_bare(334, "VXNlcm5hbWU6");
pub(super) const CHALLENGE_PASSWORD: Reply = Reply::fixed_bare(334, "UGFzc3dvcmQ6");

pub(super) const TOO_MANY_ERRORS: Reply = Reply::fixed(421, (4, 7, 0), "too many errors, closing");
pub(super) const TOO_MANY_FAILURES: Reply =
    Reply::fixed(421, (4, 7, 0), "too many failed authentications, closing");
pub(super) const NOT_LAST: Reply =
    Reply::fixed(421, (4, 7, 0), "STARTTLS must be the last command of a group, closing");
pub(super) const TOO_MANY_RECIPIENTS: Reply = Reply::fixed(452, (4, 5, 3), "too many recipients");

pub(super) const BROKEN_LINE: Reply = Reply::fixed(500, (5, 5, 2), "bare CR, bare LF or NUL in command");
pub(super) const LONG_LINE: Reply = Reply::fixed(500, (5, 5, 2), "line too long");
pub(super) const BAD_BASE64: Reply = Reply::fixed(501, (5, 5, 2), "cannot decode response");
pub(super) const CANCELLED: Reply = Reply::fixed(501, (5, 7, 0), "authentication cancelled");
pub(super) const NO_EXPN: Reply = Reply::fixed(502, (5, 5, 1), "EXPN not implemented");
pub(super) const NO_STARTTLS: Reply = Reply::fixed(502, (5, 5, 1), "STARTTLS not offered");
pub(super) const TLS_ALREADY: Reply = Reply::fixed(503, (5, 5, 1), "TLS already active");
pub(super) const SAY_HELLO: Reply = Reply::fixed(503, (5, 5, 1), "send EHLO first");
pub(super) const SEND_MAIL: Reply = Reply::fixed(503, (5, 5, 1), "send MAIL first");
pub(super) const IN_TRANSACTION: Reply = Reply::fixed(503, (5, 5, 1), "not within a mail transaction");
pub(super) const IN_CHUNKS: Reply = Reply::fixed(503, (5, 5, 1), "not after BDAT");
pub(super) const AUTHENTICATED_ALREADY: Reply = Reply::fixed(503, (5, 5, 1), "already authenticated");
pub(super) const AUTH_REQUIRED: Reply = Reply::fixed(530, (5, 7, 0), "authentication required");
pub(super) const TLS_REQUIRED: Reply = Reply::fixed(530, (5, 7, 0), "must issue a STARTTLS command first");
pub(super) const AUTH_NEEDS_TLS: Reply =
    Reply::fixed(538, (5, 7, 11), "encryption required for authentication");
pub(super) const TOO_BIG: Reply = Reply::fixed(552, (5, 3, 4), "message too big");
pub(super) const NO_RECIPIENTS: Reply = Reply::fixed(554, (5, 5, 1), "no valid recipients");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_enhanced_code_are_of_one_class() {
        let replies = [
            OK,
            SENDER_OK,
            RECIPIENT_OK,
            CHUNK_OK,
            ACCEPTED,
            AUTHENTICATED,
            START_TLS,
            BYE,
            CANNOT_VERIFY,
            HELP,
            TOO_MANY_ERRORS,
            TOO_MANY_FAILURES,
            NOT_LAST,
            TOO_MANY_RECIPIENTS,
            BROKEN_LINE,
            LONG_LINE,
            BAD_BASE64,
            CANCELLED,
            NO_EXPN,
            NO_STARTTLS,
            TLS_ALREADY,
            SAY_HELLO,
            SEND_MAIL,
            IN_TRANSACTION,
            IN_CHUNKS,
            AUTHENTICATED_ALREADY,
            AUTH_REQUIRED,
            TLS_REQUIRED,
            AUTH_NEEDS_TLS,
            TOO_BIG,
            NO_RECIPIENTS,
        ];
        for reply in replies {
            let enhanced = reply.enhanced().unwrap();
            assert_eq!(u16::from(enhanced.class), reply.code() / 100, "{reply}");
        }
    }
}
