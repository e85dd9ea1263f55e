//! Conditions of objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    True,
    False,
    Unknown,
}

impl Holds {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What is said of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) kind: &'static str,
    pub(crate) holds: Holds,
    /// One word in CamelCase.
    pub(crate) reason: &'static str,
    /// What to do next, where something is wrong.
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn new(
        kind: &'static str,
        holds: Holds,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, holds, reason, message: message.into() }
    }
}

/// The most octets of a condition's message that the API server takes are 32768; `kubectl describe` shows it in a line.
const MESSAGE_OCTETS_MAX: usize = 1024;

/// The conditions after these verdicts, in their order. The time of a transition changes only when the status does.
pub(crate) fn after(
    before: &[Condition],
    verdicts: Vec<Verdict>,
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let condition = |verdict: Verdict| {
        let held = before.iter().find(|held| held.type_ == verdict.kind);
        let status = verdict.holds.as_str();
        let since = held.filter(|held| held.status == status).map(|held| held.last_transition_time.clone());
        let mut message = verdict.message;
        message.truncate(message.floor_char_boundary(MESSAGE_OCTETS_MAX));
        Condition {
            last_transition_time: since.unwrap_or_else(|| now.clone()),
            message,
            observed_generation: generation,
            reason: verdict.reason.into(),
            status: status.into(),
            type_: verdict.kind.into(),
        }
    };
    verdicts.into_iter().map(condition).collect()
}

/// Status and reason of a condition.
pub(crate) fn of<'a>(conditions: &'a [Condition], kind: &str) -> Option<(&'a str, &'a str)> {
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((&found.status, &found.reason))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn a_transition_has_its_time_and_a_new_reason_is_none() {
        let verdict = |holds, reason| vec![Verdict::new("Ready", holds, reason, "m")];
        let first = after(&[], verdict(Holds::False, "RecordMissing"), Some(1), &at(10));
        let second = after(&first, verdict(Holds::False, "RecordMismatch"), Some(2), &at(20));
        assert_eq!(of(&second, "Ready"), Some(("False", "RecordMismatch")));
        assert_eq!((&second[0].last_transition_time, second[0].observed_generation), (&at(10), Some(2)));
        let third = after(&second, verdict(Holds::True, "Complete"), Some(2), &at(30));
        assert_eq!(third[0].last_transition_time, at(30));
    }

    #[test]
    fn a_long_message_is_cut() {
        let verdicts = vec![Verdict::new("Ready", Holds::True, "R", "ä".repeat(2000))];
        assert_eq!(after(&[], verdicts, None, &at(0))[0].message.len(), MESSAGE_OCTETS_MAX);
    }
}
