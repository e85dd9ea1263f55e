//! What can be set.

/// The queue's flags.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Spool")]
pub struct Config {
    /// Octets of a segment file. The oldest segment is freed as a whole, so that this is also the step in which disk
    /// space comes back.
    #[arg(long, default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1 << 20..=1 << 30))]
    pub spool_segment_bytes: u64,
    /// Octets that the queue may take on disk; 0 leaves it to the disk's free space.
    #[arg(long, default_value_t = 0)]
    pub spool_bytes_max: u64,
    /// Octets of free disk space at which no new mail is accepted, beside what everything queued may still need; at least
    /// two segments.
    #[arg(long, default_value_t = 64 << 20)]
    pub spool_reserve_bytes: u64,
    /// Lanes that accounts are spread over; lanes are served in turn, and in a lane its accounts.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub spool_lanes: u16,
    /// Seconds after which a job is taken from a worker that gives no sign of life.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(30..))]
    pub spool_lease_secs: u64,
    /// Hours for which events are kept: what `stagepost events` and `stagepost explain` can tell.
    #[arg(long, default_value_t = 168, value_parser = clap::value_parser!(u32).range(1..))]
    pub spool_events_hours_max: u32,
    /// Octets that events may take on disk; the oldest go first. A recipient has two events or more, of some 200 to 400 octets
    /// each.
    #[arg(long, default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(16 << 20..))]
    pub spool_events_bytes_max: u64,
}

/// The same in the store's terms.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Octets after which the next segment is begun.
    pub segment_octets: u64,
    /// Octets on disk at most, 0 for no limit.
    pub octets_max: u64,
    /// Free octets on disk that accepting leaves alone.
    pub reserve_octets: u64,
    /// Octets of records that no longer count which are tolerated before the oldest segment is copied.
    pub dead_octets_max: u64,
    /// Octets of recently accepted messages that are kept in memory.
    pub cache_octets: u64,
    /// How many lanes there are, at least 1.
    pub lanes: u16,
    /// Seconds that a lease lasts without a touch.
    pub lease_secs: u64,
    /// The log of events.
    pub events: EventSettings,
}

/// How much of the log of events is kept.
#[derive(Clone, Copy, Debug)]
pub struct EventSettings {
    /// Octets after which the next file is begun.
    pub file_octets: u64,
    /// Octets on disk at most.
    pub octets_max: u64,
    /// Seconds after which events are forgotten.
    pub age_max_secs: u64,
}

impl EventSettings {
    /// Files are removed whole, so that there must be several.
    fn new(octets_max: u64, age_max_secs: u64) -> Self {
        Self { file_octets: (octets_max / 16).min(64 << 20), octets_max, age_max_secs }
    }
}

impl From<Config> for Settings {
    fn from(config: Config) -> Self {
        let Config {
            spool_segment_bytes,
            spool_bytes_max,
            spool_reserve_bytes,
            spool_lanes,
            spool_lease_secs,
            spool_events_hours_max,
            spool_events_bytes_max,
        } = config;
        let segment_octets = match spool_bytes_max {
            0 => spool_segment_bytes,
            // A limit is only kept well if it is many segments.
            limit => spool_segment_bytes.min((limit / 16).max(1 << 20)),
        };
        Self {
            segment_octets,
            octets_max: spool_bytes_max,
            // Copying a segment needs another one's room.
            reserve_octets: spool_reserve_bytes.max(2 * segment_octets),
            dead_octets_max: 256 << 20,
            cache_octets: 32 << 20,
            lanes: spool_lanes,
            lease_secs: spool_lease_secs,
            events: EventSettings::new(spool_events_bytes_max, u64::from(spool_events_hours_max) * 3600),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_octets: 64 << 20,
            octets_max: 0,
            reserve_octets: 128 << 20,
            dead_octets_max: 256 << 20,
            cache_octets: 32 << 20,
            lanes: 32,
            lease_secs: 90,
            events: EventSettings::new(1 << 30, 7 * 86_400),
        }
    }
}
