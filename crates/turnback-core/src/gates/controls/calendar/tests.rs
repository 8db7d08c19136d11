use jiff::SignedDuration;
use jiff::civil::time;
use proptest::prelude::*;

use super::*;

const ALL: [Day; 7] = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];

fn calendar(zone: &str, days: &[Day], from: Time, until: Time) -> Calendar {
    Calendar { zone: Zone::new(zone).unwrap(), days: days.to_vec(), from, until }
}

fn open(calendar: &Calendar, at: &str) -> bool {
    calendar.open(at.parse().unwrap()).is_some()
}

#[test]
fn a_window_opens_with_its_first_minute_and_closes_after_its_last() {
    let friday = calendar("Europe/Berlin", &[Day::Fri], time(16, 0, 0, 0), time(23, 59, 0, 0));
    for (at, expected) in [
        ("2026-11-20T15:59:59.999999999+01:00", false),
        ("2026-11-20T16:00:00+01:00", true),
        ("2026-11-20T23:59:59.999999999+01:00", true),
        ("2026-11-21T00:00:00+01:00", false),
        ("2026-11-19T17:00:00+01:00", false),
        // The same hour of the clock, another moment: in summer Berlin is two hours ahead.
        ("2026-07-17T14:00:00Z", true),
        ("2026-07-17T13:59:59Z", false),
        ("2026-11-20T14:00:00Z", false),
    ] {
        assert_eq!(open(&friday, at), expected, "{at}");
    }
    assert_eq!(friday.open("2026-11-20T18:00:00Z".parse().unwrap()), Some("2026-11-20T23:00:00Z".parse().unwrap()));
    assert_eq!(friday.to_string(), "fri 16:00 to 23:59 Europe/Berlin");
}

#[test]
fn a_window_may_span_midnight() {
    let night = calendar("Europe/Berlin", &[Day::Fri], time(22, 0, 0, 0), time(5, 59, 0, 0));
    for (at, expected) in [
        ("2026-11-20T21:59:00+01:00", false),
        ("2026-11-20T22:00:00+01:00", true),
        ("2026-11-21T05:59:59+01:00", true),
        ("2026-11-21T06:00:00+01:00", false),
        ("2026-11-20T03:00:00+01:00", false),
    ] {
        assert_eq!(open(&night, at), expected, "{at}");
    }
}

/// Berlin skips 02:00–02:59 on 2027-03-28 and has it twice on 2026-10-25.
#[test]
fn where_clocks_are_set_the_stricter_reading_holds() {
    let gap = calendar("Europe/Berlin", &[Day::Sun], time(2, 15, 0, 0), time(2, 44, 0, 0));
    for (at, expected) in [
        ("2027-03-28T01:14:59+01:00", false),
        ("2027-03-28T01:15:00+01:00", true),
        ("2027-03-28T03:44:59+02:00", true),
        ("2027-03-28T03:45:00+02:00", false),
        // Both readings of the fold, and what lies between them.
        ("2026-10-25T02:14:59+02:00", false),
        ("2026-10-25T02:15:00+02:00", true),
        ("2026-10-25T02:50:00+02:00", true),
        ("2026-10-25T02:14:00+01:00", true),
        ("2026-10-25T02:44:59+01:00", true),
        ("2026-10-25T02:45:00+01:00", false),
    ] {
        assert_eq!(open(&gap, at), expected, "{at}");
    }
}

#[test]
fn zones_are_known_by_their_names_and_nothing_else() {
    for name in ["Europe/Berlin", "America/St_Johns", "UTC", "Pacific/Apia"] {
        let zone = Zone::new(name).unwrap();
        assert_eq!(zone.name(), name);
        assert_eq!(serde_json::from_str::<Zone>(&serde_json::to_string(&zone).unwrap()).unwrap(), zone);
    }
    for name in ["", "Berlin", "Europe/Atlantis", "../../etc/passwd", "CET-1CEST", "/etc/localtime"] {
        assert_eq!(Zone::new(name), Err(UnknownZone(name.to_owned())));
    }
}

/// What a calendar means, found by walking through time minute by minute; of the zone only the offset at
/// a moment is asked.
struct Walked {
    zone: TimeZone,
    from: Timestamp,
    /// What clocks show in each minute.
    shown: Vec<jiff::civil::DateTime>,
}

impl Walked {
    fn new(zone: &str, around: Timestamp, days: i64) -> Self {
        let zone = Zone::new(zone).unwrap().0;
        let from = around - SignedDuration::from_hours(24 * days);
        let shown = (0..days * 2 * 24 * 60)
            .map(|minute| {
                let at = from + SignedDuration::from_mins(minute);
                zone.to_offset(at).to_datetime(at)
            })
            .collect();
        Self { zone, from, shown }
    }

    fn at(&self, minute: usize) -> Timestamp {
        self.from + SignedDuration::from_mins(i64::try_from(minute).unwrap())
    }

    /// Every moment clocks show this; when they skip it, the moments it would be by the offset before and
    /// after the jump.
    fn moments(&self, wanted: jiff::civil::DateTime) -> Vec<Timestamp> {
        let found: Vec<_> = (0..self.shown.len()).filter(|i| self.shown[*i] == wanted).map(|i| self.at(i)).collect();
        if !found.is_empty() {
            return found;
        }
        let Some(jump) = (1..self.shown.len()).find(|i| self.shown[i - 1] < wanted && wanted < self.shown[*i]) else {
            return Vec::new();
        };
        [self.at(jump - 1), self.at(jump)]
            .into_iter()
            .map(|at| self.zone.to_offset(at).to_timestamp(wanted).unwrap())
            .collect()
    }

    /// Which minutes lie in a window.
    fn frozen(&self, calendar: &Calendar) -> Vec<bool> {
        let mut frozen = vec![false; self.shown.len()];
        let mut dates: Vec<Date> = self.shown.iter().map(|dt| dt.date()).collect();
        dates.sort_unstable();
        dates.dedup();
        let (first, last) = (dates[0], dates[dates.len() - 1]);
        let mut day = first;
        while day <= last {
            let end = if calendar.until < calendar.from { day.tomorrow().unwrap() } else { day };
            let from = self.moments(day.to_datetime(calendar.from)).into_iter().min();
            let until = self.moments(end.to_datetime(calendar.until)).into_iter().max();
            if let (Some(from), Some(until), true) = (from, until, calendar.days.contains(&Day::of(day.weekday()))) {
                for (i, minute) in frozen.iter_mut().enumerate() {
                    *minute |= from <= self.at(i) && self.at(i) <= until;
                }
            }
            day = day.tomorrow().unwrap();
        }
        frozen
    }
}

/// Days around which clocks are set: forward, back, by half an hour, at midnight, over a whole day.
const TURNS: [(&str, &str); 8] = [
    ("Europe/Berlin", "2027-03-28T01:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("America/Havana", "2026-03-08T05:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ("Asia/Kolkata", "2026-06-01T00:00:00Z"),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_walking_through_time(
        turn in 0..TURNS.len(),
        days in prop::collection::vec(0..7usize, 1..5),
        from in 0..24 * 60i32,
        until in 0..24 * 60i32,
    ) {
        let minute = |m: i32| time(i8::try_from(m / 60).unwrap(), i8::try_from(m % 60).unwrap(), 0, 0);
        let (zone, around) = TURNS[turn];
        let days: Vec<Day> = days.into_iter().map(|d| ALL[d]).collect();
        let calendar = calendar(zone, &days, minute(from), minute(until));
        let walked = Walked::new(zone, around.parse().unwrap(), 5);
        let frozen = walked.frozen(&calendar);
        // Windows at the ends of what was walked are cut off.
        for (i, frozen) in frozen.iter().enumerate().take(frozen.len() - 3 * 24 * 60).skip(2 * 24 * 60) {
            let at = walked.at(i);
            prop_assert_eq!(calendar.open(at).is_some(), *frozen, "{} {}", calendar, at);
            // Whatever the clock on the wall shows inside a window is frozen, on every reading.
            let shown = walked.shown[i];
            let (on, before) = (Day::of(shown.date().weekday()), Day::of(shown.date().yesterday().unwrap().weekday()));
            let time = shown.time();
            let naive = if calendar.from <= calendar.until {
                days.contains(&on) && calendar.from <= time && time <= calendar.until
            } else {
                (days.contains(&on) && calendar.from <= time) || (days.contains(&before) && time <= calendar.until)
            };
            prop_assert!(!naive || *frozen, "{} {}", calendar, at);
        }
    }
}
