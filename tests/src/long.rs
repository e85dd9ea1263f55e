//! Long forms: more rounds and larger numbers, run by `tests/run --long`.

/// Whether the long forms are asked for.
pub fn asked() -> bool {
    std::env::var_os("STAGEPOST_LONG").is_some_and(|value| !value.is_empty())
}

/// `short`, or `long` where the long forms are asked for.
pub fn pick<T>(short: T, long: T) -> T {
    if asked() { long } else { short }
}
