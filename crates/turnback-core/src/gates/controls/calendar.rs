//! Weekly windows in a time zone.
//!
//! Zones come from the database built into the program, never from the machine, so that one
//! configuration means the same everywhere. Where clocks are set back or forward a time of day names two
//! moments or none: a window then begins at the earliest reading of its first minute and ends after the
//! latest reading of its last, so that it is never shorter than on another day.

use std::fmt;
use std::sync::LazyLock;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone by its IANA name: `Europe/Berlin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// No time zone has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone `{}`", crate::text::visible(.0))]
pub struct UnknownZone(pub String);

impl Zone {
    /// The zone with that name.
    ///
    /// # Errors
    /// [`UnknownZone`] when the built-in database has none.
    pub fn new(name: &str) -> Result<Self, UnknownZone> {
        let zone = ZONES.get(name).map_err(|_| UnknownZone(name.to_owned()))?;
        // Without a name it could not be recorded.
        if zone.iana_name().is_none() { Err(UnknownZone(name.to_owned())) } else { Ok(Self(zone)) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The earliest moment this date and time can mean. `None` at the end of time.
    pub fn earliest(&self, date: Date, time: Time) -> Option<Timestamp> {
        self.0.to_ambiguous_timestamp(date.to_datetime(time)).earlier().ok()
    }

    /// The latest moment this date and time can mean. `None` at the end of time.
    pub fn latest(&self, date: Date, time: Time) -> Option<Timestamp> {
        self.0.to_ambiguous_timestamp(date.to_datetime(time)).later().ok()
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "days of the week")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    const fn of(day: Weekday) -> Self {
        match day {
            Weekday::Monday => Day::Mon,
            Weekday::Tuesday => Day::Tue,
            Weekday::Wednesday => Day::Wed,
            Weekday::Thursday => Day::Thu,
            Weekday::Friday => Day::Fri,
            Weekday::Saturday => Day::Sat,
            Weekday::Sunday => Day::Sun,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Day::Mon => "mon",
            Day::Tue => "tue",
            Day::Wed => "wed",
            Day::Thu => "thu",
            Day::Fri => "fri",
            Day::Sat => "sat",
            Day::Sun => "sun",
        }
    }
}

/// A window that opens on some days of every week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calendar {
    /// Whose clocks.
    pub zone: Zone,
    /// The days it opens on.
    pub days: Vec<Day>,
    /// Its first minute.
    pub from: Time,
    /// Its last minute, which still belongs to it; before `from` it is the next day's.
    pub until: Time,
}

impl Calendar {
    /// When the window `now` lies in is over; `None` outside every window.
    pub fn open(&self, now: Timestamp) -> Option<Timestamp> {
        let today = self.zone.0.to_datetime(now).date();
        // Windows end after midnight; a zone may skip a day.
        (-2..=2)
            .filter_map(|days| today.checked_add(Span::new().days(days)).ok())
            .filter(|day| self.days.contains(&Day::of(day.weekday())))
            // What cannot be computed is open: at the end of time nobody is let through by an overflow.
            .map(|day| self.window(day).unwrap_or((Timestamp::MIN, Timestamp::MAX)))
            .filter(|(from, until)| (*from..*until).contains(&now))
            .map(|(_, until)| until)
            .max()
    }

    fn window(&self, day: Date) -> Option<(Timestamp, Timestamp)> {
        let last = if self.until < self.from { day.tomorrow().ok()? } else { day };
        let until = self.zone.latest(last, self.until)?;
        Some((self.zone.earliest(day, self.from)?, until.checked_add(jiff::SignedDuration::from_mins(1)).ok()?))
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<_> = self.days.iter().map(|day| day.word()).collect();
        let (from, until) = (self.from.strftime("%H:%M"), self.until.strftime("%H:%M"));
        write!(f, "{} {from} to {until} {}", days.join(", "), self.zone.name())
    }
}

#[cfg(test)]
mod tests;
