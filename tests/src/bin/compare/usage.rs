//! What processes use, as Linux tells it below /proc.

use std::collections::BTreeMap;
use std::fs::read_to_string;

/// CPU seconds, user and system, until now: of each name.
pub(crate) type Seconds = BTreeMap<String, f64>;

/// A process of a peer and the name under which it is counted.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) id: u32,
}

impl Part {
    /// One that is counted under its program's name.
    pub(crate) fn of_program(id: u32) -> Option<Self> {
        let name = read_to_string(format!("/proc/{id}/comm")).ok()?.trim_end().to_owned();
        Some(Self { name, id })
    }
}

/// CPU of processes by their names, with that of children that ended and were waited for.
pub(crate) fn by_process(parts: &[Part]) -> Seconds {
    let mut sums = Seconds::new();
    for Part { name, id } in parts {
        let ticks = ticks(&format!("/proc/{id}/stat"), 4).unwrap_or(0);
        *sums.entry(name.clone()).or_default() += seconds(ticks);
    }
    sums
}

/// CPU of threads that run now, by the names of their process and their own, without the numbers at the end.
pub(crate) fn by_thread(parts: &[Part]) -> Seconds {
    let mut sums = Seconds::new();
    for Part { name, id } in parts {
        let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        for thread in threads.map(|entry| entry.path()) {
            let own = read_to_string(thread.join("comm")).unwrap_or_default();
            let own =
                own.trim_end().trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '-');
            let ticks = ticks(&thread.join("stat").display().to_string(), 2).unwrap_or(0);
            *sums.entry(format!("{name}/{own}")).or_default() += seconds(ticks);
        }
    }
    sums
}

/// CPU of this process's children that ended and were waited for.
pub(crate) fn of_children() -> f64 {
    let stat = |fields| ticks("/proc/self/stat", fields).unwrap_or(0);
    seconds(stat(4) - stat(2))
}

/// What came to be since `before`, for each thousand of `count`; what is too little to be seen is left out.
pub(crate) fn for_each_1000(before: &Seconds, after: &Seconds, count: f64) -> Seconds {
    let rate = |(name, after): (&String, &f64)| {
        let seconds = after - before.get(name).copied().unwrap_or(0.0);
        (name.clone(), crate::measure::rounded(seconds * 1000.0 / count.max(1.0), 3))
    };
    after.iter().map(rate).filter(|(_, rate)| *rate > 0.0).collect()
}

/// Linux counts these in hundredths of a second everywhere.
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / 100.0
}

/// The sum of so many of utime, stime, cutime and cstime.
fn ticks(stat: &str, fields: usize) -> Option<u64> {
    let stat = read_to_string(stat).ok()?;
    let all: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    all.get(11..11 + fields)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

/// Resident octets that aren't shared, summed over all.
pub(crate) fn resident(parts: &[Part]) -> u64 {
    let of = |id: u32| {
        let statm = read_to_string(format!("/proc/{id}/statm")).ok()?;
        let pages: Vec<u64> = statm.split(' ').filter_map(|field| field.parse().ok()).collect();
        Some((pages.get(1)? - pages.get(2)?) * 4096)
    };
    parts.iter().filter_map(|part| of(part.id)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_what_was_used_between() {
        let at = |seconds: f64| Seconds::from([("a".to_owned(), seconds), ("idle".to_owned(), 1.0)]);
        assert_eq!(for_each_1000(&at(1.0), &at(3.0), 4000.0), Seconds::from([("a".to_owned(), 0.5)]));
    }

    #[test]
    fn this_process_and_its_threads_are_counted() {
        let parts = [Part { name: "me".to_owned(), id: std::process::id() }];
        assert!(resident(&parts) > 0);
        assert!(by_process(&parts).contains_key("me"));
        assert!(by_thread(&parts).keys().all(|name| name.starts_with("me/")));
    }
}
